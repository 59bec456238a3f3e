//! One figure, beside its floor or its peer.

use serde::{Deserialize, Serialize};

use crate::turns::{Pair, median};

/// One figure.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Row {
    what: String,
    peer: String,
    ours: String,
    theirs: String,
    measured: f64,
    /// None for what is only told.
    goal: Option<f64>,
    unit: String,
}

/// What was measured on another machine, as it comes from there.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Report {
    /// What it was measured on, for a sentence.
    pub machine: String,
    /// The figures.
    pub rows: Vec<Row>,
    /// What a reader has to know besides.
    pub notes: Vec<String>,
    /// What could not be measured, and why.
    pub failed: Vec<String>,
}

impl Row {
    /// A ratio: the median over pairs of ours and the peer's.
    #[must_use]
    pub fn ratio(what: &str, peer: &str, goal: f64, pairs: &[Pair]) -> Row {
        let seconds = |pick: fn(&Pair) -> f64| median(pairs.iter().map(pick).collect());
        Row {
            what: what.to_owned(),
            peer: peer.to_owned(),
            ours: human(seconds(|pair| pair.0.as_secs_f64())),
            theirs: human(seconds(|pair| pair.1.as_secs_f64())),
            measured: seconds(|pair| pair.0.as_secs_f64() / pair.1.as_secs_f64()),
            goal: Some(goal),
            unit: "×".to_owned(),
        }
    }

    /// A ratio of two numbers of this unit.
    #[must_use]
    pub fn share(what: &str, peer: &str, goal: f64, (ours, theirs): (f64, f64), unit: &str) -> Row {
        Row {
            what: what.to_owned(),
            peer: peer.to_owned(),
            ours: format!("{ours:.1} {unit}"),
            theirs: format!("{theirs:.1} {unit}"),
            measured: ours / theirs,
            goal: Some(goal),
            unit: "×".to_owned(),
        }
    }

    /// A number with a limit of its own.
    #[must_use]
    pub fn limit(what: &str, peer: &str, goal: f64, measured: f64, unit: &str) -> Row {
        Row {
            what: what.to_owned(),
            peer: peer.to_owned(),
            ours: format!("{measured:.1} {unit}"),
            theirs: "–".to_owned(),
            measured,
            goal: Some(goal),
            unit: unit.to_owned(),
        }
    }

    /// The same beside its floor, which was measured in the same turns.
    #[must_use]
    pub fn beside(self, floor: f64) -> Row {
        Row { theirs: format!("{floor:.1} {}", self.unit), ..self }
    }

    /// The same without a goal: it is only told.
    #[must_use]
    pub fn only_told(self) -> Row {
        Row { goal: None, ..self }
    }

    /// Whether it is within its goal; what has none always is.
    #[must_use]
    pub fn is_met(&self) -> bool {
        self.goal.is_none_or(|goal| self.measured <= goal)
    }

    pub(crate) fn cells(&self) -> [String; 6] {
        let number = |value: f64| format!("{value:.2} {}", self.unit);
        let verdict = if self.is_met() { "" } else { " (missed)" };
        [
            self.what.clone(),
            self.peer.clone(),
            self.ours.clone(),
            self.theirs.clone(),
            number(self.measured) + verdict,
            self.goal.map_or_else(|| "–".to_owned(), |goal| format!("≤ {}", number(goal))),
        ]
    }
}

fn human(seconds: f64) -> String {
    if seconds >= 1.0 { format!("{seconds:.2} s") } else { format!("{:.2} ms", seconds * 1000.0) }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::*;

    #[test]
    fn a_ratio_is_the_median_of_the_pairs_and_not_of_the_sides() {
        let seconds = |ours, theirs| (Duration::from_secs(ours), Duration::from_secs(theirs));
        let row = Row::ratio("ours", "theirs", 2.0, &[seconds(1, 1), seconds(30, 10), seconds(8, 2)]);
        assert_eq!(row.cells(), ["ours", "theirs", "8.00 s", "2.00 s", "3.00 × (missed)", "≤ 2.00 ×"]);
        assert!(!row.is_met() && row.only_told().is_met());
    }

    #[test]
    fn it_travels_as_json() {
        let rows = vec![
            Row::limit("memory", "6 MiB", 6.0, 5.25, "MiB").beside(1.0),
            Row::share("ten", "ten others", 0.35, (3.0, 10.0), "MiB").only_told(),
        ];
        let report = Report { machine: "a host".to_owned(), rows, notes: Vec::new(), failed: Vec::new() };
        let json = serde_json::to_string(&report).unwrap();
        assert_eq!(serde_json::from_str::<Report>(&json).unwrap(), report);
        assert_eq!(report.rows[0].cells()[2..], ["5.2 MiB", "1.0 MiB", "5.25 MiB", "≤ 6.00 MiB"]);
        assert_eq!(report.rows[1].cells()[4..], ["0.30 ×", "–"]);
    }
}

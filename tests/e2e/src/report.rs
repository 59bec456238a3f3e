//! What people read of a run: the list, a line a scenario, the closing line.

use std::time::Duration;

use crate::scenario::Scenario;

/// How one scenario ended.
pub(crate) struct Outcome {
    pub(crate) name: String,
    pub(crate) took: Duration,
    /// What went wrong.
    pub(crate) failure: Option<String>,
}

/// The scenarios, each with its class, tags and description.
pub(crate) fn list(scenarios: &[&Scenario]) -> String {
    let widest = |of: fn(&Scenario) -> usize| scenarios.iter().map(|scenario| of(scenario)).max().unwrap_or(0);
    let (names, classes) = (widest(|one| one.name.len()), widest(|one| one.class.describe().len()));
    let line = |scenario: &&Scenario| {
        let class = scenario.class.describe();
        let tags: String = scenario.tags.iter().map(|tag| format!("  [{tag}]")).collect();
        format!("{:names$}  {class:classes$}  {}{tags}\n", scenario.name, scenario.about)
    };
    scenarios.iter().map(line).collect()
}

/// One line, and why it failed.
pub(crate) fn line(outcome: &Outcome) -> String {
    let took = outcome.took.as_secs_f64();
    match &outcome.failure {
        None => format!("ok    {} ({took:.1} s)", outcome.name),
        Some(why) => {
            format!("FAIL  {} ({took:.1} s)\n      {}", outcome.name, why.trim_end().replace('\n', "\n      "))
        }
    }
}

/// The failures again, then the line that a run closes with.
pub(crate) fn closing(outcomes: &[Outcome]) -> String {
    let failed: Vec<&Outcome> = outcomes.iter().filter(|outcome| outcome.failure.is_some()).collect();
    let mut text: String = failed.iter().map(|outcome| format!("failed: {}\n", outcome.name)).collect();
    text.push_str(&format!("{} passed, {} failed\n", outcomes.len() - failed.len(), failed.len()));
    text
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::scenario::Class;

    fn outcome(name: &str, failure: Option<&str>) -> Outcome {
        Outcome { name: name.to_owned(), took: Duration::from_millis(1240), failure: failure.map(str::to_owned) }
    }

    #[test]
    fn the_closing_line_stands_alone() {
        assert_eq!(closing(&[]), "0 passed, 0 failed\n");
        let outcomes = [outcome("a.b", None), outcome("a.c", Some("it broke"))];
        assert_eq!(closing(&outcomes), "failed: a.c\n1 passed, 1 failed\n");
    }

    #[test]
    fn a_failure_says_why_below_its_name() {
        assert_eq!(line(&outcome("a.b", None)), "ok    a.b (1.2 s)");
        assert_eq!(line(&outcome("a.b", Some("one\ntwo\n"))), "FAIL  a.b (1.2 s)\n      one\n      two");
    }

    #[test]
    fn a_list_is_a_table() {
        let one = Scenario { name: "a.long", about: "does a", tags: &["smoke"], class: Class::Parallel(|| Ok(())) };
        let two = Scenario { name: "b", about: "does b", tags: &[], class: Class::Alone(|| Ok(())) };
        assert_eq!(list(&[&one, &two]), "a.long  parallel  does a  [smoke]\nb       alone     does b\n");
    }
}

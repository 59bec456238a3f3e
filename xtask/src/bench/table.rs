//! The table of figures: printed, and kept in `docs/performance.md` with the machine, the date and the commit.

use std::fmt::Write as _;
use std::process::Command;
use std::time::Duration;

use anyhow::{Context, Result};

use super::host::{median, output};
use crate::root;

/// One figure.
pub(super) struct Row {
    what: String,
    peer: String,
    ours: String,
    theirs: String,
    measured: f64,
    goal: f64,
    unit: &'static str,
}

impl Row {
    /// A ratio: the median over pairs of ours and the peer's.
    pub(super) fn ratio(what: &str, peer: &str, goal: f64, pairs: &[(Duration, Duration)]) -> Row {
        let seconds =
            |pick: fn(&(Duration, Duration)) -> Duration| median(pairs.iter().map(|p| pick(p).as_secs_f64()).collect());
        Row {
            what: what.to_owned(),
            peer: peer.to_owned(),
            ours: human(seconds(|p| p.0)),
            theirs: human(seconds(|p| p.1)),
            measured: median(pairs.iter().map(|(a, b)| a.as_secs_f64() / b.as_secs_f64()).collect()),
            goal,
            unit: "×",
        }
    }

    /// A number with a limit of its own.
    pub(super) fn limit(what: &str, peer: &str, goal: f64, measured: f64, unit: &'static str) -> Row {
        Row {
            what: what.to_owned(),
            peer: peer.to_owned(),
            ours: format!("{measured:.1} {unit}"),
            theirs: "–".to_owned(),
            measured,
            goal,
            unit,
        }
    }

    /// The same beside its floor, which was measured in the same turns.
    pub(super) fn beside(self, floor: f64) -> Row {
        Row { theirs: format!("{floor:.1} {}", self.unit), ..self }
    }

    pub(super) fn is_met(&self) -> bool {
        self.measured <= self.goal
    }

    fn cells(&self) -> [String; 6] {
        let number = |value: f64| format!("{value:.2} {}", self.unit);
        let verdict = if self.is_met() { "" } else { " (missed)" };
        [
            self.what.clone(),
            self.peer.clone(),
            self.ours.clone(),
            self.theirs.clone(),
            number(self.measured) + verdict,
            format!("≤ {}", number(self.goal)),
        ]
    }
}

fn human(seconds: f64) -> String {
    if seconds >= 1.0 { format!("{seconds:.2} s") } else { format!("{:.2} ms", seconds * 1000.0) }
}

/// The table as Markdown with aligned columns.
pub(super) fn render(rows: &[Row]) -> String {
    let mut lines = vec![["what", "floor or peer", "banger", "it", "measured", "goal"].map(str::to_owned)];
    lines.extend(rows.iter().map(Row::cells));
    let width = |column: usize| lines.iter().map(|line| line[column].chars().count()).max().unwrap_or(0);
    let widths: Vec<usize> = (0..6).map(width).collect();
    let mut text = String::new();
    for (index, line) in lines.iter().enumerate() {
        for (cell, width) in line.iter().zip(&widths) {
            write!(text, "| {cell:width$} ").expect("writing to a string cannot fail");
        }
        text.push_str("|\n");
        if index == 0 {
            let rule: String = widths.iter().map(|width| format!("|{}", "-".repeat(width + 2))).collect();
            text.push_str(&rule);
            text.push_str("|\n");
        }
    }
    text
}

const BEGIN: &str = "<!-- figures: begin -->\n";
const END: &str = "<!-- figures: end -->";

/// Puts the table between the marks of `docs/performance.md`.
pub(super) fn write(rows: &[Row]) -> Result<()> {
    let path = root::repository().join("docs/performance.md");
    let page = std::fs::read_to_string(&path).with_context(|| format!("cannot read {}", path.display()))?;
    let (before, rest) = page.split_once(BEGIN).context("docs/performance.md has lost its first mark")?;
    let (_, after) = rest.split_once(END).context("docs/performance.md has lost its second mark")?;
    let text = format!("{before}{BEGIN}\n{}\n\n{}\n{END}{after}", provenance()?, render(rows));
    std::fs::write(&path, text)?;
    Ok(())
}

/// Which machine, when, which commit.
fn provenance() -> Result<String> {
    let cpu = std::fs::read_to_string("/proc/cpuinfo")?;
    let model = cpu.lines().find_map(|line| line.strip_prefix("model name")).unwrap_or("unknown processor");
    let cores = std::thread::available_parallelism()?;
    let git = |args: &[&str]| output(Command::new("git").arg("-C").arg(root::repository()).args(args));
    let commit = git(&["rev-parse", "--short=12", "HEAD"])?;
    let dirty = if git(&["status", "--porcelain", "--untracked-files=no"])?.is_empty() { "" } else { " with changes" };
    let date = output(Command::new("date").args(["-u", "+%Y-%m-%d"]))?;
    let qemu = output(Command::new("qemu-system-x86_64").arg("--version"))?;
    let qemu = qemu.lines().next().unwrap_or("QEMU");
    let model = model.trim_start_matches([' ', '\t', ':']);
    Ok(format!(
        "Measured on {date} at commit {commit}{dirty}: {cores} processors ({model}), software emulation, {qemu}."
    ))
}

//! Tables of figures in `docs/performance.md`, each with the machine, the date and the commit.

use std::process::Command;

use anyhow::{Context, Result};
use figures::Row;

use super::host::output;
use crate::root;

/// Puts a table between its marks: `<!-- NAME: begin -->` and `<!-- NAME: end -->`. `measured_on` ends the sentence about the
/// machine, and `notes` follow the table.
pub(crate) fn write(name: &str, measured_on: &str, rows: &[Row], notes: &[String]) -> Result<()> {
    let path = root::repository().join("docs/performance.md");
    let page = std::fs::read_to_string(&path).with_context(|| format!("cannot read {}", path.display()))?;
    let mut text = format!("{}\n\n{}\n", provenance(measured_on)?, figures::render(rows));
    if !notes.is_empty() {
        let notes: String = notes.iter().map(|note| format!("- {note}\n")).collect();
        text.push_str(&format!("{notes}\n"));
    }
    std::fs::write(&path, between(&page, name, &text)?)?;
    Ok(())
}

/// The page with this text between the marks of that name.
fn between(page: &str, name: &str, text: &str) -> Result<String> {
    let mark = |which: &str| format!("<!-- {name}: {which} -->\n");
    let (begin, end) = (mark("begin"), mark("end"));
    let (before, rest) = page.split_once(&begin).with_context(|| format!("docs/performance.md has lost {begin}"))?;
    let (_, after) = rest.split_once(&end).with_context(|| format!("docs/performance.md has lost {end}"))?;
    Ok(format!("{before}{begin}\n{text}{end}{after}"))
}

/// Which machine, when, which commit.
fn provenance(measured_on: &str) -> Result<String> {
    let cpu = std::fs::read_to_string("/proc/cpuinfo")?;
    let model = cpu.lines().find_map(|line| line.strip_prefix("model name")).unwrap_or("unknown processor");
    let cores = std::thread::available_parallelism()?;
    let git = |args: &[&str]| output(Command::new("git").arg("-C").arg(root::repository()).args(args));
    let commit = git(&["rev-parse", "--short=12", "HEAD"])?;
    let dirty = if git(&["status", "--porcelain", "--untracked-files=no"])?.is_empty() { "" } else { " with changes" };
    let date = output(Command::new("date").args(["-u", "+%Y-%m-%d"]))?;
    let model = model.trim_start_matches([' ', '\t', ':']);
    Ok(format!("Measured on {date} at commit {commit}{dirty}: {cores} processors ({model}), {measured_on}."))
}

/// QEMU's version, as it says it.
pub(crate) fn qemu() -> Result<String> {
    let said = output(Command::new("qemu-system-x86_64").arg("--version"))?;
    Ok(said.lines().next().unwrap_or("QEMU").to_owned())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_table_replaces_the_one_of_its_name() {
        let page = "a\n<!-- x: begin -->\nold\n<!-- x: end -->\nb\n<!-- y: begin -->\n<!-- y: end -->\n";
        let page = between(page, "x", "new\n").unwrap();
        assert_eq!(page, "a\n<!-- x: begin -->\n\nnew\n<!-- x: end -->\nb\n<!-- y: begin -->\n<!-- y: end -->\n");
        assert_eq!(between(&page, "x", "new\n").unwrap(), page);
        assert!(between(&page, "z", "new\n").is_err());
    }
}

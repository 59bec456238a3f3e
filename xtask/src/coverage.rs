//! What the real programs executed: `COVERAGE=1` of `make e2e`.
//!
//! The programs are built with counters and write them to files in the test host as they run. LLVM's own tools read
//! them, and must be as new as the compiler's LLVM or speak its formats; that is tried before anything is built.

use std::fs::{self, File};
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

use anyhow::{Context, Result, ensure};

use crate::dist::INSTRUMENT;
use crate::testhost::{Host, Unavailable};

/// Where the programs write in the host: anybody may, and a file name tells programs and processes apart.
const PROFILES: &str = "/var/lib/e2e-profiles";
/// `%c`: counters are in the file from the start; `%m`: a file for each program, which its processes share.
const PATTERN: &str = "%c%m.profraw";

/// The programs of the host that count.
const PROGRAMS: [&str; 3] = ["banger", "bangerd", "banger-helper"];

/// LLVM's tools that can read what this compiler's programs write.
pub(crate) struct Tools {
    profdata: PathBuf,
    cov: PathBuf,
}

impl Tools {
    /// The first pair that reads the counters of a small program.
    pub(crate) fn find() -> Result<Tools> {
        let trial = Trial::make()?;
        for tools in candidates()? {
            if trial.is_read_by(&tools)? {
                return Ok(tools);
            }
        }
        let hint = "scripts/packages.sh install coverage, or rustup component add llvm-tools";
        Err(Unavailable::new("no llvm-profdata and llvm-cov here read what this compiler's programs write", hint)
            .into())
    }
}

/// Every pair of tools that is here: the toolchain's own, then those in PATH, the newest first.
fn candidates() -> Result<Vec<Tools>> {
    let rustc = Command::new("rustc").args(["--print", "target-libdir"]).output().context("cannot run rustc")?;
    let libdir = PathBuf::from(String::from_utf8_lossy(&rustc.stdout).trim());
    let mut dirs: Vec<(PathBuf, String)> = vec![(libdir.join("../bin"), String::new())];
    let path = std::env::var_os("PATH").unwrap_or_default();
    for dir in std::env::split_paths(&path) {
        dirs.extend((16..=40).rev().map(|version| (dir.clone(), format!("-{version}"))));
        dirs.push((dir, String::new()));
    }
    let pair = |(dir, suffix): (PathBuf, String)| Tools {
        profdata: dir.join(format!("llvm-profdata{suffix}")),
        cov: dir.join(format!("llvm-cov{suffix}")),
    };
    Ok(dirs.into_iter().map(pair).filter(|tools| tools.profdata.exists() && tools.cov.exists()).collect())
}

/// A program that was built with counters and has run.
struct Trial {
    dir: tempfile::TempDir,
}

impl Trial {
    fn make() -> Result<Trial> {
        let dir = tempfile::tempdir().context("cannot make a directory")?;
        let (source, program) = (dir.path().join("trial.rs"), dir.path().join("trial"));
        fs::write(&source, "fn main() {}\n").context("cannot write the trial")?;
        let mut rustc = Command::new("rustc");
        rustc.args(INSTRUMENT.split(' ')).arg("-o").arg(&program).arg(&source);
        succeed(&mut rustc)?;
        succeed(Command::new(&program).env("LLVM_PROFILE_FILE", dir.path().join("trial.profraw")))?;
        Ok(Trial { dir })
    }

    fn is_read_by(&self, tools: &Tools) -> Result<bool> {
        let at = |name: &str| self.dir.path().join(name);
        let mut merge = Command::new(&tools.profdata);
        merge.arg("merge").arg(at("trial.profraw")).arg("-o").arg(at("trial.profdata"));
        let merged = merge.output().with_context(|| format!("cannot run {}", tools.profdata.display()))?;
        if !merged.status.success() {
            return Ok(false);
        }
        let mut show = Command::new(&tools.cov);
        show.arg("report").arg(at("trial")).arg("-instr-profile").arg(at("trial.profdata"));
        let shown = show.output().with_context(|| format!("cannot run {}", tools.cov.display()))?;
        Ok(shown.status.success())
    }
}

/// The start of a line of shell that runs instrumented programs.
pub(crate) fn environment() -> String {
    format!("mkdir -p -m 1777 {PROFILES}; umask 0; LLVM_PROFILE_FILE={PROFILES}/{PATTERN} ")
}

/// Fetches the counters and writes `coverage.txt`, a line a file.
pub(crate) fn report(host: &Host, tools: &Tools, target: &Path, report: &Path) -> Result<()> {
    let profiles = tempfile::tempdir().context("cannot make a directory")?;
    let names = host.shell(&format!("ls {PROFILES}"))?;
    let mut fetched = Vec::new();
    for name in names.split_whitespace().filter(|name| is_profile(name)) {
        let path = profiles.path().join(name);
        let file = File::create(&path).context("cannot make a file")?;
        let mut ssh = host.ssh("root");
        ssh.arg(format!("cat {PROFILES}/{name}")).stdin(Stdio::null()).stdout(file);
        succeed(&mut ssh)?;
        fetched.push(path);
    }
    ensure!(!fetched.is_empty(), "no instrumented program wrote its counters");
    let merged = report.join("coverage.profdata");
    succeed(Command::new(&tools.profdata).args(["merge", "-sparse"]).args(&fetched).arg("-o").arg(&merged))?;
    let mut show = Command::new(&tools.cov);
    show.arg("report").arg("-instr-profile").arg(&merged).arg("-ignore-filename-regex=(registry|rustc)/");
    let built = target.join("coverage/debug");
    let mut programs = PROGRAMS.iter().map(|name| built.join(name));
    show.args(programs.next());
    for program in programs {
        show.arg("-object").arg(program);
    }
    let path = report.join("coverage.txt");
    show.stdout(File::create(&path).with_context(|| format!("cannot make {}", path.display()))?);
    succeed(&mut show)?;
    let text = fs::read_to_string(&path).with_context(|| format!("cannot read {}", path.display()))?;
    println!("coverage: {}", total(&text).context("llvm-cov printed no total")?);
    Ok(())
}

/// Names come from the host and become file names here.
fn is_profile(name: &str) -> bool {
    name.ends_with(".profraw") && name.bytes().all(|byte| byte.is_ascii_alphanumeric() || b"._-".contains(&byte))
}

/// Lines covered, of llvm-cov's last line: regions, functions and lines have three columns each.
fn total(text: &str) -> Option<String> {
    let total: Vec<&str> = text.lines().find(|line| line.starts_with("TOTAL"))?.split_whitespace().collect();
    Some(format!("{} of {} lines", total.get(9)?, total.get(7)?))
}

fn succeed(command: &mut Command) -> Result<()> {
    let program = command.get_program().to_string_lossy().into_owned();
    let child = command.stderr(Stdio::piped()).spawn().with_context(|| format!("cannot run {program}"))?;
    let output = child.wait_with_output().with_context(|| format!("cannot wait for {program}"))?;
    let said = String::from_utf8_lossy(&output.stderr);
    ensure!(output.status.success(), "{program}: {}\n{}", output.status, said.trim());
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_total_is_that_of_lines() {
        let text = "Filename  Regions\na.rs 1 1 0.00%\n\
                    TOTAL  100  40  60.00%  20  5  75.00%  400  100  75.00%  0  0  -\n";
        assert_eq!(total(text).as_deref(), Some("75.00% of 400 lines"));
        assert_eq!(total("nothing"), None);
    }

    #[test]
    fn a_profile_is_a_plain_file_name() {
        assert!(is_profile("123_0.profraw"));
        for bad in ["../a.profraw", "a b.profraw", "a.txt", "a;b.profraw"] {
            assert!(!is_profile(bad), "{bad}");
        }
    }
}

//! A repository of 10,000 files and 200 MB: into a guest, once more with one file changed, and one changed file back.
//!
//! The floor of the first is what moving the files costs without banger: the host's tar of what git tracks, and the guest's
//! own extraction of that tar. Both sides begin with the files in the host's page cache, and neither waits for disks.

use std::fmt::Write as _;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::time::{Duration, Instant};

use anyhow::{Context, Result};
use figures::{Row, pairs};

use super::host::{Host, output, rest, time};

const FILES: usize = 10_000;
const FILES_PER_DIRECTORY: usize = 100;
/// Of a file in the mean: 200 MB in all.
const BYTES: usize = 20_000;
/// A file in the middle of the others.
const ONE: &str = "part-50/file-50.rs";
const WORDS: [&str; 32] = [
    "let", "self", "match", "return", "if", "else", "for", "fn", "struct", "impl", "use", "value", "index", "length",
    "buffer", "offset", "result", "error", "state", "request", "reply", "Some(", "None", "Ok(", ");", "{", "}", "->",
    "&mut", "==", "//", "u64",
];

pub(super) fn rows(host: &Host, runs: usize) -> Result<Vec<Row>> {
    let repository = Repository::make(&host.home.join("repository"))?;
    host.ok(&["vm", "run", "--name", "workspace", "-d", "--wait", "agent"])?;
    let measured = turns(host, &repository, runs.min(3));
    host.ok(&["vm", "delete", "--discard", "workspace"])?;
    let Measured { whole, again, export, own_status } = measured?;
    let own: Vec<(Duration, Duration)> = export.iter().map(|(ours, _)| *ours).zip(own_status).collect();
    Ok(vec![
        Row::ratio("10,000 files, 200 MB: `workspace prepare`", "tar on the host + tar in the guest", 1.5, &whole),
        Row::ratio("the same again, one file changed", "the first time", 0.15, &again),
        Row::ratio("`workspace export` of one changed file of 10,000", "`vm exec -- git status`", 1.5, &export),
        Row::ratio("the same", "`git status`, timed in the guest", 1.5, &own),
    ])
}

#[derive(Default)]
struct Measured {
    whole: Vec<(Duration, Duration)>,
    again: Vec<(Duration, Duration)>,
    export: Vec<(Duration, Duration)>,
    own_status: Vec<Duration>,
}

fn turns(host: &Host, repository: &Repository, runs: usize) -> Result<Measured> {
    let tar = host.home.join("files.tar");
    std::fs::write(&tar, repository.tar(Stdio::piped())?.context("tar's output is a pipe")?)?;
    host.ok(&["cp", &tar.to_string_lossy(), "workspace:/root/files.tar"])?;
    let mut measured = Measured::default();
    // The first turn is not counted.
    for turn in 0..=runs {
        let place = format!("/root/turn-{turn}");
        rest();
        let first = prepare(host, repository, &place)?;
        repository.change(turn)?;
        let second = prepare(host, repository, &place)?;
        let change = format!("echo '// of the guest' >>{place}/{ONE}");
        host.ok(&["vm", "exec", "workspace", "--", "sh", "-c", &change])?;
        let work = host.home.join("work.patch");
        let export = ["workspace", "export", "workspace", "-o", &work.to_string_lossy()];
        let status = ["vm", "exec", "workspace", "--", "git", "status"];
        let exports = pairs(3, || time(&mut host.banger(&export)), || time(&mut host.banger(&status)))?;
        let statuses = (0..exports.len()).map(|_| timed(host, &place, "git status"));
        let statuses = statuses.collect::<Result<Vec<_>>>()?;
        host.ok(&["vm", "exec", "workspace", "--workdir", "/", "--", "sh", "-c", &format!("rm -rf {place}; sync")])?;
        rest();
        let floor = repository.read()? + timed(host, "/root/extracted", "tar xf /root/files.tar")?;
        host.ok(&["vm", "exec", "workspace", "--workdir", "/", "--", "sh", "-c", "rm -rf /root/extracted; sync"])?;
        if turn > 0 {
            measured.whole.push((first, floor));
            measured.again.push((second, first));
            measured.export.extend(exports);
            measured.own_status.extend(statuses);
        }
    }
    Ok(measured)
}

fn prepare(host: &Host, repository: &Repository, place: &str) -> Result<Duration> {
    let path = repository.path.to_string_lossy();
    time(&mut host.banger(&["workspace", "prepare", "workspace", &path, "--guest-path", place]))
}

/// How long a command takes in a directory of the guest, by the guest's clock.
fn timed(host: &Host, place: &str, command: &str) -> Result<Duration> {
    let script = format!(
        "mkdir -p {place}; cd {place}; begun=$(date +%s%N); {command} >/dev/null; echo $(($(date +%s%N) - begun))"
    );
    let took = host.ok(&["vm", "exec", "workspace", "--workdir", "/", "--", "sh", "-ec", &script])?;
    Ok(Duration::from_nanos(took.parse()?))
}

struct Repository {
    path: PathBuf,
}

impl Repository {
    /// Makes one, of text that looks like a program's, the same every time; packed, as one that was cloned is.
    fn make(path: &Path) -> Result<Repository> {
        let repository = Repository { path: path.to_owned() };
        let mut seed = 1;
        for number in 0..FILES {
            let directory = path.join(format!("part-{}", number / FILES_PER_DIRECTORY));
            std::fs::create_dir_all(&directory)?;
            std::fs::write(directory.join(format!("file-{}.rs", number % FILES_PER_DIRECTORY)), text(&mut seed)?)?;
        }
        repository.git(&["init", "--quiet"])?;
        // It is packed once, below.
        repository.git(&["config", "gc.auto", "0"])?;
        repository.git(&["add", "--all"])?;
        repository.git(&[
            "-c",
            "user.name=bench",
            "-c",
            "user.email=bench@localhost",
            "commit",
            "--quiet",
            "-m",
            "all",
        ])?;
        repository.git(&["gc", "--quiet"])?;
        Ok(repository)
    }

    fn git(&self, args: &[&str]) -> Result<()> {
        output(Command::new("git").arg("-C").arg(&self.path).args(args))?;
        Ok(())
    }

    /// Changes one file.
    fn change(&self, turn: usize) -> Result<()> {
        let path = self.path.join(ONE);
        let mut text = std::fs::read_to_string(&path)?;
        writeln!(text, "// turn {turn}")?;
        Ok(std::fs::write(path, text)?)
    }

    /// What git tracks, as a tar stream that goes nowhere: how long that takes.
    fn read(&self) -> Result<Duration> {
        let begun = Instant::now();
        self.tar(Stdio::null())?;
        Ok(begun.elapsed())
    }

    /// The same stream; to a pipe it is given back.
    fn tar(&self, to: Stdio) -> Result<Option<Vec<u8>>> {
        // Through cat(1), because tar reads no file when it sees that nobody reads its output.
        let script = "git ls-files -z | tar c --null -T - | cat";
        let shell = Command::new("sh").args(["-c", script]).current_dir(&self.path).stdout(to).spawn()?;
        let output = shell.wait_with_output()?;
        anyhow::ensure!(output.status.success(), "{script} failed ({})", output.status);
        Ok(Some(output.stdout))
    }
}

/// Lines of words, of some 20,000 bytes.
fn text(seed: &mut u64) -> Result<String> {
    let mut next = || {
        *seed = seed.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
        usize::try_from(*seed >> 33)
    };
    let length = BYTES / 2 + next()? % BYTES;
    let mut text = String::with_capacity(length + 100);
    while text.len() < length {
        text.push_str(&" ".repeat(next()? % 4 * 4));
        for _ in 0..2 + next()? % 8 {
            let number = next()?;
            let word = WORDS[number % WORDS.len()];
            if number % 3 == 0 { write!(text, "{word}_{:x} ", number % 65_536)? } else { write!(text, "{word} ")? }
        }
        text.push('\n');
    }
    Ok(text)
}

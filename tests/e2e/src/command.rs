//! Commands with a deadline, whose output is in the failure.

use std::io::Read;
use std::process::{Command, Stdio};
use std::thread;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail, ensure};

/// What a command did.
#[derive(Debug)]
pub(crate) struct Ran {
    what: String,
    /// Its status; none when a signal ended it.
    pub(crate) code: Option<i32>,
    pub(crate) stdout: String,
    pub(crate) stderr: String,
}

impl Ran {
    /// Standard output, if the command ended with status 0.
    pub(crate) fn ok(&self) -> Result<&str> {
        self.ended_with(0)
    }

    /// Standard output, if the command ended with this status.
    pub(crate) fn ended_with(&self, code: i32) -> Result<&str> {
        let Ran { what, stdout, stderr, .. } = self;
        ensure!(
            self.code == Some(code),
            "{what}: {:?} instead of {code}\nstdout: {stdout}\nstderr: {stderr}",
            self.code
        );
        Ok(stdout.trim_end())
    }
}

/// Runs a command to its end, or ends it after `max`, which is a failure.
///
/// # Errors
/// When it cannot be started or does not end in time. Its status is the caller's to judge.
pub(crate) fn run(command: &mut Command, max: Duration) -> Result<Ran> {
    let what = describe(command);
    command.stdin(Stdio::null()).stdout(Stdio::piped()).stderr(Stdio::piped());
    let mut child = command.spawn().with_context(|| format!("cannot start {what}"))?;
    let read = |mut from: Box<dyn Read + Send>| {
        thread::spawn(move || {
            let mut bytes = Vec::new();
            // What was read before an error is what there is to show.
            drop(from.read_to_end(&mut bytes));
            String::from_utf8_lossy(&bytes).into_owned()
        })
    };
    let stdout = child.stdout.take().map(|pipe| read(Box::new(pipe))).context("no standard output")?;
    let stderr = child.stderr.take().map(|pipe| read(Box::new(pipe))).context("no standard error")?;
    let deadline = Instant::now() + max;
    let status = loop {
        if let Some(status) = child.try_wait().context("cannot wait")? {
            break status;
        }
        if Instant::now() >= deadline {
            child.kill().context("cannot kill")?;
            child.wait().context("cannot wait")?;
            // Pipes that a descendant holds may stay open: what was said is not waited for.
            bail!("{what}: did not end within {} s", max.as_secs());
        }
        thread::sleep(Duration::from_millis(20));
    };
    let text = |reader: thread::JoinHandle<String>| reader.join().unwrap_or_else(|_| "(unreadable)".to_owned());
    Ok(Ran { what, code: status.code(), stdout: text(stdout), stderr: text(stderr) })
}

/// Runs a line of shell as root and gives its standard output.
///
/// # Errors
/// When it fails.
pub(crate) fn shell(line: &str) -> Result<String> {
    run(Command::new("sh").args(["-euc", line]), Duration::from_secs(60))?.ok().map(str::to_owned)
}

fn describe(command: &Command) -> String {
    let words = std::iter::once(command.get_program()).chain(command.get_args());
    words.map(|word| word.to_string_lossy().into_owned()).collect::<Vec<_>>().join(" ")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_status_is_judged_and_output_is_in_the_failure() {
        let ran =
            run(Command::new("sh").args(["-c", "echo out; echo err >&2; exit 3"]), Duration::from_secs(20)).unwrap();
        assert_eq!(ran.ended_with(3).unwrap(), "out");
        let said = ran.ok().unwrap_err().to_string();
        assert!(said.contains("out") && said.contains("err") && said.contains("Some(3)"), "{said}");
    }

    #[test]
    fn what_does_not_end_is_ended() {
        let error = run(Command::new("sleep").arg("60"), Duration::from_millis(50)).unwrap_err();
        assert!(error.to_string().contains("did not end"), "{error}");
    }
}

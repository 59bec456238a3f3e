//! A command in a guest whose output the host reads: bounded in bytes, and in the time for which it may say nothing.

use std::time::Duration;

use bytes::Bytes;
use tokio::time::{Instant, timeout_at};
use wire::agent::message::{ExecRequest, ExitStatus};

use super::ExchangeError;
use crate::guest::untrusted;
use crate::guest::{ExecStream, Guest};

/// How long a command may say nothing: git may have to read a whole work tree before it has something to say.
const SILENCE: Duration = Duration::from_secs(600);
/// Bytes kept of the end of what a command complains.
const TAIL_BYTES: usize = 4096;
/// Characters that are told of it.
const TAIL_CHARS: usize = 1000;

/// What a command said, and how it ended.
#[derive(Debug)]
pub struct Captured {
    /// How it ended.
    pub status: ExitStatus,
    /// All of its standard output.
    pub stdout: Vec<u8>,
    /// The end of its standard error, on one line, harmless to terminals.
    pub stderr_tail: String,
}

/// Runs a command in the guest to its end, as root.
///
/// # Errors
/// When it cannot be run, says more than `stdout_max` bytes, or is silent for ten minutes.
pub async fn capture(
    guest: &Guest,
    argv: &[String],
    cwd: &str,
    env: &[(String, String)],
    stdout_max: usize,
) -> Result<Captured, ExchangeError> {
    let mut running = Running::start(guest, argv, cwd, env, stdout_max as u64).await?;
    let mut stdout = Vec::new();
    while let Some(bytes) = running.read().await? {
        stdout.extend_from_slice(&bytes);
    }
    let (status, stderr_tail) = running.finish().await?;
    Ok(Captured { status, stdout, stderr_tail })
}

/// A command that runs. Dropping it ends the command.
#[derive(Debug)]
pub(super) struct Running {
    guest: Guest,
    exec: ExecStream,
    left: u64,
    bytes_max: u64,
    complaints: Tail,
}

impl Running {
    pub(super) async fn start(
        guest: &Guest,
        argv: &[String],
        cwd: &str,
        env: &[(String, String)],
        bytes_max: u64,
    ) -> Result<Running, ExchangeError> {
        let request = ExecRequest {
            argv: argv.to_vec(),
            env: env.to_vec(),
            cwd: Some(cwd.to_owned()),
            user: Some("root".to_owned()),
            unix_ns: sys::clock::unix_ns(),
            ..ExecRequest::default()
        };
        let exec = guest.exec(request).await?;
        Ok(Running { guest: guest.clone(), exec, left: bytes_max, bytes_max, complaints: Tail::default() })
    }

    /// The next bytes of its standard output; none at their end.
    pub(super) async fn read(&mut self) -> Result<Option<Bytes>, ExchangeError> {
        let until = Instant::now() + SILENCE;
        let Some(bytes) = self.next(until).await? else { return Ok(None) };
        let too_much = ExchangeError::TooMuch { bytes_max: self.bytes_max };
        self.left = self.left.checked_sub(bytes.len() as u64).ok_or(too_much)?;
        Ok(Some(bytes))
    }

    async fn next(&mut self, until: Instant) -> Result<Option<Bytes>, ExchangeError> {
        loop {
            let turn = async {
                tokio::select! {
                    output = self.exec.read_output() => output.map(Turn::Output),
                    error = self.exec.read_error(), if !self.complaints.is_over => error.map(Turn::Complaint),
                }
            };
            let turn = self.guest.while_it_answers(turn);
            match timeout_at(until, turn).await.map_err(|_| ExchangeError::Silent { waited: SILENCE })?? {
                Turn::Output(output) => return Ok(output),
                Turn::Complaint(error) => self.complaints.add(error),
            }
        }
    }

    /// How it ended, and the end of what it complained.
    pub(super) async fn finish(&mut self) -> Result<(ExitStatus, String), ExchangeError> {
        let until = Instant::now() + SILENCE;
        let silent = |_| ExchangeError::Silent { waited: SILENCE };
        while !self.complaints.is_over {
            let error = timeout_at(until, self.exec.read_error()).await.map_err(silent)?;
            self.complaints.add(error?);
        }
        let status = timeout_at(until, self.exec.exited()).await.map_err(silent)??;
        Ok((status, self.complaints.text()))
    }
}

enum Turn {
    Output(Option<Bytes>),
    Complaint(Option<Bytes>),
}

/// The end of a stream that may have none.
#[derive(Debug, Default)]
struct Tail {
    bytes: Vec<u8>,
    is_over: bool,
}

impl Tail {
    fn add(&mut self, bytes: Option<Bytes>) {
        match bytes {
            Some(bytes) => {
                self.bytes.extend_from_slice(&bytes);
                self.bytes.drain(..self.bytes.len().saturating_sub(TAIL_BYTES));
            }
            None => self.is_over = true,
        }
    }

    /// Its last lines, joined.
    fn text(&self) -> String {
        let text = String::from_utf8_lossy(&self.bytes);
        let lines: Vec<&str> = text.lines().map(str::trim).filter(|line| !line.is_empty()).collect();
        let joined = lines.join("; ");
        let skipped = joined.chars().count().saturating_sub(TAIL_CHARS);
        untrusted::line(&joined.chars().skip(skipped).collect::<String>(), TAIL_CHARS)
    }
}

//! What git in a guest is asked, and the frame of its answer: see `guest.sh`.

use bytes::{Bytes, BytesMut};
use wire::agent::message::{ExitStatus, Failure};

use super::ExchangeError;
use super::run::Running;
use crate::guest::{Guest, GuestError};

const SCRIPT: &str = include_str!("guest.sh");
/// Longest line of the frame: two paths of `PATH_MAX`, every byte of them quoted, and what stands before them.
const LINE_BYTES_MAX: usize = 36 * 1024;
/// Lines of a header.
const HEADER_LINES_MAX: usize = 16;

/// What is asked.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Verb {
    Look,
    Patch,
    Tracked,
    Mbox,
    Pack,
}

/// What is asked of which repository.
#[derive(Debug, Clone, Copy)]
pub(super) struct Question<'a> {
    pub(super) verb: Verb,
    /// Where it is in the guest.
    pub(super) path: &'a str,
    /// What the answer begins at.
    pub(super) base: Option<&'a Commit>,
    /// What the guest was put at.
    pub(super) since: Option<&'a Commit>,
    /// Files that are not there are no change: they never were.
    pub(super) keeps_missing: bool,
    /// Renames are told as what they are: a file that is gone, and a new one.
    pub(super) is_plain: bool,
    /// Most bytes of the answer.
    pub(super) bytes_max: u64,
}

/// A commit by its name, or by the beginning of it: 4 to 64 hexadecimal digits.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Commit(String);

impl Commit {
    pub(super) fn parse(text: &str) -> Result<Commit, ExchangeError> {
        let is_commit = (4..=64).contains(&text.len()) && text.bytes().all(|byte| byte.is_ascii_hexdigit());
        if is_commit { Ok(Commit(text.to_ascii_lowercase())) } else { Err(ExchangeError::NoCommit(text.to_owned())) }
    }

    pub(super) fn as_str(&self) -> &str {
        &self.0
    }
}

/// What an answer begins with.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub(super) struct Header {
    /// The commit the guest is at.
    pub(super) head: Option<Commit>,
    /// What the answer begins at.
    pub(super) base: Option<Commit>,
    /// Commits that were made since the guest was put where it was.
    pub(super) commits: u64,
    /// Those that are not after the base.
    pub(super) left: u64,
    /// Commits after the base.
    pub(super) range: u64,
    /// Files that git could not take.
    pub(super) missing: u64,
}

impl Header {
    /// Every header has these, in this order.
    const FIRST: [&str; 4] = ["head", "base", "commits", "left"];

    /// Takes a line, the `at`th.
    fn take(&mut self, at: usize, line: &[u8]) -> Option<()> {
        let line = std::str::from_utf8(line).ok()?;
        let (name, value) = line.split_once(' ')?;
        if Header::FIRST.get(at).is_some_and(|first| *first != name) {
            return None;
        }
        let commit = || match value.len() {
            0 => Some(None),
            40 | 64 => Commit::parse(value).ok().map(Some),
            _ => None,
        };
        let number = || value.trim().parse().ok();
        match name {
            "head" => self.head = commit()?,
            "base" => self.base = commit()?,
            "commits" => self.commits = number()?,
            "left" => self.left = number()?,
            "range" => self.range = number()?,
            "missing" => self.missing = number()?,
            _ => return None,
        }
        Some(())
    }
}

/// An answer that is being read.
#[derive(Debug)]
pub(super) struct Answer {
    running: Running,
    unread: BytesMut,
    pub(super) header: Header,
    path: String,
    base: Option<Commit>,
}

impl Answer {
    /// Asks, and reads the header.
    pub(super) async fn begin(guest: &Guest, question: &Question<'_>) -> Result<Answer, ExchangeError> {
        let verb = match question.verb {
            Verb::Look => "look",
            Verb::Patch => "patch",
            Verb::Tracked => "tracked",
            Verb::Mbox => "mbox",
            Verb::Pack => "pack",
        };
        let commit = |commit: Option<&Commit>| commit.map_or("", Commit::as_str).to_owned();
        let limit = if question.keeps_missing { "kept" } else { "" };
        let argv = ["sh", "-c", SCRIPT, "banger", verb].map(str::to_owned);
        let form = if question.is_plain { "plain" } else { "" };
        let words = [commit(question.base), commit(question.since), limit.to_owned(), form.to_owned()];
        let argv = [&argv[..], &words].concat();
        let running = Running::start(guest, &argv, question.path, &[], question.bytes_max).await?;
        let mut answer = Answer {
            running,
            unread: BytesMut::new(),
            header: Header::default(),
            path: question.path.to_owned(),
            base: question.base.cloned(),
        };
        for at in 0..HEADER_LINES_MAX {
            match answer.line().await? {
                Some(line) if line.is_empty() && at >= Header::FIRST.len() => return Ok(answer),
                Some(line) => answer.header.take(at, &line).ok_or(ExchangeError::Nonsense)?,
                None => {
                    answer.finish().await?;
                    return Err(ExchangeError::Nonsense);
                }
            }
        }
        Err(ExchangeError::Nonsense)
    }

    /// The next line, without its end; none at the end of the answer.
    pub(super) async fn line(&mut self) -> Result<Option<BytesMut>, ExchangeError> {
        let mut searched = 0;
        loop {
            if let Some(at) = memchr::memchr(b'\n', &self.unread[searched..]) {
                let mut line = self.unread.split_to(searched + at + 1);
                line.truncate(searched + at);
                return Ok(Some(line));
            }
            searched = self.unread.len();
            if searched > LINE_BYTES_MAX {
                return Err(ExchangeError::Nonsense);
            }
            match self.running.read().await? {
                Some(bytes) => self.unread.extend_from_slice(&bytes),
                None if self.unread.is_empty() => return Ok(None),
                None => return Err(ExchangeError::Nonsense),
            }
        }
    }

    /// Makes sure that what follows begins with these bytes; without any, that nothing follows.
    pub(super) async fn expect(&mut self, beginning: &[u8]) -> Result<(), ExchangeError> {
        while self.unread.len() < beginning.len().max(1) {
            match self.running.read().await? {
                Some(bytes) => self.unread.extend_from_slice(&bytes),
                None => {
                    self.finish().await?;
                    return if beginning.is_empty() { Ok(()) } else { Err(ExchangeError::Nonsense) };
                }
            }
        }
        let is_as_expected = !beginning.is_empty() && self.unread.starts_with(beginning);
        if is_as_expected { Ok(()) } else { Err(ExchangeError::Nonsense) }
    }

    /// The next bytes; none at the end of the answer.
    pub(super) async fn read(&mut self) -> Result<Option<Bytes>, ExchangeError> {
        if self.unread.is_empty() {
            return self.running.read().await;
        }
        Ok(Some(self.unread.split().freeze()))
    }

    /// All that follows, up to `bytes_max`; none when it is more, or the answer is not whole.
    pub(super) async fn rest(mut self, bytes_max: usize) -> Result<Option<(Header, Bytes)>, ExchangeError> {
        while let Some(bytes) = self.running.read().await? {
            self.unread.extend_from_slice(&bytes);
            if self.unread.len() > bytes_max {
                return Ok(None);
            }
        }
        let (status, _said) = self.running.finish().await?;
        let is_whole = status == ExitStatus::Code { code: 0 };
        Ok(is_whole.then(|| (self.header, self.unread.freeze())))
    }

    /// Whether git was content, after all was read.
    pub(super) async fn finish(&mut self) -> Result<Header, ExchangeError> {
        let (status, said) = match self.running.finish().await {
            Err(ExchangeError::Guest(GuestError::Failed(Failure::ProgramNotFound { .. }))) => {
                return Err(ExchangeError::NoGit);
            }
            other => other?,
        };
        let ExitStatus::Code { code } = status else { return Err(ExchangeError::Git { said }) };
        Err(match code {
            0 => return Ok(self.header.clone()),
            90 => ExchangeError::NoGit,
            91 => ExchangeError::NoRepository { path: self.path.clone(), said },
            92 => {
                ExchangeError::NoBase { commit: self.base.as_ref().map_or_else(String::new, |commit| commit.0.clone()) }
            }
            _ => ExchangeError::Git { said },
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn commits_are_hexadecimal() {
        for good in ["abcd", "0123456789", &"F".repeat(64)] {
            assert!(Commit::parse(good).is_ok(), "{good}");
        }
        for bad in ["", "abc", "HEAD", "abcd^", "-abcd", "abcd abcd", &"0".repeat(65)] {
            assert!(Commit::parse(bad).is_err(), "{bad}");
        }
    }

    #[test]
    fn headers() {
        let mut header = Header::default();
        let head = format!("head {}", "a".repeat(40));
        for (at, line) in [head.as_str(), "base ", "commits 3", "left 0", "missing  2"].iter().enumerate() {
            header.take(at, line.as_bytes()).unwrap();
        }
        assert_eq!((header.head.unwrap().as_str().len(), header.base.clone()), (40, None));
        assert_eq!((header.commits, header.missing), (3, 2));
        for bad in ["missing", "missing -1", "other 1"] {
            assert_eq!(Header::default().take(4, bad.as_bytes()), None, "{bad:?}");
        }
        for bad in ["base ", "head abc", "head", "head \x1b[2J", &format!("head {}", "g".repeat(40))] {
            assert_eq!(Header::default().take(0, bad.as_bytes()), None, "{bad:?}");
        }
    }
}

//! The work in a guest as a stream: one patch of everything, or its commits as mail.

use std::path::Path;

use bytes::{Bytes, BytesMut};
use tokio::io::AsyncReadExt;
use wire::api::{ExportFormat, ExportQuery, Exported, Workspace};

use super::look::{Looks, Print, keeps_missing, look};
use super::raw::Record;
use super::script::{Answer, Commit, Header, Question, Verb};
use super::sent::Sent;
use super::tracked::{self, Tracked};
use super::{ExchangeError, without_git};
use crate::guest::Guest;

/// What a patch begins with.
pub(super) const PATCH: &[u8] = b"diff --git ";
/// What a mail that git makes of a commit begins with, and what follows the commit's name.
const MAIL: (&[u8], &[u8]) = (b"From ", b" Mon Sep 17 00:00:00 2001");
/// Bytes of a file read at once.
const CHUNK_BYTES: usize = 64 * 1024;

/// A patch, or mails, on the way out of a guest. Dropping it before its end tells the guest to give it up.
#[derive(Debug)]
pub struct ExportStream {
    source: Source,
    mails: Option<Mails>,
    exported: Exported,
}

#[derive(Debug)]
enum Source {
    Guest(Box<Answer>),
    Host(tokio::fs::File),
    Memory(Bytes),
    Over,
}

/// Begins to export: the stream comes when there is something to send, or nothing to be exported. `sent` gives what the host
/// remembers, by the time the guest has an answer; `bytes_max` bounds the stream; `scratch`: a directory for files of ours.
///
/// # Errors
/// When there is no workspace, what is asked for cannot be had, or the guest answers nonsense.
pub async fn export(
    guest: &Guest,
    workspace: &Workspace,
    sent: impl Future<Output = Result<Sent, ExchangeError>>,
    query: &ExportQuery,
    bytes_max: u64,
    scratch: &Path,
) -> Result<ExportStream, ExchangeError> {
    let path = query.guest_path.as_deref().unwrap_or(&workspace.guest_path);
    let is_own = path == workspace.guest_path;
    let base = query.base_commit.as_deref().map(Commit::parse).transpose()?;
    let since = workspace.base_commit.as_deref().filter(|_| is_own).map(Commit::parse).transpose()?;
    let keeps_missing = is_own && keeps_missing(workspace);
    let question = Question {
        verb: Verb::Patch,
        path,
        base: base.as_ref(),
        since: since.as_ref(),
        keeps_missing,
        is_plain: false,
        bytes_max,
    };
    match query.format {
        ExportFormat::Patch => {
            // Both take their time.
            let (tracked, sent) = tokio::join!(tracked::ask(guest, &question), sent);
            let asked = Asked { guest, workspace, sent: &sent?, is_own };
            let answer = match tracked {
                Ok(Some(Tracked { header, listed, patch })) => {
                    let exported = asked.exported(&header, &listed).await?;
                    return Ok(ExportStream { source: Source::Memory(patch), mails: None, exported });
                }
                Ok(None) => Answer::begin(guest, &question).await,
                Err(error) => Err(error),
            };
            match answer {
                Err(ExchangeError::NoGit) if is_own => {
                    let (file, exported) = without_git::patch(&asked, base.as_ref(), bytes_max, scratch).await?;
                    let source = Source::Host(tokio::fs::File::from_std(file));
                    Ok(ExportStream { source, mails: None, exported })
                }
                answer => asked.patch(&question, answer?).await,
            }
        }
        ExportFormat::Mbox => {
            let asked = Asked { guest, workspace, sent: &sent.await?, is_own };
            let base = base.as_ref().or(since.as_ref());
            asked.mbox(&Question { verb: Verb::Mbox, base, ..question }, scratch).await
        }
    }
}

/// What is exported.
#[derive(Debug, Clone, Copy)]
pub(super) struct Asked<'a> {
    pub(super) guest: &'a Guest,
    pub(super) workspace: &'a Workspace,
    pub(super) sent: &'a Sent,
    /// It is what the host sent, and no other repository of the guest's.
    pub(super) is_own: bool,
}

impl Asked<'_> {
    async fn patch(&self, question: &Question<'_>, mut answer: Answer) -> Result<ExportStream, ExchangeError> {
        let mut listed = Listed::read(&mut answer, self.sent).await?;
        if listed.has_moved_link {
            // git apply takes what is in its place now for something behind it.
            answer = Answer::begin(self.guest, &Question { is_plain: true, ..*question }).await?;
            // The state is the same, however it is told.
            listed = Listed { print: listed.print, ..Listed::read(&mut answer, self.sent).await? };
        }
        let exported = self.exported(&answer.header, &listed).await?;
        answer.expect(if listed.files > 0 { PATCH } else { b"" }).await?;
        Ok(ExportStream { source: Source::Guest(Box::new(answer)), mails: None, exported })
    }

    /// What a patch brings.
    async fn exported(&self, header: &Header, listed: &Listed) -> Result<Exported, ExchangeError> {
        let mut looks = Looks::new(self.workspace);
        looks.add_print(listed.print);
        if self.is_own {
            looks.add_nested(self.guest, self.sent).await?;
        }
        let look = looks.finish();
        let files_left_out = header.missing + listed.strays + look.nested;
        let commits_left_out = if self.is_own { header.left } else { 0 };
        let is_all = self.is_own && files_left_out == 0 && commits_left_out == 0;
        Ok(Exported {
            base_commit: header.base.as_ref().map(|base| base.as_str().to_owned()),
            head_commit: header.head.as_ref().map(|head| head.as_str().to_owned()),
            files: Some(listed.files),
            commits: if self.is_own { header.commits.saturating_sub(header.left) } else { 0 },
            commits_left_out,
            files_left_out,
            fingerprint: is_all.then_some(look.fingerprint),
            branch: None,
        })
    }

    async fn mbox(&self, question: &Question<'_>, scratch: &Path) -> Result<ExportStream, ExchangeError> {
        let without_git = |error| match error {
            ExchangeError::NoGit => ExchangeError::NeedsGit { what: "commits" },
            other => other,
        };
        let looked = match self.is_own {
            true => Some(look(self.guest, self.workspace, self.sent, scratch).await?),
            false => None,
        };
        let mut answer = Answer::begin(self.guest, question).await.map_err(without_git)?;
        let header = answer.header.clone();
        if header.range > 0 {
            answer.expect(MAIL.0).await?;
        }
        let head_commit = header.head.as_ref().map(|head| head.as_str().to_owned());
        let files_left_out = looked.as_ref().map_or(0, |look| look.uncommitted + look.nested);
        let is_all = files_left_out == 0 && looked.as_ref().is_some_and(|look| look.head == head_commit);
        let exported = Exported {
            base_commit: header.base.as_ref().map(|base| base.as_str().to_owned()),
            head_commit,
            files: None,
            commits: header.range,
            commits_left_out: if self.is_own { header.left } else { 0 },
            files_left_out,
            fingerprint: looked.filter(|_| is_all).map(|look| look.fingerprint),
            branch: None,
        };
        Ok(ExportStream { source: Source::Guest(Box::new(answer)), mails: Some(Mails::default()), exported })
    }
}

/// What stands before a patch.
#[derive(Debug)]
pub(super) struct Listed {
    /// Files that it is about.
    pub(super) files: u64,
    /// Repositories among them that the host does not know.
    pub(super) strays: u64,
    pub(super) has_moved_link: bool,
    /// Of what differs from the head.
    pub(super) print: [u8; 32],
}

impl Listed {
    async fn read(answer: &mut Answer, sent: &Sent) -> Result<Listed, ExchangeError> {
        let is_of_head = answer.header.base == answer.header.head;
        let mut print = Print::of("", answer.header.head.as_ref());
        if !is_of_head {
            while let Some(line) = answer.line().await?.filter(|line| line.as_ref() != b"=") {
                print.add(&line);
            }
        }
        let (mut files, mut strays, mut has_moved_link) = (0, 0, false);
        while let Some(line) = answer.line().await?.filter(|line| !line.is_empty()) {
            let record = Record::parse(&line).ok_or(ExchangeError::Nonsense)?;
            files += 1;
            strays += u64::from(record.is_gitlink() && !sent.is_nested(&record.path));
            has_moved_link |= record.is_moved_link();
            if is_of_head {
                print.add(&line);
            }
        }
        Ok(Listed { files, strays, has_moved_link, print: print.finish() })
    }
}

impl ExportStream {
    /// The next bytes; none at the end, when all of it was told.
    ///
    /// # Errors
    /// When the guest breaks off, says too much, or git fails in it. What was read until then is no patch.
    pub async fn read(&mut self) -> Result<Option<Bytes>, ExchangeError> {
        let bytes = match &mut self.source {
            Source::Guest(answer) => answer.read().await?,
            Source::Host(file) => read_file(file).await?,
            Source::Memory(bytes) => Some(std::mem::take(bytes)).filter(|bytes| !bytes.is_empty()),
            Source::Over => return Ok(None),
        };
        if let Some(bytes) = bytes {
            if let Some(mails) = &mut self.mails {
                mails.see(&bytes);
            }
            return Ok(Some(bytes));
        }
        if let Source::Guest(mut answer) = std::mem::replace(&mut self.source, Source::Over) {
            answer.finish().await?;
        }
        if let Some(mails) = self.mails.take() {
            leave_out(&mut self.exported, mails.finish());
        }
        Ok(None)
    }

    /// What was exported, when all of it was read.
    #[must_use]
    pub fn done(self) -> Exported {
        self.exported
    }
}

async fn read_file(file: &mut tokio::fs::File) -> Result<Option<Bytes>, ExchangeError> {
    let mut bytes = BytesMut::with_capacity(CHUNK_BYTES);
    let count = file.read_buf(&mut bytes).await.map_err(ExchangeError::Scratch)?;
    Ok((count > 0).then(|| bytes.freeze()))
}

/// Counts mails.
#[derive(Debug, Default)]
struct Mails {
    /// The beginning of a line that has not ended.
    line: Vec<u8>,
    count: u64,
}

impl Mails {
    const LINE_BYTES: usize = MAIL.0.len() + 64 + MAIL.1.len();

    fn see(&mut self, bytes: &[u8]) {
        for (at, piece) in bytes.split(|byte| *byte == b'\n').enumerate() {
            if at > 0 {
                self.end_line();
            }
            let room = (Mails::LINE_BYTES + 1).saturating_sub(self.line.len());
            self.line.extend_from_slice(&piece[..piece.len().min(room)]);
        }
    }

    fn end_line(&mut self) {
        let commit = self.line.strip_prefix(MAIL.0).and_then(|line| line.strip_suffix(MAIL.1));
        let is_commit = |name: &[u8]| matches!(name.len(), 40 | 64) && name.iter().all(u8::is_ascii_hexdigit);
        self.count += u64::from(commit.is_some_and(is_commit));
        self.line.clear();
    }

    fn finish(mut self) -> u64 {
        self.end_line();
        self.count
    }
}

/// Only so many commits became mails: merges do not.
fn leave_out(exported: &mut Exported, mails: u64) {
    exported.commits_left_out += exported.commits.saturating_sub(mails);
    exported.commits = exported.commits.min(mails);
    if exported.commits_left_out > 0 {
        exported.fingerprint = None;
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn mails_are_counted_in_pieces() {
        let name = "a".repeat(40);
        let mail = format!("From {name} Mon Sep 17 00:00:00 2001\nFrom: a\n\nFrom here\n{}\n", "x".repeat(1000));
        let text = mail.repeat(3);
        for step in [1, 7, 64, 5000] {
            let mut mails = Mails::default();
            text.as_bytes().chunks(step).for_each(|piece| mails.see(piece));
            assert_eq!(mails.finish(), 3, "{step}");
        }
    }

    #[test]
    fn commits_that_became_no_mail_are_left_out() {
        let mut exported = Exported { commits: 3, fingerprint: Some(String::new()), ..Exported::default() };
        leave_out(&mut exported, 3);
        assert!(exported.fingerprint.is_some());
        leave_out(&mut exported, 2);
        assert_eq!((exported.commits, exported.commits_left_out, exported.fingerprint), (2, 1, None));
    }
}

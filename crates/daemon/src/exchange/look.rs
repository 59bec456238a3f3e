//! What has become of a workspace in its guest.
//!
//! The agent tells which of the files that were sent are others now; git in the guest, or the host's git in its place, which
//! ones were added that git would not ignore. The fingerprint stands for the commit the guest is at and for the content of
//! all its files that are not ignored: it is made of git's list of differences from that commit, which names the objects;
//! in a guest without git, of the agent's records.

use std::collections::HashSet;
use std::path::Path;

use sha2::{Digest, Sha256};
use wire::agent::message::Failure;
use wire::agent::workspace::{Added, Difference, FileMode, Found, Surveyable, is_path};
use wire::api::{Change, ChangeKind, GuestSide, PATHS_TOLD_MAX, Workspace, WorkspaceMode};

use super::raw::Record;
use super::script::{Answer, Commit, Question, Verb};
use super::sent::{Sent, SentRepository};
use super::{ExchangeError, without_git};
use crate::guest::{Guest, GuestError};

/// Bytes of all lists of differences of a repository together.
pub(super) const LIST_BYTES_MAX: u64 = 256 << 20;

/// What has become of a workspace.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Look {
    /// The commit the guest is at; none where there is no git, or no commit.
    pub head: Option<String>,
    /// Commits that were made there since it was sent, those in submodules too.
    pub commits: u64,
    /// An index there names other files, modes or contents than the one that was sent.
    pub index_changed: bool,
    /// The files that are not as they were sent, relative to the workspace, in the order of their paths; of added ones, those
    /// that git would not ignore, with no hash where git told of them.
    pub differences: Vec<Surveyable>,
    /// Stands for the state of all of it.
    pub fingerprint: String,
    /// It is as it was sent.
    pub is_unchanged: bool,
    /// It was exported in this state, all of it.
    pub is_exported: bool,
    /// Files with changes that no commit has and that were not sent so; those in submodules are in `nested`.
    pub(super) uncommitted: u64,
    /// Changes in submodules: files and commits.
    pub(super) nested: u64,
}

/// Looks at the workspace in a guest that runs. `scratch`: a directory for files of ours.
///
/// # Errors
/// When there is none, or the guest cannot tell.
pub async fn look(guest: &Guest, workspace: &Workspace, sent: &Sent, scratch: &Path) -> Result<Look, ExchangeError> {
    let mut looks = Looks::new(workspace);
    let unknown = SentRepository { head: workspace.base_commit.clone(), ..SentRepository::default() };
    match looks.add(guest, sent, sent.top().unwrap_or(&unknown)).await {
        Err(ExchangeError::NoGit) => return without_git::look(guest, workspace, sent, scratch).await,
        added => added?,
    }
    looks.add_nested(guest, sent).await?;
    Ok(looks.finish())
}

/// Repositories, looked at one after the other.
pub(super) struct Looks<'a> {
    workspace: &'a Workspace,
    look: Look,
    digest: Sha256,
    has_moved: bool,
}

impl<'a> Looks<'a> {
    pub(super) fn new(workspace: &'a Workspace) -> Looks<'a> {
        Looks { workspace, look: Look::default(), digest: Sha256::new(), has_moved: false }
    }

    /// Looks at one repository.
    pub(super) async fn add(
        &mut self,
        guest: &Guest,
        sent: &Sent,
        repository: &SentRepository,
    ) -> Result<(), ExchangeError> {
        let path = within(&self.workspace.guest_path, &repository.path);
        let since = repository.head.as_deref().map(Commit::parse).transpose()?;
        let question = Question {
            verb: Verb::Look,
            path: &path,
            base: None,
            since: since.as_ref(),
            keeps_missing: keeps_missing(self.workspace),
            is_plain: false,
            bytes_max: LIST_BYTES_MAX,
        };
        let mut answer = Answer::begin(guest, &question).await?;
        let lists = Lists::read(&mut answer, &repository.path).await?;
        let header = answer.finish().await?;
        self.digest.update(lists.print);
        let (index_changed, mut differences) = survey(guest, &path, Added::Not).await?;
        let mut changed: HashSet<Vec<u8>> = differences.iter().map(|difference| difference.path.clone()).collect();
        for record in lists.since_sent.as_ref().unwrap_or(&lists.uncommitted) {
            if record.is_new_to(sent, repository) && changed.insert(record.path.clone()) {
                differences.push(record.added());
            }
        }
        let uncommitted = lists.uncommitted.iter().filter(|record| changed.contains(&record.path)).count() as u64;
        let has_moved = header.head != since || header.commits > 0 || header.missing > 0;
        if repository.path.is_empty() {
            self.look.head = header.head.map(|commit| commit.as_str().to_owned());
            self.look.uncommitted = uncommitted + header.missing;
        } else {
            self.look.nested += differences.len() as u64 + header.missing + u64::from(has_moved);
        }
        self.look.commits += header.commits;
        self.look.index_changed |= index_changed;
        self.has_moved |= has_moved;
        self.look.differences.extend(differences.into_iter().map(|difference| below(&repository.path, difference)));
        Ok(())
    }

    /// The submodules of a workspace; one that is gone, or is another one now, counts as a change.
    pub(super) async fn add_nested(&mut self, guest: &Guest, sent: &Sent) -> Result<(), ExchangeError> {
        for repository in sent.nested() {
            match self.add(guest, sent, repository).await {
                Err(
                    ExchangeError::NoRepository { .. }
                    | ExchangeError::NotSent { .. }
                    | ExchangeError::Guest(GuestError::Failed(Failure::Directory { .. })),
                ) => self.look.nested += 1,
                added => added?,
            }
        }
        Ok(())
    }

    /// A repository whose list was read otherwise.
    pub(super) fn add_print(&mut self, print: [u8; 32]) {
        self.digest.update(print);
    }

    pub(super) fn finish(mut self) -> Look {
        self.look.differences.sort();
        self.look.fingerprint = hex(&self.digest.finalize());
        self.look.is_unchanged =
            !self.has_moved && self.look.nested == 0 && !self.look.index_changed && self.look.differences.is_empty();
        self.look.is_exported = self.workspace.exported.as_ref() == Some(&self.look.fingerprint);
        self.look
    }
}

/// The lists of differences of one repository.
struct Lists {
    uncommitted: Vec<Record>,
    since_sent: Option<Vec<Record>>,
    print: [u8; 32],
}

impl Lists {
    async fn read(answer: &mut Answer, path: &str) -> Result<Lists, ExchangeError> {
        let mut print = Print::of(path, answer.header.head.as_ref());
        let mut uncommitted = Vec::new();
        let mut since_sent: Option<Vec<Record>> = None;
        while let Some(line) = answer.line().await? {
            if line.as_ref() == b"=" && since_sent.is_none() {
                since_sent = Some(Vec::new());
                continue;
            }
            let record = Record::parse(&line).filter(|record| is_path(&record.path)).ok_or(ExchangeError::Nonsense)?;
            if let Some(list) = &mut since_sent {
                list.push(record);
            } else {
                print.add(&line);
                uncommitted.push(record);
            }
        }
        Ok(Lists { uncommitted, since_sent, print: print.finish() })
    }
}

impl Record {
    /// Whether it is a file that was not sent.
    fn is_new_to(&self, sent: &Sent, repository: &SentRepository) -> bool {
        if self.status == b'D' || repository.files.contains_key(&self.path) {
            return false;
        }
        let is_nested = || {
            let path = within(&repository.path, &String::from_utf8_lossy(&self.path));
            sent.nested().any(|nested| nested.path == path)
        };
        !(self.is_gitlink() && is_nested())
    }

    fn added(&self) -> Surveyable {
        let mode = match self.mode {
            0o100_644 => FileMode::Plain,
            0o100_755 => FileMode::Executable,
            0o120_000 => FileMode::Link,
            _ => FileMode::Other,
        };
        Surveyable { path: self.path.clone(), difference: Difference::Added, mode, hash: [0; 32] }
    }
}

/// A digest of the commit that a repository is at, and of all that differs from it.
pub(super) struct Print(Sha256);

impl Print {
    pub(super) fn of(path: &str, head: Option<&Commit>) -> Print {
        let mut digest = Sha256::new();
        digest.update(path);
        digest.update([0]);
        digest.update(head.map_or("", Commit::as_str));
        digest.update([0]);
        Print(digest)
    }

    /// A line of the list of differences from that commit.
    pub(super) fn add(&mut self, line: &[u8]) {
        self.0.update(line);
        self.0.update([0]);
    }

    pub(super) fn finish(self) -> [u8; 32] {
        self.0.finalize().into()
    }
}

/// What the agent tells of the workspace at a path: whether its index is another, and which files are.
pub(super) async fn survey(guest: &Guest, path: &str, added: Added) -> Result<(bool, Vec<Surveyable>), ExchangeError> {
    let (surveyed, differences) = guest.survey(path, added).await?;
    match surveyed.found {
        Found::Workspace => Ok((surveyed.index_changed, differences)),
        Found::Nothing | Found::Foreign => Err(ExchangeError::NotSent { path: path.to_owned() }),
        Found::Unfinished => Err(ExchangeError::Unfinished { path: path.to_owned() }),
    }
}

/// Whether files that are not there were never sent.
pub(super) fn keeps_missing(workspace: &Workspace) -> bool {
    workspace.mode == WorkspaceMode::MetadataOnly
}

pub(super) fn below(repository: &str, difference: Surveyable) -> Surveyable {
    if repository.is_empty() {
        return difference;
    }
    let path = [repository.as_bytes(), b"/", &difference.path].concat();
    Surveyable { path, ..difference }
}

/// A path below another one, either of which may be empty.
pub(super) fn within(above: &str, path: &str) -> String {
    if above.is_empty() || path.is_empty() { format!("{above}{path}") } else { format!("{above}/{path}") }
}

pub(super) fn hex(bytes: &[u8]) -> String {
    bytes.iter().fold(String::new(), |mut text, byte| {
        text.extend([byte >> 4, byte & 15].map(|digit| char::from_digit(digit.into(), 16).unwrap_or('0')));
        text
    })
}

impl From<Look> for GuestSide {
    fn from(look: Look) -> GuestSide {
        let change = |difference: &Surveyable| Change {
            change: match difference.difference {
                Difference::Added => ChangeKind::Added,
                Difference::Modified => ChangeKind::Modified,
                Difference::Deleted => ChangeKind::Deleted,
            },
            path: String::from_utf8_lossy(&difference.path).into_owned(),
        };
        GuestSide {
            commits: look.commits,
            changes: look.differences.len() as u64,
            changed: look.differences.iter().take(PATHS_TOLD_MAX).map(change).collect(),
            exported: look.is_exported,
            problem: None,
            head_commit: look.head,
        }
    }
}

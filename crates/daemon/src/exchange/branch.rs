//! The commits in a guest, into a branch of the host's repository.

use std::io::SeekFrom;
use std::path::{Path, PathBuf};

use tokio::io::{AsyncSeekExt, AsyncWriteExt};
use wire::api::{ExportBranch, Exported, Workspace};
use wire::naming::VmName;

use super::ExchangeError;
use super::look::{keeps_missing, look};
use super::script::{Answer, Commit, Question, Verb};
use super::sent::Sent;
use super::thread::blocking;
use crate::guest::Guest;
use crate::workspace::quarantine::{Quarantine, QuarantineError};

/// Brings the commits of a workspace into the branch `banger/<vm>` of the host's repository; nothing else there changes.
/// `bytes_max` bounds what the guest sends; `scratch`: a directory for files of ours.
///
/// # Errors
/// When there is none, what the guest sends is not sound, or the branch cannot be written.
pub async fn branch(
    guest: &Guest,
    vm: &VmName,
    workspace: &Workspace,
    sent: &Sent,
    asked: &ExportBranch,
    bytes_max: u64,
    scratch: &Path,
) -> Result<Exported, ExchangeError> {
    let since = workspace.base_commit.as_deref().map(Commit::parse).transpose()?;
    let base = match &asked.base_commit {
        Some(base) => Some(Commit::parse(base)?),
        None => since.clone(),
    };
    let question = Question {
        verb: Verb::Pack,
        path: &workspace.guest_path,
        base: base.as_ref(),
        since: since.as_ref(),
        keeps_missing: keeps_missing(workspace),
        is_plain: false,
        bytes_max,
    };
    let mut answer = Answer::begin(guest, &question).await.map_err(|error| match error {
        ExchangeError::NoGit => ExchangeError::NeedsGit { what: "commits" },
        other => other,
    })?;
    let header = answer.header.clone();
    let base = header.base.as_ref().map(|base| base.as_str().to_owned());
    let none = || ExchangeError::NoCommits { base: base.clone().unwrap_or_else(|| "the beginning".to_owned()) };
    let head = header.head.as_ref().filter(|_| header.range > 0).ok_or_else(none)?.as_str().to_owned();
    let host = PathBuf::from(&workspace.host_path);
    let (into, known) = (scratch.to_owned(), base.clone());
    let quarantine = blocking(move || {
        let quarantine = Quarantine::new(&host, &into)?;
        match known {
            Some(commit) if !quarantine.host_has(&commit)? => Err(QuarantineError::NoBase { commit, path: host }),
            _ => Ok(quarantine),
        }
    })
    .await?;
    let pack = spooled(&mut answer, scratch).await?;
    answer.finish().await?;
    let quarantine = blocking(move || quarantine.take_pack(pack).map(|()| quarantine)).await?;
    let looked = look(guest, workspace, sent, scratch).await?;
    let (commit, bottom, vm) = (head.clone(), base.clone(), vm.clone());
    let branch = blocking(move || quarantine.make_branch(&commit, bottom.as_deref(), &vm)).await?;
    let files_left_out = looked.uncommitted + looked.nested;
    let is_all = files_left_out == 0 && header.left == 0 && looked.head.as_ref() == Some(&head);
    Ok(Exported {
        base_commit: base,
        head_commit: Some(head),
        branch: Some(branch),
        files: None,
        commits: header.range,
        commits_left_out: header.left,
        files_left_out,
        fingerprint: is_all.then_some(looked.fingerprint),
    })
}

/// The rest of an answer, in a file that has no name.
async fn spooled(answer: &mut Answer, scratch: &Path) -> Result<std::fs::File, ExchangeError> {
    let file = tempfile::tempfile_in(scratch).map_err(ExchangeError::Scratch)?;
    let mut to = tokio::fs::File::from_std(file);
    while let Some(bytes) = answer.read().await? {
        to.write_all(&bytes).await.map_err(ExchangeError::Scratch)?;
    }
    rewound(to).await
}

/// A file that was written, to be read from its beginning.
pub(super) async fn rewound(mut file: tokio::fs::File) -> Result<std::fs::File, ExchangeError> {
    file.flush().await.map_err(ExchangeError::Scratch)?;
    file.seek(SeekFrom::Start(0)).await.map_err(ExchangeError::Scratch)?;
    Ok(file.into_std().await)
}

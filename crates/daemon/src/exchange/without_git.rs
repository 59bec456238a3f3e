//! A workspace in a guest that has no git: the agent tells which files are others now, they are fetched, and git on the host
//! does in a quarantine what git in the guest would have done.

use std::collections::{HashMap, HashSet};
use std::path::{Path, PathBuf};

use sha2::{Digest, Sha256};
use tokio::io::AsyncWriteExt;
use wire::agent::workspace::{Added, Difference, FileMode, Surveyable};
use wire::api::{Exported, Workspace};

use super::ExchangeError;
use super::export::Asked;
use super::look::{Look, below, hex, survey, within};
use super::script::Commit;
use super::sent::{Sent, SentRepository};
use super::thread::blocking;
use crate::guest::Guest;
use crate::workspace::quarantine::{Files, Quarantine, QuarantineError, is_ignore};

/// Bytes of all files that decide what is ignored.
const IGNORES_BYTES_MAX: u64 = 64 << 20;

/// What has become of one repository.
struct Changes {
    index_changed: bool,
    /// Without added files that git would ignore.
    differences: Vec<Surveyable>,
    /// Made when files were added.
    files: Option<Files>,
}

/// Looks at a workspace.
pub(super) async fn look(
    guest: &Guest,
    workspace: &Workspace,
    sent: &Sent,
    scratch: &Path,
) -> Result<Look, ExchangeError> {
    let top = top(workspace, sent);
    let place = Place::of(guest, workspace, &top, scratch);
    let changes = place.changes().await?;
    let mut look = Look { index_changed: changes.index_changed, differences: changes.differences, ..Look::default() };
    look.nested = nested(guest, workspace, sent, scratch, &mut look.differences).await?;
    look.differences.sort();
    look.fingerprint = fingerprint(&look.differences);
    look.is_unchanged = !look.index_changed && look.differences.is_empty() && look.nested == 0;
    look.is_exported = workspace.exported.as_ref() == Some(&look.fingerprint);
    Ok(look)
}

/// Makes a patch of the workspace's own repository: an open file unless there is nothing to export.
pub(super) async fn patch(
    asked: &Asked<'_>,
    base: Option<&Commit>,
    bytes_max: u64,
    scratch: &Path,
) -> Result<(std::fs::File, Exported), ExchangeError> {
    let Asked { guest, workspace, sent, .. } = *asked;
    let top = sent.top().ok_or(ExchangeError::NoNotes)?;
    let place = Place::of(guest, workspace, top, scratch);
    let Changes { differences, files, .. } = place.changes().await?;
    let mut all = differences.clone();
    let nested = nested(guest, workspace, sent, scratch, &mut all).await?;
    all.sort();
    let (mut changed, mut removed, mut no_files) = (Vec::new(), Vec::new(), 0);
    for difference in &differences {
        let is_there = difference.difference != Difference::Deleted;
        no_files += u64::from(is_there && !is_file(difference));
        let list = if is_there && is_file(difference) { &mut changed } else { &mut removed };
        list.push(difference.path.clone());
    }
    // Those that differed from the commit when they were sent, and still are as they were then.
    let told: HashSet<&Vec<u8>> = differences.iter().map(|difference| &difference.path).collect();
    let kept = top.files.iter().filter(|(path, _)| !told.contains(path));
    let kept: HashMap<_, _> = kept.map(|(path, file)| (path.clone(), (file.mode, file.digest))).collect();
    let files = match files {
        Some(files) => files,
        None => place.files().await?,
    };
    let (files, early) = blocking(move || files.uncommitted(&kept).map(|early| (files, early))).await?;
    changed.extend(early);
    changed.sort();
    let tar = place.fetch(&changed, bytes_max).await?;
    let base = base.map(|base| base.as_str().to_owned());
    let asked_base = base.clone();
    let (file, count) = blocking(move || {
        files.unpack(std::io::BufReader::new(tar), bytes_max)?;
        files.patch(asked_base.as_deref(), &changed, &removed)
    })
    .await?;
    let files_left_out = nested + no_files;
    let exported = Exported {
        base_commit: base.or_else(|| top.head.clone()),
        files: Some(count),
        files_left_out,
        fingerprint: (files_left_out == 0).then(|| fingerprint(&all)),
        ..Exported::default()
    };
    Ok((file, exported))
}

fn is_file(file: &Surveyable) -> bool {
    let is_of_git = || file.path.split(|byte| *byte == b'/').any(|part| part.eq_ignore_ascii_case(b".git"));
    file.mode != FileMode::Other && !is_of_git()
}

fn top(workspace: &Workspace, sent: &Sent) -> SentRepository {
    let unknown = || SentRepository { head: workspace.base_commit.clone(), ..SentRepository::default() };
    sent.top().cloned().unwrap_or_else(unknown)
}

/// Looks at the submodules: how many files are changed there.
async fn nested(
    guest: &Guest,
    workspace: &Workspace,
    sent: &Sent,
    scratch: &Path,
    all: &mut Vec<Surveyable>,
) -> Result<u64, ExchangeError> {
    let mut count = 0;
    for repository in sent.nested() {
        let place = Place::of(guest, workspace, repository, scratch);
        match place.changes().await {
            Ok(changes) => {
                count += changes.differences.len() as u64;
                all.extend(changes.differences.into_iter().map(|difference| below(&repository.path, difference)));
            }
            Err(ExchangeError::NotSent { .. }) => count += 1,
            Err(error) => return Err(error),
        }
    }
    Ok(count)
}

fn fingerprint(differences: &[Surveyable]) -> String {
    let mut digest = Sha256::new();
    let mut record = Vec::new();
    for difference in differences {
        record.clear();
        difference.write(&mut record);
        digest.update(&record);
    }
    hex(&digest.finalize())
}

/// One repository, on both sides.
struct Place<'a> {
    guest: &'a Guest,
    sent: &'a SentRepository,
    guest_path: String,
    host_path: PathBuf,
    scratch: &'a Path,
}

impl<'a> Place<'a> {
    fn of(guest: &'a Guest, workspace: &Workspace, sent: &'a SentRepository, scratch: &'a Path) -> Place<'a> {
        let guest_path = within(&workspace.guest_path, &sent.path);
        let host_path = Path::new(&workspace.host_path).join(&sent.path);
        Place { guest, sent, guest_path, host_path, scratch }
    }

    async fn changes(&self) -> Result<Changes, ExchangeError> {
        let (index_changed, mut differences) = survey(self.guest, &self.guest_path, Added::Hashed).await?;
        let is_added = |file: &Surveyable| file.difference == Difference::Added;
        let added: Vec<Vec<u8>> =
            differences.iter().filter(|file| is_added(file)).map(|file| file.path.clone()).collect();
        if added.is_empty() {
            return Ok(Changes { index_changed, differences, files: None });
        }
        let files = self.files().await?;
        let mut ignores: Vec<Vec<u8>> = Vec::new();
        let mut removed = Vec::new();
        for difference in differences.iter().filter(|difference| is_ignore(&difference.path)) {
            let to = if is_file(difference) { &mut ignores } else { &mut removed };
            to.push(difference.path.clone());
        }
        // As they were sent need not be as the commit has them.
        let early = self.sent.files.keys().filter(|path| is_ignore(path) && !removed.contains(path));
        ignores.extend(early.cloned());
        ignores.sort();
        ignores.dedup();
        let tar = self.fetch(&ignores, IGNORES_BYTES_MAX).await?;
        let (files, ignored) = blocking(move || {
            files.remove_ignores(&removed)?;
            files.unpack(std::io::BufReader::new(tar), IGNORES_BYTES_MAX)?;
            let ignored = files.ignored(&added)?;
            Ok::<_, QuarantineError>((files, ignored))
        })
        .await?;
        differences.retain(|file| !is_added(file) || !ignored.contains(&file.path));
        Ok(Changes { index_changed, differences, files: Some(files) })
    }

    async fn files(&self) -> Result<Files, ExchangeError> {
        let (host, scratch, head) = (self.host_path.clone(), self.scratch.to_owned(), self.sent.head.clone());
        blocking(move || Files::of(Quarantine::new(&host, &scratch)?, head.as_deref())).await
    }

    /// Fetches files as a tar stream, into a file that has no name.
    async fn fetch(&self, paths: &[Vec<u8>], bytes_max: u64) -> Result<std::fs::File, ExchangeError> {
        let file = tempfile::tempfile_in(self.scratch).map_err(ExchangeError::Scratch)?;
        let mut to = tokio::fs::File::from_std(file);
        let stream = self.guest.get_files(&self.guest_path, paths).await?;
        let mut left = bytes_max;
        while let Some(bytes) = stream.read().await? {
            left = left.checked_sub(bytes.len() as u64).ok_or(ExchangeError::TooMuch { bytes_max })?;
            to.write_all(&bytes).await.map_err(ExchangeError::Scratch)?;
        }
        stream.done().await?;
        super::branch::rewound(to).await
    }
}

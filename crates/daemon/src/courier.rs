//! The [`Courier`] between real repositories and real guests: operations and handlers ask, `workspace` reads the host,
//! `exchange` talks to the guest. Only `main.rs` knows it.
//!
//! What it keeps of a VM, in the VM's own directory:
//!
//! | file | what |
//! |---|---|
//! | `workspace.json` | the files that were sent, and what they were like |
//! | `workspace-record.json` | what the last delivery was, until its operation has recorded it |
//! | `workspace.tmp/` | packs and patches while they are made |

use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicU64, Ordering};

use async_trait::async_trait;
use bytes::Bytes;
use wire::api::{
    ErrorCode, ExportBranch, ExportQuery, Exported, HostSide, Inspection, Workspace, WorkspaceMode, WorkspaceSource,
};

use crate::exchange::{self, ExchangeError, ExportStream, Sending, Sent};
use crate::guest::Guest;
use crate::ops::courier::{Courier, Delivered, Delivery, Looked, Outgoing};
use crate::ops::failure::caused;
use crate::ops::world::blocking;
use crate::saga::Cause;
use crate::workspace::{Notes, Repository, WorkspaceError};

/// Files that were sent, in a VM's directory.
const NOTES: &str = "workspace.json";
/// The last delivery.
const RECORD: &str = "workspace-record.json";
/// Holds what is being made.
const SCRATCH: &str = "workspace.tmp";

/// Where mise may be in a guest: where the image puts it, a package, and its own installer.
const MISE: [&str; 3] = ["/usr/local/bin/mise", "/usr/bin/mise", "/root/.local/bin/mise"];

/// Carries between this host and its guests.
#[derive(Debug, Default)]
pub struct Carrier {
    /// Numbers scratch directories, so that two exports do not share one.
    scratches: AtomicU64,
}

impl Carrier {
    fn scratch(&self, dir: &Path) -> Result<Scratch, Cause> {
        let number = self.scratches.fetch_add(1, Ordering::Relaxed);
        let path = dir.join(SCRATCH).join(number.to_string());
        // One that a daemon left which was killed has the same number.
        sys::fs::remove_tree(&path)?;
        sys::fs::create_private_dir(&dir.join(SCRATCH))?;
        sys::fs::create_private_dir(&path)?;
        Ok(Scratch(path))
    }
}

/// A directory that goes when it is not used any more.
#[derive(Debug)]
struct Scratch(PathBuf);

impl Drop for Scratch {
    fn drop(&mut self) {
        if let Err(error) = sys::fs::remove_tree(&self.0) {
            // It goes with the VM's directory at the latest.
            tracing::warn!(path = %self.0.display(), %error, "a scratch directory cannot be removed");
        }
    }
}

#[async_trait]
impl Courier for Carrier {
    fn inspect(&self, source: &WorkspaceSource, list: bool) -> Result<Inspection, Cause> {
        Ok(Repository::inspect(source).map_err(Cause::from)?.told(list))
    }

    async fn deliver(&self, guest: &Guest, delivery: Delivery) -> Result<(), Cause> {
        let Delivery { source, guest_path, force, before, dir, now_ms, report, cancelled } = delivery;
        let (asked, notes_path, is_known) = (source.clone(), dir.join(NOTES), before.is_some());
        let at = guest_path.clone();
        let (repository, container, notes) = blocking(move || {
            let repository = Repository::inspect(&asked).map_err(Cause::from)?;
            let container = repository.container(&at).container.unwrap_or_default();
            let notes = if is_known { Notes::load(&notes_path).map_err(Cause::from)? } else { None };
            Ok((repository, container, notes))
        })
        .await?;
        let scratch = self.scratch(&dir)?;
        let pins_tools = !repository.tooling().is_empty();
        let mut workspace = Workspace {
            guest_path: guest_path.clone(),
            host_path: source.host_path,
            head_commit: repository.head_commit(),
            base_commit: repository.base_commit(),
            branch: repository.branch(),
            mode: source.mode,
            include_untracked: source.include_untracked,
            made_branch: source.branch,
            from: source.from,
            depth: source.depth.filter(|_| source.mode != WorkspaceMode::FullCopy),
            prepared_at_ms: Some(now_ms),
            exported: before.and_then(|before| before.exported),
            last_look: None,
            mise: None,
            env: container.env,
        };
        let at = scratch.0.clone();
        let sending = Sending { repository, notes, guest_path, force, scratch: at, report, cancelled };
        let notes = guest.while_it_answers(exchange::send(guest, sending)).await?;
        if pins_tools {
            workspace.mise = exchange::find_program(guest, &MISE).await?;
        }
        blocking(move || {
            notes.store(&dir.join(NOTES)).map_err(Cause::from)?;
            let json = serde_json::to_vec(&workspace).map_err(|error| caused(ErrorCode::Internal, &error))?;
            drop(scratch);
            Ok(sys::fs::write_atomic(&dir.join(RECORD), &json, 0o600)?)
        })
        .await
    }

    fn delivered(&self, dir: &Path) -> Result<Option<Workspace>, Cause> {
        let bytes = match std::fs::read(dir.join(RECORD)) {
            Ok(bytes) => bytes,
            Err(error) if error.kind() == std::io::ErrorKind::NotFound => return Ok(None),
            Err(error) => return Err(caused(ErrorCode::OperationFailed, &error)),
        };
        serde_json::from_slice(&bytes).map(Some).map_err(|error| caused(ErrorCode::Internal, &error))
    }

    fn host_side(&self, dir: &Path, workspace: &Workspace) -> HostSide {
        let host = Path::new(&workspace.host_path);
        let problem = match Notes::load(&dir.join(NOTES)) {
            Ok(Some(notes)) if host.is_dir() => return notes.host_side(host),
            Ok(Some(_)) => format!("{} is gone", host.display()),
            Ok(None) => "what was sent is not known any more".to_owned(),
            Err(error) => Cause::from(error).message,
        };
        HostSide { problem: Some(problem), ..HostSide::default() }
    }

    async fn look(&self, delivered: &Delivered) -> Result<Looked, Cause> {
        let (sent, scratch) = (Sent::load(delivered.dir.join(NOTES)).await?, self.scratch(&delivered.dir)?);
        let look = exchange::look(&delivered.guest, &delivered.workspace, &sent, &scratch.0);
        let look = delivered.guest.while_it_answers(look).await?;
        Ok(Looked { is_unchanged: look.is_unchanged, side: look.into() })
    }

    async fn export(&self, delivered: &Delivered, query: &ExportQuery) -> Result<Box<dyn Outgoing>, Cause> {
        let (sent, scratch) = (Sent::load(delivered.dir.join(NOTES)), self.scratch(&delivered.dir)?);
        let Delivered { guest, workspace, bytes_max, .. } = delivered;
        let export = exchange::export(guest, workspace, sent, query, *bytes_max, &scratch.0);
        let stream = guest.while_it_answers(export).await?;
        Ok(Box::new(Leaving { stream, _scratch: scratch }))
    }

    async fn branch(&self, delivered: &Delivered, asked: &ExportBranch) -> Result<Exported, Cause> {
        let (sent, scratch) = (Sent::load(delivered.dir.join(NOTES)).await?, self.scratch(&delivered.dir)?);
        let Delivered { guest, workspace, name, bytes_max, .. } = delivered;
        let branch = exchange::branch(guest, name, workspace, &sent, asked, *bytes_max, &scratch.0);
        Ok(guest.while_it_answers(branch).await?)
    }
}

/// An export, and the directory it is made in.
struct Leaving {
    stream: ExportStream,
    _scratch: Scratch,
}

#[async_trait]
impl Outgoing for Leaving {
    async fn read(&mut self) -> Result<Option<Bytes>, Cause> {
        Ok(self.stream.read().await?)
    }

    fn done(self: Box<Self>) -> Exported {
        self.stream.done()
    }
}

impl From<WorkspaceError> for Cause {
    fn from(error: WorkspaceError) -> Cause {
        if matches!(error, WorkspaceError::Cancelled) {
            return Cause::cancelled();
        }
        let cause = caused(error.code(), &error);
        match error.hint() {
            Some(hint) => cause.with_hint(hint),
            None => cause,
        }
    }
}

impl From<ExchangeError> for Cause {
    fn from(error: ExchangeError) -> Cause {
        match error {
            ExchangeError::Guest(error) => Cause::from(error),
            ExchangeError::Workspace(error) => Cause::from(error),
            error => {
                let cause = caused(error.code(), &error);
                match error.hint() {
                    Some(hint) => cause.with_hint(hint),
                    None => cause,
                }
            }
        }
    }
}

//! A project's files in a guest: how they get there, how the two sides compare, and how the work comes back.

use serde::{Deserialize, Serialize};

use super::tooling::{DevContainer, ToolPin};
use super::tree::Change;
use crate::id::BootId;

/// Where a workspace is in a guest when nothing else is asked.
pub const WORKSPACE_PATH: &str = "/root/repo";

/// How many commits deep the history goes that travels with an overlay.
pub const WORKSPACE_DEPTH: u32 = 10;

/// Most paths that a status or an inspection names; counts are of all.
pub const PATHS_TOLD_MAX: usize = 1000;

/// The trailer of `GET /v1/vms/{vm}/workspace/export` that says what was exported: an [`Exported`] as JSON.
pub const EXPORT_TRAILER: &str = "banger-exported";

/// A project's files in a guest.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(feature = "openapi", derive(utoipa::ToSchema))]
pub struct Workspace {
    /// Where in the guest.
    pub guest_path: String,
    /// Where on the host: the top of the work tree.
    pub host_path: String,
    /// The commit the host was at, when it has one.
    pub head_commit: Option<String>,
    /// The commit the guest was put at: the host's, or what was asked for.
    #[serde(default)]
    pub base_commit: Option<String>,
    /// The branch that is checked out in the guest; none when its head is detached.
    #[serde(default)]
    pub branch: Option<String>,
    /// What of the repository went in.
    #[serde(default)]
    pub mode: WorkspaceMode,
    /// Untracked files went in too.
    #[serde(default)]
    pub include_untracked: bool,
    /// A branch that was made for the guest.
    #[serde(default)]
    pub made_branch: Option<String>,
    /// Another commit than the host's was asked for.
    #[serde(default)]
    pub from: Option<String>,
    /// How many commits deep the history goes; absent: all of it.
    #[serde(default)]
    pub depth: Option<u32>,
    /// When it was sent last, milliseconds since 1970; absent while it never was whole.
    #[serde(default)]
    pub prepared_at_ms: Option<u64>,
    /// What the guest's changes were when they were last exported: see [`Exported::fingerprint`].
    #[serde(default)]
    pub exported: Option<String>,
    /// How it was when its guest was stopped the last time.
    #[serde(default)]
    pub last_look: Option<LastLook>,
    /// Where mise is in the guest, when the repository pins tools for it: commands in the workspace run with those.
    #[serde(default)]
    pub mise: Option<String>,
    /// Set for every command in the VM, beneath what the command's own request sets: its development container's.
    #[serde(default)]
    pub env: Vec<(String, String)>,
}

/// What a guest held, that was never exported, when it was stopped.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(feature = "openapi", derive(utoipa::ToSchema))]
pub struct LastLook {
    /// Which boot that was.
    pub boot: BootId,
    /// Commits.
    pub commits: u64,
    /// Files with changes.
    pub files: u64,
}

/// What of a repository goes into a guest.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Serialize, Deserialize, Default)]
#[cfg_attr(feature = "openapi", derive(utoipa::ToSchema))]
#[serde(rename_all = "kebab-case")]
pub enum WorkspaceMode {
    /// The history to a depth, checked out, with the state of the work tree over it.
    #[default]
    Overlay,
    /// The same with the whole history.
    #[serde(alias = "full_copy")]
    FullCopy,
    /// The history to a depth, and no files.
    #[serde(alias = "metadata_only")]
    MetadataOnly,
}

impl WorkspaceMode {
    /// All of them, by their names.
    pub const ALL: [(&'static str, WorkspaceMode); 3] = [
        ("overlay", WorkspaceMode::Overlay),
        ("full-copy", WorkspaceMode::FullCopy),
        ("metadata-only", WorkspaceMode::MetadataOnly),
    ];

    /// As in `ALL`.
    #[must_use]
    pub fn name(self) -> &'static str {
        Self::ALL.iter().find(|(_, mode)| *mode == self).map_or("overlay", |(name, _)| name)
    }
}

/// Text that names no mode.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("expected one of {}", WorkspaceMode::ALL.map(|(name, _)| name).join(", "))]
pub struct WorkspaceModeError;

impl std::str::FromStr for WorkspaceMode {
    type Err = WorkspaceModeError;

    /// Words may be joined by `_` too.
    fn from_str(text: &str) -> Result<WorkspaceMode, WorkspaceModeError> {
        let text = text.replace('_', "-");
        Self::ALL.iter().find(|(name, _)| *name == text).map(|(_, mode)| *mode).ok_or(WorkspaceModeError)
    }
}

/// Which files of which repository.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, Default)]
#[cfg_attr(feature = "openapi", derive(utoipa::ToSchema))]
#[serde(deny_unknown_fields)]
pub struct WorkspaceSource {
    /// Absolute: a directory in a work tree, all of which is meant.
    pub host_path: String,
    /// What of it.
    #[serde(default)]
    pub mode: WorkspaceMode,
    /// Untracked files that are not ignored travel too.
    #[serde(default)]
    pub include_untracked: bool,
    /// A branch to make in the guest, and to check out there.
    #[serde(default)]
    pub branch: Option<String>,
    /// What that branch begins at: anything git understands on the host; absent: what the host is at. With another commit
    /// than the host's, the files are that commit's, without the state of the work tree.
    #[serde(default)]
    pub from: Option<String>,
    /// How many commits deep an overlay's history goes; absent: [`WORKSPACE_DEPTH`].
    #[serde(default)]
    pub depth: Option<u32>,
}

/// `POST /v1/workspaces/inspect`: what would travel.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, Default)]
#[cfg_attr(feature = "openapi", derive(utoipa::ToSchema))]
#[serde(deny_unknown_fields)]
pub struct InspectWorkspace {
    /// Which files.
    pub source: WorkspaceSource,
    /// Name all of them.
    #[serde(default)]
    pub list: bool,
}

/// What would travel.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, Default)]
#[cfg_attr(feature = "openapi", derive(utoipa::ToSchema))]
pub struct Inspection {
    /// The top of the work tree.
    pub root: String,
    /// What would travel of it.
    pub mode: WorkspaceMode,
    /// The commit the guest would be at; none in a repository without one.
    pub base_commit: Option<String>,
    /// The branch that would be checked out in the guest; none: a detached head.
    pub branch: Option<String>,
    /// How many files.
    pub files: u64,
    /// Their bytes.
    pub bytes: u64,
    /// Untracked files that would stay here.
    pub untracked_left_out: u64,
    /// Untracked files that would travel and look like secrets.
    pub secrets: Vec<String>,
    /// Where its submodules are.
    pub submodules: Vec<String>,
    /// Files at its top that mise reads: `.mise.toml`, `.tool-versions` and the like.
    pub tooling: Vec<String>,
    /// Versions of tools that other files pin, and none of those.
    #[serde(default)]
    pub pins: Vec<ToolPin>,
    /// The file that describes a development container, when it has one.
    pub devcontainer: Option<String>,
    /// What of that is heeded, when it can be read.
    #[serde(default)]
    pub container: Option<DevContainer>,
    /// Things a person should know.
    pub warnings: Vec<String>,
    /// The files, when they were asked for; bytes that are no text are replaced.
    pub paths: Option<Vec<String>>,
}

/// `POST /v1/vms/{vm}/workspace`: puts a repository into a guest that runs, or brings what is there up to date.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(feature = "openapi", derive(utoipa::ToSchema))]
#[serde(deny_unknown_fields)]
pub struct PrepareWorkspace {
    /// Which files; absent: those of the workspace that is there, the same way.
    #[serde(default)]
    pub source: Option<WorkspaceSource>,
    /// Where in the guest, absolute; absent: where it is, or [`WORKSPACE_PATH`].
    #[serde(default)]
    pub guest_path: Option<String>,
    /// Changes that were made in the guest may be overwritten.
    #[serde(default)]
    pub force: bool,
}

/// The query of `GET /v1/vms/{vm}/workspace`.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, Default)]
#[cfg_attr(feature = "openapi", derive(utoipa::ToSchema))]
#[serde(deny_unknown_fields)]
pub struct WorkspaceQuery {
    /// The guest is not asked.
    #[serde(default)]
    pub host_only: bool,
}

/// Both sides of a workspace.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(feature = "openapi", derive(utoipa::ToSchema))]
pub struct WorkspaceStatus {
    /// As it was prepared.
    pub workspace: Workspace,
    /// What has become of the repository since.
    pub host: HostSide,
    /// What has become of the guest's files; absent when nobody asked.
    pub guest: Option<GuestSide>,
}

/// What has become of a repository since it was sent.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, Default)]
#[cfg_attr(feature = "openapi", derive(utoipa::ToSchema))]
pub struct HostSide {
    /// The commit it is at.
    pub head_commit: Option<String>,
    /// That is another than the one that was sent.
    pub head_moved: bool,
    /// How many files are not as they were sent.
    pub changes: u64,
    /// The first of them.
    pub changed: Vec<Change>,
    /// Why nothing can be said.
    pub problem: Option<String>,
}

/// What has become of the files in a guest, as the guest says.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, Default)]
#[cfg_attr(feature = "openapi", derive(utoipa::ToSchema))]
pub struct GuestSide {
    /// The commit it is at; none where there is no git, or no commit.
    pub head_commit: Option<String>,
    /// Commits that were made there.
    pub commits: u64,
    /// How many files are not as they were sent, committed or not.
    pub changes: u64,
    /// The first of them.
    pub changed: Vec<Change>,
    /// All of it was exported.
    pub exported: bool,
    /// Why nothing can be said.
    pub problem: Option<String>,
}

/// What the work in a guest comes back as.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Serialize, Deserialize, Default)]
#[cfg_attr(feature = "openapi", derive(utoipa::ToSchema))]
#[serde(rename_all = "snake_case")]
pub enum ExportFormat {
    /// One patch for git apply, of everything.
    #[default]
    Patch,
    /// The commits for git am.
    Mbox,
}

/// The query of `GET /v1/vms/{vm}/workspace/export`.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, Default)]
#[cfg_attr(feature = "openapi", derive(utoipa::ToSchema))]
#[serde(deny_unknown_fields)]
pub struct ExportQuery {
    /// As what.
    #[serde(default)]
    pub format: ExportFormat,
    /// What it is to be applied to: a commit of the guest's repository, 4 to 64 hexadecimal digits. Absent: the guest's own
    /// head for a patch, the commit that was sent for commits.
    #[serde(default)]
    pub base_commit: Option<String>,
    /// Where in the guest, absolute; absent: the recorded workspace.
    #[serde(default)]
    pub guest_path: Option<String>,
}

/// `POST /v1/vms/{vm}/workspace/branch`: brings the guest's commits into a branch of the host's repository, `banger/<vm>`.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, Default)]
#[cfg_attr(feature = "openapi", derive(utoipa::ToSchema))]
#[serde(deny_unknown_fields)]
pub struct ExportBranch {
    /// As in [`ExportQuery`].
    #[serde(default)]
    pub base_commit: Option<String>,
}

/// What was exported.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, Default)]
#[cfg_attr(feature = "openapi", derive(utoipa::ToSchema))]
pub struct Exported {
    /// What it is to be applied to; none where there is no commit.
    pub base_commit: Option<String>,
    /// The commit the guest is at.
    pub head_commit: Option<String>,
    /// The branch it is in now, of a branch.
    #[serde(default)]
    pub branch: Option<String>,
    /// How many files it changes; of commits absent.
    #[serde(default)]
    pub files: Option<u64>,
    /// How many commits are in it.
    #[serde(default)]
    pub commits: u64,
    /// Commits of the guest's that are not in it.
    #[serde(default)]
    pub commits_left_out: u64,
    /// Files with changes that are not in it, because they are not committed, or are in a submodule.
    #[serde(default)]
    pub files_left_out: u64,
    /// Stands for all changes of the guest's, when all of them are in it: whoever has them safe says so with
    /// `POST /v1/vms/{vm}/workspace/exported`.
    #[serde(default)]
    pub fingerprint: Option<String>,
}

/// `POST /v1/vms/{vm}/workspace/exported`: what was exported is safe.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(feature = "openapi", derive(utoipa::ToSchema))]
#[serde(deny_unknown_fields)]
pub struct KeepExported {
    /// As in [`Exported::fingerprint`].
    pub fingerprint: String,
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn modes_have_two_spellings() {
        for (name, mode) in WorkspaceMode::ALL {
            assert_eq!(name.parse(), Ok(mode));
            assert_eq!(name.replace('-', "_").parse(), Ok(mode));
            assert_eq!(mode.name(), name);
            assert_eq!(serde_json::to_value(mode).unwrap(), name);
        }
        assert_eq!("shallow".parse::<WorkspaceMode>(), Err(WorkspaceModeError));
        assert_eq!(serde_json::from_str::<WorkspaceMode>("\"full_copy\"").unwrap(), WorkspaceMode::FullCopy);
    }

    #[test]
    fn records_of_older_daemons_are_read() {
        let old = r#"{"guest_path":"/root/repo","host_path":"/src/app","head_commit":"abc"}"#;
        let workspace: Workspace = serde_json::from_str(old).unwrap();
        assert_eq!((workspace.mode, workspace.prepared_at_ms), (WorkspaceMode::Overlay, None));
    }
}

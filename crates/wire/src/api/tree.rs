//! Files into a guest and out of it.

use serde::{Deserialize, Serialize};

pub use crate::agent::message::FileKind;

/// The trailer of `GET /v1/vms/{vm}/tree` that says why the stream is not complete: an [`super::ApiError`] as JSON. It is
/// sent to whoever asks with `te: trailers`; for others the answer is broken off.
pub const ERROR_TRAILER: &str = "banger-error";

/// The query of `PUT /v1/vms/{vm}/tree`.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(feature = "openapi", derive(utoipa::ToSchema))]
#[serde(deny_unknown_fields)]
pub struct TreeQuery {
    /// Absolute path in the guest.
    pub path: String,
}

/// The query of `GET /v1/vms/{vm}/tree` and `GET /v1/vms/{vm}/file`.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(feature = "openapi", derive(utoipa::ToSchema))]
#[serde(deny_unknown_fields)]
pub struct FileQuery {
    /// Absolute path in the guest.
    pub path: String,
    /// When it is a symbolic link, what it leads to is meant.
    #[serde(default)]
    pub follow: bool,
}

/// What a tree transfer moved.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(feature = "openapi", derive(utoipa::ToSchema))]
pub struct TreeDone {
    /// Bytes of file content.
    pub bytes: u64,
}

/// One change of a guest's system layer, against its image. `GET /v1/vms/{vm}/changes` tells one a line.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(feature = "openapi", derive(utoipa::ToSchema))]
pub struct Change {
    /// What became of it.
    pub change: ChangeKind,
    /// Absolute, in the guest; bytes that are no text are replaced.
    pub path: String,
}

/// What became of a file.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[cfg_attr(feature = "openapi", derive(utoipa::ToSchema))]
#[serde(rename_all = "snake_case")]
pub enum ChangeKind {
    /// The image has none of it.
    Added,
    /// It is another than the image's.
    Modified,
    /// The image has it.
    Deleted,
}

/// What is at a path of a guest, as the guest says.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(feature = "openapi", derive(utoipa::ToSchema))]
pub struct GuestFile {
    /// What it is.
    pub kind: FileKind,
    /// A file's length.
    pub bytes: u64,
    /// Its path with every link on the way resolved.
    pub path: Option<String>,
}

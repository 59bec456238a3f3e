//! What an agent says is at a path of its guest.

use serde::{Deserialize, Serialize};

/// What is at a path.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct FileStat {
    /// What it is.
    pub kind: FileKind,
    /// A file's length.
    pub bytes: u64,
    /// Its path with every link on the way resolved; none when it is missing or its name is not fit to be told.
    #[serde(default)]
    pub path: Option<String>,
}

/// What can be at a path.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[cfg_attr(feature = "openapi", derive(utoipa::ToSchema))]
#[serde(rename_all = "snake_case")]
pub enum FileKind {
    /// Nothing.
    Missing,
    /// A regular file.
    File,
    /// A directory.
    Directory,
    /// A symbolic link that was not followed.
    Symlink,
    /// A device, a pipe or a socket.
    Special,
}

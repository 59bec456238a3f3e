//! What a repository's own files ask of the machine it is worked on in: versions of tools, and a development container.

use serde::{Deserialize, Serialize};

/// The session that installs the tools a workspace pins.
pub const TOOLING_SESSION: &str = "tooling";

/// The session that runs a development container's `postCreateCommand`.
pub const POST_CREATE_SESSION: &str = "post-create";

/// A version of a tool that a file asks for.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(feature = "openapi", derive(utoipa::ToSchema))]
pub struct ToolPin {
    /// As mise calls it: `go`, `node`, `python`, `rust`.
    pub tool: String,
    /// As mise takes it: `1.25`, `lts`.
    pub version: String,
    /// The file, from the top of the repository.
    pub file: String,
}

/// What is heeded of a `devcontainer.json` (containers.dev).
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, Default)]
#[cfg_attr(feature = "openapi", derive(utoipa::ToSchema))]
pub struct DevContainer {
    /// The image it wants.
    #[serde(default)]
    pub image: Option<String>,
    /// `containerEnv`: name and value, for every command.
    #[serde(default)]
    pub env: Vec<(String, String)>,
    /// `forwardPorts`, those of the container itself.
    #[serde(default)]
    pub ports: Vec<u16>,
    /// `postCreateCommand`: one shell command for each of its parts.
    #[serde(default)]
    pub post_create: Vec<String>,
}

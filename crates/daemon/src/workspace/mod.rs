//! The host's side of a workspace.

mod error;
mod git;
pub mod quarantine;

pub use error::WorkspaceError;

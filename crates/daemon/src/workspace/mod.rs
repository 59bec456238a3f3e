//! A project's repository on the host, on its way into a guest: read with git and never written to, turned into one tar
//! stream that makes the guest's repository, its git directory included, without any git there.
//!
//! ```text
//! Repository::inspect(source) ─► .told()                        what would travel
//!           .plan(notes, found in the guest, …) ─► Transfer     what does, or who is in conflict
//! Transfer::remove, stream, settle, notes
//! Notes::host_side(root)                                        what has become of the host's side since
//! ```
//!
//! | module | what |
//! |---|---|
//! | `git` | the one gate to the git CLI: nothing of a repository is run |
//! | `repository` `listing` `secrets` `told` | what there is |
//! | `tooling` `pins` `devcontainer` | what its own files ask of the machine |
//! | `files` `lfs` | files of a work tree, opened safely; what git has instead of some |
//! | `config` `control` `index` | what the guest's git directory is to hold |
//! | `history` `objects` `pack` | as much of the history as travels |
//! | `notes` | what was sent |
//! | [`quarantine`] | what comes out of a guest, before it is let into the repository |
//! | `plan` `transfer` | what travels, and the stream |
//! | [`quarantine`] | where what comes out of a guest becomes git objects, and may become a branch |
//!
//! Nothing of another branch, no hook, no credential and nothing that git would run there travels. Filters are not run
//! either: files travel as the work tree has them.

mod config;
mod control;
mod devcontainer;
mod error;
mod files;
mod git;
mod history;
mod index;
mod lfs;
mod listing;
mod notes;
mod objects;
mod pack;
mod pins;
mod plan;
pub mod quarantine;
mod repository;
mod secrets;
mod shown;
mod told;
mod tooling;
mod transfer;

pub use error::WorkspaceError;
pub use notes::Notes;
pub use plan::GuestFound;
pub use repository::Repository;
pub use tooling::Container;
pub use transfer::Transfer;

#[cfg(test)]
mod tests;

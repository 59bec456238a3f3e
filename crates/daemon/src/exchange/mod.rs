//! Host and guest about a workspace: how the guest's files stand to what was sent, and how the work in them comes back.
//!
//! | file | what |
//! |---|---|
//! | [`capture`] | a command in a guest, bounded |
//! | [`find_program`] | where a guest has a program |
//! | [`send`](send()) | a repository into a guest |
//! | `guest.sh`, `script` | what git in the guest is asked, and the frame of its answer |
//! | `raw` | git's list of differences |
//! | [`Sent`] | what the host remembers of what it sent |
//! | [`look`](look()) | what has become of it, and the fingerprint of that |
//! | [`export`](export()) | a patch, or commits as mail |
//! | `tracked` | a small patch of files that git knows already, which takes it half the time |
//! | [`branch`](branch()) | commits in a branch of the host's repository |
//! | `without_git` | the same patch when the guest has no git |
//! | `thread` | work that blocks |
//! | `error` | what can go wrong |
//!
//! All that a guest says is its own word: it is bounded in bytes and time, and nothing of it names a file that the host
//! writes. A patch is passed on as it comes; whoever applies it does so with git, which refuses names that lead elsewhere.
//! What is looked at here is that it begins as one. Objects become part of the host's repository only after a quarantine:
//! [`crate::workspace::quarantine`].

mod branch;
mod error;
mod export;
mod look;
mod program;
mod raw;
mod run;
mod script;
mod send;
mod sent;
mod thread;
mod tracked;
mod without_git;

pub use branch::branch;
pub use error::ExchangeError;
pub use export::{ExportStream, export};
pub use look::{Look, look};
pub use program::find_program;
pub use run::{Captured, capture};
pub use send::{Sending, send};
pub use sent::{Sent, SentFile, SentRepository};

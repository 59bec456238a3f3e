//! A workspace's files: what the host sent of them, and what the guest made of them since.
//!
//! | module | what |
//! |---|---|
//! | [`settle`] | takes down what was sent, and fills in the index |
//! | [`survey`] | tells what is not as it was sent |
//! | [`remove`] | removes files, and the directories that are empty then |
//! | [`notes`] | what was taken down, as a file |
//! | [`index`] | git's index: read, its stat fields filled in |
//! | [`directories`] | names beneath the workspace, and what is there |
//! | [`records`] | lists from the host |
//!
//! Nothing here runs git or needs it. No link below the workspace is followed: every name is resolved beneath it by the
//! kernel, so that what a guest put in a directory's place leads nowhere else.

pub mod directories;
pub mod index;
pub mod notes;
pub mod records;
pub mod remove;
pub mod settle;
pub mod survey;

#[cfg(test)]
mod tests;

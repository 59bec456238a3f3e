//! What is asked about a workspace; what is done is in [`crate::workspace`].

use std::io::{self, BufReader, BufWriter, Read};
use std::os::fd::OwnedFd;

use rustix::fs::OFlags;
use tree::pack::pack_files;
use wire::agent::message::{Failure, Reply};
use wire::agent::workspace::{Added, Found, NAMES_BYTES_MAX, Surveyed, is_path};

use super::requests::{TREE_BUFFER_BYTES, absolute, os, tree_failure};
use super::worker::Hands;
use crate::root_dir::RootDir;
use crate::workspace::{remove, settle, survey};

/// Removes files below `path`.
pub fn remove(path: &str, hands: Hands) -> Result<Reply, Failure> {
    let bytes = match opened(path, hands.root)? {
        Ok(top) => remove::remove(top, hands.input).map_err(|error| tree_failure(&error))?,
        Err(error) if error.kind() == io::ErrorKind::NotFound => 0,
        Err(error) => return Err(unopened(path, &error)),
    };
    Ok(Reply::Done { bytes })
}

/// Takes down what was sent to `path`.
pub fn settle(path: &str, hands: Hands) -> Result<Reply, Failure> {
    let top = opened(path, hands.root)?.map_err(|error| unopened(path, &error))?;
    let bytes = settle::settle(top, hands.input).map_err(|error| tree_failure(&error))?;
    Ok(Reply::Done { bytes })
}

/// Tells what at `path` is not as it was sent.
pub fn survey(path: &str, added: Added, hands: Hands) -> Result<Reply, Failure> {
    let without = |found| Ok(Reply::Surveyed(Surveyed { found, index_changed: false }));
    let top = match opened(path, hands.root)? {
        Ok(top) => top,
        Err(error) if error.kind() == io::ErrorKind::NotFound => return without(Found::Nothing),
        Err(error) if error.kind() == io::ErrorKind::NotADirectory => return without(Found::Foreign),
        Err(error) => return Err(unopened(path, &error)),
    };
    let to = BufWriter::with_capacity(TREE_BUFFER_BYTES, hands.output);
    survey::survey(top, added, to).map(Reply::Surveyed).map_err(|error| tree_failure(&error))
}

/// Packs files below `path`.
pub fn get_files(path: &str, hands: Hands) -> Result<Reply, Failure> {
    let top = opened(path, hands.root)?.map_err(|error| unopened(path, &error))?;
    let mut names = Vec::new();
    // A host reads nothing before it has said all: packing while names come could stop both.
    let read = BufReader::new(hands.input).take(NAMES_BYTES_MAX + 1).read_to_end(&mut names);
    read.map_err(|error| os("cannot read the list of files to send", &error))?;
    if names.len() as u64 > NAMES_BYTES_MAX {
        return Err(Failure::Refused { why: "the list of files to send has more than 64 MiB".to_owned() });
    }
    let names = || names.split_inclusive(|byte| *byte == 0).map(|name| name.strip_suffix(b"\0").unwrap_or_default());
    if !names().all(is_path) {
        return Err(Failure::Refused { why: "a name in the list is no path beneath the workspace".to_owned() });
    }
    let to = BufWriter::with_capacity(TREE_BUFFER_BYTES, hands.output);
    let packed = pack_files(top, names(), to).map_err(|error| tree_failure(&error))?;
    Ok(Reply::Done { bytes: packed.bytes })
}

/// The directory `path`, or why it is none.
fn opened(path: &str, root: OwnedFd) -> Result<io::Result<OwnedFd>, Failure> {
    Ok(RootDir::from_fd(root).open_at(absolute(path)?, OFlags::RDONLY | OFlags::DIRECTORY))
}

fn unopened(path: &str, error: &io::Error) -> Failure {
    os(&format!("cannot open the workspace {path} in the guest"), error)
}

//! Files of a workspace that are to go.

use std::collections::BTreeSet;
use std::io::Read;
use std::os::fd::OwnedFd;

use rustix::fs::{AtFlags, unlinkat};
use rustix::io::Errno;
use tree::TreeError;

use super::directories::{Directories, or_none, split};
use super::records::Records;

/// Removes the files and links beneath `top` whose paths come from `names`, and the directories that are empty then. Gives
/// how many files and links there were.
///
/// # Errors
/// When one of them cannot be removed; those before it are.
pub fn remove(top: OwnedFd, names: impl Read) -> Result<u64, TreeError> {
    let mut directories = Directories::new(top);
    let mut names = Records::new(names);
    let mut left: BTreeSet<Vec<u8>> = BTreeSet::new();
    let mut count = 0;
    while let Some(path) = names.path().map_err(TreeError::during("read the list of", b"files to remove"))? {
        let Some(place) = directories.place(path).map_err(TreeError::during("open the directory of", path))? else {
            continue;
        };
        let parent = split(path).0;
        if !parent.is_empty() && !left.contains(parent) {
            left.insert(parent.to_vec());
        }
        match unlinkat(place.directory, place.name, AtFlags::empty()) {
            // A directory goes when it is empty.
            Err(Errno::ISDIR) => {
                left.insert(path.to_vec());
            }
            other => count += u64::from(or_none(other).map_err(TreeError::during("remove", path))?.is_some()),
        }
    }
    let mut directories = directories.afresh();
    // The deepest come first: a path sorts behind the directories it is in.
    while let Some(path) = left.pop_last() {
        let place = directories.place(&path).map_err(TreeError::during("open the directory of", &path))?;
        let Some(place) = place else { continue };
        match unlinkat(place.directory, place.name, AtFlags::REMOVEDIR) {
            // Somebody works in it, or something is mounted there.
            Err(Errno::NOTEMPTY | Errno::EXIST | Errno::BUSY) => {}
            other => {
                let is_gone = or_none(other).map_err(TreeError::during("remove the directory", &path))?.is_some();
                let parent = split(&path).0;
                if is_gone && !parent.is_empty() {
                    left.insert(parent.to_vec());
                }
            }
        }
    }
    Ok(count)
}

//! Paths are bytes: joined, given to the kernel, and shown to people.

use std::ffi::OsStr;
use std::os::unix::ffi::OsStrExt;

/// As the kernel takes it.
pub(super) fn os(path: &[u8]) -> &OsStr {
    OsStr::from_bytes(path)
}

/// For people; bytes that are no text are replaced.
pub(super) fn text(path: &[u8]) -> String {
    String::from_utf8_lossy(path).into_owned()
}

/// `path` below `top`, which may be empty.
pub(super) fn below(top: &[u8], path: &[u8]) -> Vec<u8> {
    if top.is_empty() { path.to_vec() } else { [top, b"/", path].concat() }
}

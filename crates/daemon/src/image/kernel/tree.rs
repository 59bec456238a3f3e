//! The module drive: a kernel's module tree as a read-only filesystem.

use std::fs::{self, File};
use std::io;
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};

use super::KernelError;
use super::package::is_of_modules;
use crate::image::ext4::{self, Attributes, Kind, Links, Namespace, Written};
use crate::image::stream::copy;
use crate::model::digest::Digest;
use crate::model::progress::Watcher;

/// How deep a module tree may nest; the kernel's own is 9.
const DEPTH_MAX: usize = 32;

/// Files of a tree in sorted order, as paths relative to it. Links and special files are left out: a tree has only
/// `build` and `source`, which lead to headers that are not here.
pub(crate) fn files(dir: &Path) -> Result<Vec<PathBuf>, KernelError> {
    let mut found = Vec::new();
    let mut open = vec![PathBuf::new()];
    while let Some(below) = open.pop() {
        let here = dir.join(&below);
        let failed = |err| KernelError::Read { path: here.clone(), err };
        if below.components().count() > DEPTH_MAX || found.len() > ext4::ENTRIES_MAX {
            return Err(failed(io::Error::other("the module tree is too deep or too large")));
        }
        for entry in fs::read_dir(&here).map_err(failed)? {
            let entry = entry.map_err(failed)?;
            let kind = entry.file_type().map_err(failed)?;
            let path = below.join(entry.file_name());
            if kind.is_dir() {
                open.push(path);
            } else if kind.is_file() {
                found.push(path);
            }
        }
    }
    found.sort();
    Ok(found)
}

/// Copies a module tree, so that it can be indexed without touching the original. A kernel, its symbols or an initramfs that
/// lie in it stay behind.
pub(crate) fn copy_tree(from: &Path, to: &Path, watcher: Watcher<'_>) -> Result<(), KernelError> {
    sys::fs::create_private_dir(to)?;
    for below in files(from)? {
        if !below.to_str().is_none_or(is_of_modules) {
            continue;
        }
        let (source, target) = (from.join(&below), to.join(&below));
        if let Some(parent) = target.parent() {
            sys::fs::create_private_dir(parent)?;
        }
        let failed = |err| KernelError::Read { path: source.clone(), err };
        let mut reader = File::open(&source).map_err(failed)?;
        let mut writer = sys::fs::create_new(&target, 0o600)?;
        copy(&mut reader, &mut writer, watcher).map_err(failed)?;
    }
    Ok(())
}

/// Writes the tree `dir` to the new filesystem `image`: owned by root, without times, so that equal trees give equal bytes.
pub(crate) fn write(dir: &Path, image: &Path, watcher: Watcher<'_>) -> Result<Written, KernelError> {
    let directory = Attributes { mode: 0o755, uid: 0, gid: 0, mtime: (0, 0) };
    let mut tree = Namespace::new(directory, Links::Refused);
    let files = files(dir)?;
    let mut names = Vec::new();
    for (index, below) in files.iter().enumerate() {
        let path = dir.join(below);
        let failed = |err| KernelError::Read { path: path.clone(), err };
        let metadata = fs::symlink_metadata(&path).map_err(failed)?;
        let name = below.to_str().ok_or_else(|| failed(io::Error::other("its name is not UTF-8")))?;
        let executable = metadata.permissions().mode() & 0o111 != 0;
        let mode = if executable { 0o755 } else { 0o644 };
        let kind = Kind::File { size_bytes: metadata.len(), ranges: None, content: index as u64 };
        tree.add(name, kind, Attributes { mode, ..directory }, Vec::new())?;
        names.push(format!("{name}\0{}\0", metadata.len()));
    }
    let identity = Digest::of_parts(names.iter().map(String::as_bytes));
    let open = |index: u64| File::open(dir.join(&files[index as usize]));
    Ok(ext4::write(&tree, image, identity, "banger-modules", open, watcher)?)
}

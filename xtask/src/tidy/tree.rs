//! The files a check looks at: every text file that git tracks or would track, whole and in memory.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::process::Command;

use anyhow::{Context, Result, bail};

use super::source::Source;

/// A file of the tree.
pub(super) struct File {
    /// Relative to the repository's root, with `/`.
    pub(super) path: String,
    pub(super) text: String,
}

impl File {
    pub(super) fn is_rust(&self) -> bool {
        self.has_suffix(".rs")
    }

    pub(super) fn is_markdown(&self) -> bool {
        self.has_suffix(".md")
    }

    fn has_suffix(&self, suffix: &str) -> bool {
        self.path.ends_with(suffix)
    }
}

/// Every text file of the repository.
pub(super) struct Tree {
    /// Where the repository is on this machine.
    pub(super) root: PathBuf,
    /// In order of path.
    pub(super) files: Vec<File>,
    sources: BTreeMap<String, Source>,
}

impl Tree {
    pub(super) fn read(root: &Path) -> Result<Self> {
        let listing = Command::new("git")
            .current_dir(root)
            .args(["ls-files", "-z", "--cached", "--others", "--exclude-standard"])
            .output()
            .context("cannot run git")?;
        if !listing.status.success() {
            bail!("git ls-files failed: {}", String::from_utf8_lossy(&listing.stderr).trim());
        }
        let listing = String::from_utf8(listing.stdout).context("a file name is not UTF-8")?;
        let mut files = Vec::new();
        for path in listing.split('\0').filter(|path| !path.is_empty()) {
            // A file deleted but not yet committed is still listed; a symbolic link or a binary has no text to check.
            let full = root.join(path);
            if !full.symlink_metadata().is_ok_and(|meta| meta.is_file()) {
                continue;
            }
            let bytes = std::fs::read(&full).with_context(|| format!("cannot read {}", full.display()))?;
            if let Ok(text) = String::from_utf8(bytes) {
                files.push((path.to_owned(), text));
            }
        }
        Ok(Self::new(root, files))
    }

    fn new(root: &Path, mut files: Vec<(String, String)>) -> Self {
        files.sort();
        files.dedup_by(|later, earlier| later.0 == earlier.0);
        let files: Vec<File> = files.into_iter().map(|(path, text)| File { path, text }).collect();
        let sources = files
            .iter()
            .filter(|file| file.is_rust())
            .map(|file| (file.path.clone(), Source::split(&file.text)))
            .collect();
        Tree { root: root.to_path_buf(), files, sources }
    }

    /// A tree that exists only in a test.
    #[cfg(test)]
    pub(super) fn of(files: &[(&str, &str)]) -> Self {
        let files = files.iter().map(|(path, text)| ((*path).to_owned(), (*text).to_owned())).collect();
        Self::new(Path::new("/srv/checkouts/banger"), files)
    }

    pub(super) fn text(&self, path: &str) -> Option<&str> {
        self.files.binary_search_by(|file| file.path.as_str().cmp(path)).ok().map(|at| self.files[at].text.as_str())
    }

    /// Whether a file or a directory of the tree has this path.
    pub(super) fn has(&self, path: &str) -> bool {
        self.text(path).is_some()
            || path.is_empty()
            || self.files.iter().any(|file| file.path.strip_prefix(path).is_some_and(|rest| rest.starts_with('/')))
    }

    /// Every Rust file, split.
    pub(super) fn sources(&self) -> impl Iterator<Item = (&str, &Source)> {
        self.sources.iter().map(|(path, source)| (path.as_str(), source))
    }

    pub(super) fn markdown(&self) -> impl Iterator<Item = &File> {
        self.files.iter().filter(|file| file.is_markdown())
    }
}

//! `[[file_sync]]`: files of the host that every boot gets below `/root`.
//!
//! They travel inside the boot's configuration, so there is a limit to them. What is missing or too large is left out with a
//! warning: a boot does not fail for a file.

use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};

use serde::Deserialize;
use wire::agent::message::SyncedFile;

use super::{Config, expanded, is_rooted};

/// Most bytes of all files together.
const BYTES_MAX: u64 = 1024 * 1024;
/// Most files of one directory.
const FILES_MAX: usize = 256;
/// Permission bits of a file whose entry says none.
const MODE: u32 = 0o600;

/// One `[[file_sync]]`.
#[derive(Debug, Clone, PartialEq, Eq, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct FileSync {
    /// On the host: a file or a directory, absolute or `~/…`.
    pub host: String,
    /// In the guest: below `~/` or `/root/`.
    pub guest: String,
    /// Permission bits of a file, octal: `0600`. The files of a directory keep their own.
    pub mode: Option<String>,
}

impl Config {
    /// Reads the files of `file_sync`, `home` standing for `~`: what the guest gets, and warnings about what is left out.
    #[must_use]
    pub fn synced_files(&self, home: &Path) -> (Vec<SyncedFile>, Vec<String>) {
        let mut budget = BYTES_MAX;
        let (mut files, mut warnings) = (Vec::new(), Vec::new());
        for entry in &self.file_sync {
            match entry.read(home, &mut budget) {
                Ok(read) => files.extend(read),
                Err(why) => warnings.push(format!("file_sync: {} is left out: {why}", entry.host)),
            }
        }
        (files, warnings)
    }
}

impl FileSync {
    pub(super) fn check(&self) -> Result<(), String> {
        if !is_rooted(&self.host) {
            return Err(format!("host path {:?} is neither absolute nor below ~/", self.host));
        }
        if !(self.guest.starts_with("~/") || self.guest.starts_with("/root/")) {
            return Err(format!("guest path {:?} is neither below ~/ nor below /root/", self.guest));
        }
        for path in [&self.host, &self.guest] {
            if path.split('/').any(|part| part == "..") {
                return Err(format!("{path:?} contains .."));
            }
        }
        self.mode().map(drop)
    }

    fn mode(&self) -> Result<u32, String> {
        match &self.mode {
            None => Ok(MODE),
            Some(text) => match u32::from_str_radix(text, 8) {
                Ok(mode) if mode <= 0o7777 => Ok(mode),
                _ => Err(format!("mode {text:?} is not octal permission bits")),
            },
        }
    }

    fn read(&self, home: &Path, budget: &mut u64) -> Result<Vec<SyncedFile>, String> {
        let host = expanded(&self.host, home);
        let guest = self.guest.strip_prefix("~/").map_or_else(|| self.guest.clone(), |rest| format!("/root/{rest}"));
        let guest = guest.trim_end_matches('/');
        let meta = std::fs::metadata(&host).map_err(|e| e.kind().to_string())?;
        if meta.is_dir() {
            let mut files = Vec::new();
            for (path, below) in files_below(&host)? {
                let mode = std::fs::metadata(&path).map_err(|e| e.kind().to_string())?.mode() & 0o7777;
                files.push(file(&path, format!("{guest}/{below}"), mode, budget)?);
            }
            return Ok(files);
        }
        if !meta.is_file() {
            return Err("it is neither a regular file nor a directory".to_owned());
        }
        Ok(vec![file(&host, guest.to_owned(), self.mode()?, budget)?])
    }
}

/// The regular files below a directory, each with its path from there; links are not followed.
fn files_below(directory: &Path) -> Result<Vec<(PathBuf, String)>, String> {
    let mut found = Vec::new();
    let mut waiting = vec![(directory.to_path_buf(), String::new())];
    while let Some((at, below)) = waiting.pop() {
        for entry in std::fs::read_dir(&at).map_err(|e| e.kind().to_string())? {
            let entry = entry.map_err(|e| e.kind().to_string())?;
            let kind = entry.file_type().map_err(|e| e.kind().to_string())?;
            let name = entry.file_name().into_string().map_err(|name| format!("{name:?} is not UTF-8"))?;
            let below = if below.is_empty() { name } else { format!("{below}/{name}") };
            if kind.is_dir() {
                waiting.push((entry.path(), below));
            } else if kind.is_file() {
                found.push((entry.path(), below));
            }
            if found.len() + waiting.len() > FILES_MAX {
                return Err(format!("it holds more than {FILES_MAX} files"));
            }
        }
    }
    found.sort();
    Ok(found)
}

fn file(host: &Path, path: String, mode: u32, budget: &mut u64) -> Result<SyncedFile, String> {
    let bytes = std::fs::metadata(host).map_err(|e| e.kind().to_string())?.len();
    *budget = budget
        .checked_sub(bytes)
        .ok_or_else(|| format!("all files together may have {}", wire::size::human(BYTES_MAX)))?;
    let content = std::fs::read(host).map_err(|e| e.kind().to_string())?;
    let content_hex = content.iter().map(|byte| format!("{byte:02x}")).collect();
    Ok(SyncedFile { path, mode, content_hex })
}

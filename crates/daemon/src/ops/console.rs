//! A guest's console, quoted: the end of it, with whatever a terminal would obey made visible.

use std::fs::File;
use std::io::{Read, Seek, SeekFrom};
use std::path::{Path, PathBuf};

/// Lines quoted in an error.
const LINES: usize = 20;
/// Bytes read from the end of the log for them.
const TAIL_BYTES: u64 = 16 * 1024;
/// Characters quoted of one line.
const LINE_CHARS: usize = 200;
/// Consoles of failed boots kept.
const KEPT: usize = 20;

/// The last lines of the log at `path`, each indented, control characters escaped; empty when there are none.
pub(super) fn tail(path: &Path) -> String {
    let read = || -> std::io::Result<Vec<u8>> {
        let mut file = File::open(path)?;
        let length = file.metadata()?.len();
        file.seek(SeekFrom::Start(length.saturating_sub(TAIL_BYTES)))?;
        let mut bytes = Vec::new();
        file.take(TAIL_BYTES).read_to_end(&mut bytes)?;
        Ok(bytes)
    };
    quote(&read().unwrap_or_default())
}

fn quote(bytes: &[u8]) -> String {
    let text = String::from_utf8_lossy(bytes);
    let lines: Vec<&str> = text.split(['\n', '\r']).filter(|line| !line.trim().is_empty()).collect();
    let mut quoted = String::new();
    for line in &lines[lines.len().saturating_sub(LINES)..] {
        quoted.push_str("\n  ");
        for c in line.chars().take(LINE_CHARS) {
            if c.is_control() { quoted.extend(c.escape_default()) } else { quoted.push(c) }
        }
    }
    quoted
}

/// Keeps the console at `from` as `to` and forgets the oldest kept ones. A console that is not there or empty is not kept.
pub(super) fn keep(from: &Path, to: &Path) -> Result<(), sys::fs::FsError> {
    if std::fs::metadata(from).map_or(true, |meta| meta.len() == 0) || to.exists() {
        return Ok(());
    }
    let Some(dir) = to.parent() else { return Ok(()) };
    sys::fs::create_private_dir(dir)?;
    sys::fs::copy_sparse(from, to, 0o600)?;
    for old in oldest(dir, KEPT) {
        sys::fs::remove_file(&old)?;
    }
    Ok(())
}

/// The files in `dir` beyond the `kept` newest.
fn oldest(dir: &Path, kept: usize) -> Vec<PathBuf> {
    let mut files: Vec<_> = std::fs::read_dir(dir)
        .into_iter()
        .flatten()
        .flatten()
        .filter_map(|entry| Some((entry.metadata().ok()?.modified().ok()?, entry.path())))
        .collect();
    files.sort();
    files.truncate(files.len().saturating_sub(kept));
    files.into_iter().map(|(_, path)| path).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_console_cannot_drive_a_terminal() {
        assert_eq!(quote(b"one\r\n\n\x1b[31mtwo\x07\n"), "\n  one\n  \\u{1b}[31mtwo\\u{7}");
        assert_eq!(quote(b""), "");
        let many: String = (0..100).map(|n| format!("line {n}\n")).collect();
        assert_eq!(quote(many.as_bytes()).lines().count(), 1 + LINES);
        assert!(quote(&[b'x'; 10_000]).len() < 300);
    }

    #[test]
    fn the_newest_are_kept() {
        let dir = tempfile::tempdir().unwrap();
        let from = dir.path().join("console");
        std::fs::write(&from, b"panic").unwrap();
        let kept = dir.path().join("failed");
        for n in 0..25 {
            keep(&from, &kept.join(format!("{n}.log"))).unwrap();
        }
        assert_eq!(std::fs::read_dir(&kept).unwrap().count(), KEPT);
        assert!(kept.join("24.log").exists());
        keep(&dir.path().join("missing"), &kept.join("x.log")).unwrap();
        assert!(!kept.join("x.log").exists());
    }
}

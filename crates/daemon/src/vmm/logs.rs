//! The files a VMM writes as long as it runs: the guest's console and its own messages.
//!
//! A guest can write to its console without end and QEMU has no limit for it. A pipe with a reader that keeps the limit
//! would have to outlive the daemon; a file does that by itself. So both are files opened for appending, and whoever
//! watches the VMM cuts them back to their end when they have grown too long.

use std::fs::{File, OpenOptions};
use std::io::{self, Read, Seek, SeekFrom, Write};
use std::path::Path;

/// A log longer than this is cut.
pub(crate) const LOG_BYTES_MAX: u64 = 16 << 20;
/// What is kept of its end then.
const KEPT_BYTES: u64 = 1 << 20;
/// What is quoted of a log's end in an error.
const QUOTED_BYTES: u64 = 2048;

/// Cuts a log that has grown too long to its end, and notes in it how much is missing. Bytes that the VMM writes in the
/// meantime are kept or lost, never torn from the file's end: it writes with O_APPEND. A log that is not there is fine.
///
/// # Errors
/// When the file cannot be read or cut.
pub(crate) fn cut(path: &Path) -> io::Result<()> {
    let length = match std::fs::metadata(path) {
        Ok(meta) => meta.len(),
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(()),
        Err(error) => return Err(error),
    };
    if length <= LOG_BYTES_MAX {
        return Ok(());
    }
    let mut file = OpenOptions::new().read(true).append(true).open(path)?;
    let tail = read_tail(&mut file, KEPT_BYTES)?;
    file.set_len(0)?;
    let dropped = length.saturating_sub(KEPT_BYTES);
    writeln!(file, "[banger: {dropped} bytes dropped, a log is cut at {LOG_BYTES_MAX}]")?;
    file.write_all(&tail)
}

/// The last lines of a log, fit to be shown.
pub(crate) fn quote(path: &Path) -> String {
    let tail = File::open(path).and_then(|mut file| read_tail(&mut file, QUOTED_BYTES));
    match tail {
        Ok(tail) if tail.iter().all(u8::is_ascii_whitespace) => "it printed nothing".to_owned(),
        Ok(tail) => String::from_utf8_lossy(&tail)
            .trim()
            .chars()
            .map(|c| if c.is_control() && c != '\n' { char::REPLACEMENT_CHARACTER } else { c })
            .collect(),
        Err(_) => "it left no log".to_owned(),
    }
}

fn read_tail(file: &mut File, most: u64) -> io::Result<Vec<u8>> {
    let length = file.metadata()?.len();
    file.seek(SeekFrom::Start(length.saturating_sub(most)))?;
    let mut tail = Vec::new();
    file.take(most).read_to_end(&mut tail)?;
    Ok(tail)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_long_log_keeps_its_end_and_its_writer() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("console.log");
        let mut writer = sys::fs::append(&path, 0o600).unwrap();
        writer.write_all(b"first line\n").unwrap();
        cut(&path).unwrap();
        assert_eq!(std::fs::read(&path).unwrap(), b"first line\n", "a short one is left alone");
        writer.write_all(&vec![b'x'; LOG_BYTES_MAX as usize]).unwrap();
        writer.write_all(b"\nlast line\n").unwrap();
        cut(&path).unwrap();
        writer.write_all(b"and on it goes\n").unwrap();
        let text = std::fs::read_to_string(&path).unwrap();
        assert!(text.len() < 2 << 20, "{}", text.len());
        assert!(text.starts_with("[banger: 15728662 bytes dropped"), "{}", &text[..80]);
        assert!(text.ends_with("\nlast line\nand on it goes\n"));
        cut(&dir.path().join("none")).unwrap();
    }

    #[test]
    fn a_quote_is_harmless() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("vmm.log");
        assert_eq!(quote(&path), "it left no log");
        std::fs::write(&path, " \n").unwrap();
        assert_eq!(quote(&path), "it printed nothing");
        std::fs::write(&path, format!("{}qemu: \x1b[1mno\nmemory\n", "y".repeat(5000))).unwrap();
        assert!(quote(&path).ends_with("yqemu: \u{fffd}[1mno\nmemory"));
    }
}

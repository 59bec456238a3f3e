//! Files with holes: zeros that take no room; and files without.

use std::fs::{File, OpenOptions};
use std::io;
use std::os::unix::fs::FileExt;
use std::path::Path;

use rustix::fs::{SeekFrom, seek};

use crate::fs::FsError;

/// What is looked at at once: a page of memory, a block of most filesystems.
const BLOCK_BYTES: usize = 4096;
/// Bytes read at once.
const BUFFER_BYTES: usize = 1 << 20;

/// Writes the file at `from` into `to`, which has holes there, from `at` on: blocks of zeros stay holes. Gives its length.
///
/// # Errors
/// When either cannot be read or written.
pub fn write_sparsely(from: &Path, to: &File, at: u64) -> Result<u64, FsError> {
    let failed = |source| FsError { act: "copy", path: from.to_path_buf(), source };
    let copied = || {
        let from = File::open(from)?;
        let length = from.metadata()?.len();
        copy_sparsely(&from, to, at, length)?;
        Ok(length)
    };
    copied().map_err(failed)
}

/// The same of the first `length` bytes of a file that is open; what it is longer by is not looked at.
///
/// # Errors
/// When it is shorter, or either cannot be read or written.
pub fn copy_sparsely(from: &File, to: &File, at: u64, length: u64) -> io::Result<()> {
    let mut buffer = vec![0; BUFFER_BYTES];
    let mut done = 0;
    while done < length {
        let count = usize::try_from(length - done).map_or(BUFFER_BYTES, |left| left.min(BUFFER_BYTES));
        from.read_exact_at(&mut buffer[..count], done)?;
        write_data(&buffer[..count], to, at + done)?;
        done += count as u64;
    }
    Ok(())
}

/// Writes bytes into `to`, which has a hole there, from `at` on: blocks of zeros stay holes.
///
/// # Errors
/// When they cannot be written.
pub fn write_data(bytes: &[u8], to: &File, at: u64) -> io::Result<()> {
    runs_of_data(bytes).into_iter().try_for_each(|(begin, end)| to.write_all_at(&bytes[begin..end], at + begin as u64))
}

/// Extends a file with zeros that take up room on the disk, unlike a hole, until it is `bytes` long, and fills the holes it
/// has. What is there is not touched.
///
/// # Errors
/// When the disk is full or the file cannot be written; it then is as long as before.
pub fn fill_up(path: &Path, bytes: u64) -> Result<(), FsError> {
    let failed = |act| move |source| FsError { act, path: path.to_path_buf(), source };
    let file = OpenOptions::new().write(true).open(path).map_err(failed("open"))?;
    let length = file.metadata().map_err(failed("look at"))?.len();
    let zeros = vec![0; BUFFER_BYTES];
    // A hole reads as the zeros that are written into it.
    let mut at = 0;
    while at < length.min(bytes) {
        let hole = seek(&file, SeekFrom::Hole(at)).map_err(|error| failed("look at")(error.into()))?;
        if hole >= length.min(bytes) {
            break;
        }
        let data = match seek(&file, SeekFrom::Data(hole)) {
            Ok(data) => data.min(length),
            // No data behind it.
            Err(rustix::io::Errno::NXIO) => length,
            Err(error) => return Err(failed("look at")(error.into())),
        };
        at = hole;
        while at < data {
            let count = usize::try_from(data - at).map_or(zeros.len(), |left| left.min(zeros.len()));
            file.write_all_at(&zeros[..count], at).map_err(failed("fill the holes of"))?;
            at += count as u64;
        }
    }
    at = length;
    while at < bytes {
        let count = usize::try_from(bytes - at).map_or(zeros.len(), |left| left.min(zeros.len()));
        if let Err(error) = file.write_all_at(&zeros[..count], at) {
            file.set_len(length).map_err(failed("set the length of"))?;
            return Err(failed("extend")(error));
        }
        at += count as u64;
    }
    Ok(())
}

/// Where there is more than zeros, in whole blocks, neighbours as one: begin and end.
fn runs_of_data(bytes: &[u8]) -> Vec<(usize, usize)> {
    let mut runs: Vec<(usize, usize)> = Vec::new();
    for (index, block) in bytes.chunks(BLOCK_BYTES).enumerate() {
        if is_zero(block) {
            continue;
        }
        let at = index * BLOCK_BYTES;
        match runs.last_mut() {
            Some((_, end)) if *end == at => *end += block.len(),
            _ => runs.push((at, at + block.len())),
        }
    }
    runs
}

fn is_zero(block: &[u8]) -> bool {
    // Sixteen bytes at a time: this passes over the whole memory of a machine.
    let (chunks, rest) = block.as_chunks::<16>();
    chunks.iter().all(|chunk| u128::from_ne_bytes(*chunk) == 0) && rest.iter().all(|byte| *byte == 0)
}

#[cfg(test)]
mod tests {
    use std::os::unix::fs::MetadataExt;

    use super::*;
    use proptest::prelude::*;

    /// What is in a new file of `length` after `bytes` were written into it from `at` on, and the blocks it takes.
    fn written(bytes: &[u8], at: u64, length: u64) -> (Vec<u8>, u64) {
        let dir = tempfile::tempdir().unwrap();
        let (from, to) = (dir.path().join("from"), dir.path().join("to"));
        std::fs::write(&from, bytes).unwrap();
        let file = File::create(&to).unwrap();
        file.set_len(length).unwrap();
        assert_eq!(write_sparsely(&from, &file, at).unwrap(), bytes.len() as u64);
        (std::fs::read(&to).unwrap(), std::fs::metadata(&to).unwrap().blocks() * 512)
    }

    #[test]
    fn zeros_take_no_room() {
        let mut bytes = vec![0; 4 << 20];
        bytes[BLOCK_BYTES * 3 + 5] = 1;
        bytes[(3 << 20) + 1] = 1;
        let (read, room) = written(&bytes, 0, 4 << 20);
        assert!(read == bytes);
        assert_eq!(room, 2 * BLOCK_BYTES as u64);
        assert!(write_sparsely(Path::new("/nonexistent"), &tempfile::tempfile().unwrap(), 0).is_err());
    }

    proptest! {
        #![proptest_config(ProptestConfig::with_cases(64))]
        #[test]
        fn every_byte_arrives(
            blocks in proptest::collection::vec(prop_oneof![Just(0_u8), any::<u8>()], 0..600),
            tail in proptest::collection::vec(any::<u8>(), 0..3),
            one in any::<prop::sample::Index>(),
            before in 0_u64..3,
        ) {
            let mut bytes: Vec<u8> = blocks.iter().flat_map(|byte| vec![*byte; BLOCK_BYTES]).collect();
            bytes.extend(tail);
            if !bytes.is_empty() {
                let at = one.index(bytes.len());
                bytes[at] ^= 1;
            }
            let at = before * BLOCK_BYTES as u64;
            let length = at + bytes.len() as u64 + 7;
            let (read, _) = written(&bytes, at, length);
            let at = usize::try_from(at).unwrap();
            prop_assert!(read[at..at + bytes.len()] == bytes);
            prop_assert!(read[..at].iter().chain(&read[at + bytes.len()..]).all(|byte| *byte == 0));
        }
    }
}

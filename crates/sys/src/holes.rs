//! Files with holes: zeros that take no room.

use std::fs::{File, OpenOptions};
use std::io;
use std::os::unix::fs::FileExt;
use std::path::Path;

use rustix::fs::{FallocateFlags, SeekFrom, fallocate, seek};

use crate::fs::FsError;

/// What is looked at at once: a page of memory, a block of most filesystems.
const BLOCK_BYTES: usize = 4096;
/// Bytes read at once.
const BUFFER_BYTES: usize = 1 << 20;

/// Turns every block of zeros into a hole. What the file reads as does not change.
///
/// # Errors
/// When it cannot be read, or its filesystem has no holes.
pub fn punch_zeros(path: &Path) -> Result<(), FsError> {
    let failed = |source| FsError { act: "make holes in", path: path.to_path_buf(), source };
    let file = OpenOptions::new().read(true).write(true).open(path).map_err(failed)?;
    punch(&file).map_err(failed)
}

fn punch(file: &File) -> io::Result<()> {
    let length = file.metadata()?.len();
    let mut buffer = vec![0; BUFFER_BYTES];
    let mut at = 0;
    while at < length {
        // Holes that are there already are not read.
        at = match seek(file, SeekFrom::Data(at)) {
            Ok(data) => data - data % BLOCK_BYTES as u64,
            Err(rustix::io::Errno::NXIO) => break,
            Err(errno) => return Err(errno.into()),
        };
        let count = usize::try_from(length - at).map_or(BUFFER_BYTES, |left| left.min(BUFFER_BYTES));
        file.read_exact_at(&mut buffer[..count], at)?;
        for (from, bytes) in runs_of_zeros(&buffer[..count]) {
            let flags = FallocateFlags::PUNCH_HOLE | FallocateFlags::KEEP_SIZE;
            fallocate(file, flags, at + from as u64, bytes as u64)?;
        }
        at += count as u64;
    }
    Ok(())
}

/// Where whole blocks of zeros are, neighbours as one: offset and length.
fn runs_of_zeros(bytes: &[u8]) -> Vec<(usize, usize)> {
    let mut runs: Vec<(usize, usize)> = Vec::new();
    for (index, block) in bytes.chunks_exact(BLOCK_BYTES).enumerate() {
        if !is_zero(block) {
            continue;
        }
        let at = index * BLOCK_BYTES;
        match runs.last_mut() {
            Some((from, length)) if *from + *length == at => *length += BLOCK_BYTES,
            _ => runs.push((at, BLOCK_BYTES)),
        }
    }
    runs
}

fn is_zero(block: &[u8]) -> bool {
    // Sixteen bytes at a time: this passes over the whole memory of a machine.
    block.as_chunks::<16>().0.iter().all(|chunk| u128::from_ne_bytes(*chunk) == 0)
}

#[cfg(test)]
mod tests {
    use std::os::unix::fs::MetadataExt;

    use super::*;
    use proptest::prelude::*;

    #[test]
    fn zeros_take_no_room() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("memory");
        let mut bytes = vec![0; 4 << 20];
        bytes[BLOCK_BYTES * 3 + 5] = 1;
        bytes[(3 << 20) + 1] = 1;
        std::fs::write(&path, &bytes).unwrap();
        punch_zeros(&path).unwrap();
        assert_eq!(std::fs::metadata(&path).unwrap().blocks(), 2 * BLOCK_BYTES as u64 / 512);
        assert!(std::fs::read(&path).unwrap() == bytes);
        punch_zeros(&path).unwrap();
        assert!(punch_zeros(&dir.path().join("none")).is_err());
    }

    proptest! {
        #![proptest_config(ProptestConfig::with_cases(64))]
        #[test]
        fn nothing_else_changes(
            blocks in proptest::collection::vec(prop_oneof![Just(0_u8), any::<u8>()], 0..600),
            tail in proptest::collection::vec(any::<u8>(), 0..3),
            one in any::<prop::sample::Index>(),
        ) {
            let mut bytes: Vec<u8> = blocks.iter().flat_map(|byte| vec![*byte; BLOCK_BYTES]).collect();
            bytes.extend(tail);
            if !bytes.is_empty() {
                let at = one.index(bytes.len());
                bytes[at] ^= 1;
            }
            let dir = tempfile::tempdir().unwrap();
            let path = dir.path().join("memory");
            std::fs::write(&path, &bytes).unwrap();
            punch_zeros(&path).unwrap();
            prop_assert!(std::fs::read(&path).unwrap() == bytes);
        }
    }
}

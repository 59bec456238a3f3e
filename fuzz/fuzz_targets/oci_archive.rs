//! An archive of images: whatever it says, nothing beside the cache changes, and nothing of a refused one stays.
//!
//! A header that is changed anywhere is refused for its checksum, so the bytes come once more with the checksums put right.
#![no_main]

use std::path::Path;

use tar::Header;

const BLOCK_BYTES: usize = 512;

libfuzzer_sys::fuzz_target!(|data: &[u8]| {
    let memory = Path::new("/dev/shm");
    let world = tempfile::tempdir_in(if memory.is_dir() { memory } else { Path::new("/tmp") }).unwrap();
    let cache = world.path().join("cache");
    for stream in [data.to_vec(), repaired(data)] {
        oci::fuzz::fuzz_archive(&stream, &cache);
    }
    let mut names = std::fs::read_dir(world.path()).unwrap().map(|entry| entry.unwrap().file_name());
    assert!(names.all(|name| name == "cache"));
    assert_eq!(std::fs::read_dir(cache.join("partial")).unwrap().count(), 0);
});

/// The same with the right checksum in each block where a header is expected.
fn repaired(data: &[u8]) -> Vec<u8> {
    let mut stream = data.to_vec();
    let mut at = 0;
    while let Some(block) = stream.get_mut(at..at + BLOCK_BYTES) {
        let mut header = Header::new_old();
        header.as_mut_bytes().copy_from_slice(block);
        if block.iter().any(|byte| *byte != 0) {
            header.set_cksum();
            block.copy_from_slice(header.as_bytes());
        }
        let content = header.entry_size().ok().and_then(|bytes| usize::try_from(bytes).ok()).unwrap_or(0);
        at = at.saturating_add(BLOCK_BYTES).saturating_add(content.div_ceil(BLOCK_BYTES).saturating_mul(BLOCK_BYTES));
        if at >= stream.len() {
            break;
        }
    }
    stream
}

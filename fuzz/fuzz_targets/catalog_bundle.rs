//! A bundle: whatever it says, nothing beside its directory changes, and nothing of a refused one stays.
//!
//! What is not packed is refused at once, and a header that is changed anywhere is refused for its checksum: so the bytes come
//! once more packed, and once more with the checksums put right.
#![no_main]

use std::path::Path;

use tar::Header;

const BLOCK_BYTES: usize = 512;

libfuzzer_sys::fuzz_target!(|data: &[u8]| {
    let memory = Path::new("/dev/shm");
    let packed = |plain: &[u8]| zstd::encode_all(plain, 1).unwrap();
    for bundle in [data.to_vec(), packed(data), packed(&repaired(data))] {
        let world = tempfile::tempdir_in(if memory.is_dir() { memory } else { Path::new("/tmp") }).unwrap();
        catalog::fuzz::fuzz_bundle(&bundle, world.path());
        let mut names = std::fs::read_dir(world.path()).unwrap().map(|entry| entry.unwrap().file_name());
        assert!(names.all(|name| name == "image" || name == "kernel"));
    }
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

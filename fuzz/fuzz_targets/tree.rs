//! A tar stream by a guest, unpacked: whatever it says, nothing beside what was asked for changes.
//!
//! A header that is changed anywhere is refused for its checksum, behind which nothing would ever be reached. So the
//! bytes are unpacked as they come, and once more with the checksums put right.
#![no_main]

use std::path::Path;

use tar::Header;
use tree::reader::Reader;
use tree::unpack::{Policy, unpack};

const BLOCK_BYTES: usize = 512;

libfuzzer_sys::fuzz_target!(|data: &[u8]| {
    let mut reader = Reader::new(data);
    while let Ok(Some(_)) = reader.next_entry() {}
    let repaired = repaired(data);
    for (stream, policy) in [
        (data, Policy::hostile(false)),
        (&repaired, Policy::hostile(false)),
        (&repaired, Policy::hostile(true)),
        (&repaired, Policy::inside(false)),
    ] {
        unpacked(stream, policy);
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

fn unpacked(stream: &[u8], policy: Policy) {
    let memory = Path::new("/dev/shm");
    let world = tempfile::tempdir_in(if memory.is_dir() { memory } else { Path::new("/tmp") }).unwrap();
    let (to, outside) = (world.path().join("to"), world.path().join("outside"));
    std::fs::create_dir(&to).unwrap();
    std::fs::create_dir(&outside).unwrap();
    std::os::unix::fs::symlink(&outside, to.join("out")).unwrap();
    let destination = std::fs::File::open(&to).unwrap().into();
    drop(unpack(destination, policy.called(Some(b"asked".to_vec())), stream));
    assert_eq!(std::fs::read_dir(&outside).unwrap().count(), 0);
    let mut names = std::fs::read_dir(&to).unwrap().map(|entry| entry.unwrap().file_name());
    assert!(names.all(|name| name == "asked" || name == "out"));
}

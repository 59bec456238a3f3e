//! A tar stream by a guest, unpacked on this host: whatever it says, nothing beside what was asked for changes.
#![no_main]

use std::path::Path;

use tree::reader::Reader;
use tree::unpack::{Policy, unpack};

libfuzzer_sys::fuzz_target!(|data: &[u8]| {
    let mut reader = Reader::new(data);
    while let Ok(Some(_)) = reader.next_entry() {}
    let memory = Path::new("/dev/shm");
    let world = tempfile::tempdir_in(if memory.is_dir() { memory } else { Path::new("/tmp") }).unwrap();
    let (to, outside) = (world.path().join("to"), world.path().join("outside"));
    std::fs::create_dir(&to).unwrap();
    std::fs::create_dir(&outside).unwrap();
    std::os::unix::fs::symlink(&outside, to.join("out")).unwrap();
    let destination = std::fs::File::open(&to).unwrap().into();
    drop(unpack(destination, Policy::hostile(false).called(Some(b"asked".to_vec())), data));
    assert_eq!(std::fs::read_dir(&outside).unwrap().count(), 0);
    assert!(std::fs::read_dir(&to).unwrap().all(|entry| ["asked", "out"].contains(&entry.unwrap().file_name().to_str().unwrap())));
});

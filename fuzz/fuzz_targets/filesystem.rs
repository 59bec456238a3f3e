//! An ext4 filesystem, a few bytes of which are others.
#![no_main]

libfuzzer_sys::fuzz_target!(|data: &[u8]| daemon::image::fuzz::fuzz_filesystem_bytes(data));

//! Names of images and of where they are, as people and scripts type them.
#![no_main]

libfuzzer_sys::fuzz_target!(|data: &[u8]| oci::fuzz::fuzz_reference(data));

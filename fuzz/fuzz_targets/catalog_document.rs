//! A catalog: what is read reads back as it was.
#![no_main]

libfuzzer_sys::fuzz_target!(|data: &[u8]| catalog::fuzz::fuzz_catalog(data));

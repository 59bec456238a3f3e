//! Signatures, keys and manifests: what is read reads back, and nobody has signed what he did not.
#![no_main]

libfuzzer_sys::fuzz_target!(|data: &[u8]| catalog::fuzz::fuzz_signature(data));

//! Manifests, indexes and configurations by a registry, and what it says to strangers.
#![no_main]

libfuzzer_sys::fuzz_target!(|data: &[u8]| oci::fuzz::fuzz_manifest(data));

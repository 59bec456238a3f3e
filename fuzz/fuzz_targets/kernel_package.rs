//! Packages with a kernel: an rpm's headers and payload, a Debian package's archives.
#![no_main]

libfuzzer_sys::fuzz_target!(|data: &[u8]| daemon::image::kernel::fuzz::fuzz_package_bytes(data));

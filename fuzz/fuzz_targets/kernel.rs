//! Kernel files: a bzImage and its payload, an ELF image, a configuration, a module list.
#![no_main]

libfuzzer_sys::fuzz_target!(|data: &[u8]| daemon::image::kernel::fuzz::fuzz_kernel_bytes(data));

//! A layer of an image, over another one.
#![no_main]

libfuzzer_sys::fuzz_target!(|data: &[u8]| daemon::image::fuzz::fuzz_layer_bytes(data));

//! Everything the host reads from a guest: preamble hunt, frames, messages, windows.
#![no_main]

libfuzzer_sys::fuzz_target!(|data: &[u8]| daemon::guest::fuzz::fuzz_agent_bytes(data));

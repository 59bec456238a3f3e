//! Everything the agent reads from its channel before it acts: preamble hunt, frames, requests, controls.
#![no_main]

use wire::agent::frame::{Decoder, FROM_HOST_MAX, Hunt, Tag, hunt_preamble};
use wire::agent::message::{Control, Request};

libfuzzer_sys::fuzz_target!(|data: &[u8]| {
    if let Hunt::Nothing { keep_from } = hunt_preamble(data) {
        assert!(keep_from <= data.len());
    }
    let mut decoder = Decoder::new(Tag::of(&[7; 16]), FROM_HOST_MAX);
    for chunk in data.chunks(97) {
        decoder.push(chunk);
        while let Ok(Some(frame)) = decoder.next_frame() {
            assert!(frame.payload.len() <= FROM_HOST_MAX);
        }
    }
    let _request: Result<Request, _> = serde_json::from_slice(data);
    let _control: Result<Control, _> = serde_json::from_slice(data);
});

//! Everything the helper reads before it acts, and what the daemon reads back.
#![no_main]

use wire::helper::{Answer, Envelope, PACKET_BYTES_MAX, Request, Swept, VmmRuns, Welcome};
use wire::id::{BootId, VmId};

libfuzzer_sys::fuzz_target!(|data: &[u8]| {
    if let Ok(envelope) = Envelope::parse(data) {
        assert!(data.len() <= PACKET_BYTES_MAX);
        let again = serde_json::to_vec(&envelope).expect("a request is plain data");
        assert_eq!(Envelope::parse(&again).as_ref(), Ok(&envelope));
        if let Request::SpawnVmm(spawn) = &envelope.request {
            for file in &spawn.files {
                let (_, place) = file.place(&VmId::from_random([1; 8]), &BootId::from_random([2; 8]));
                assert!(place.components().all(|part| matches!(part, std::path::Component::Normal(_))));
            }
        }
    }
    let _welcome: Result<Answer<Welcome>, _> = serde_json::from_slice(data);
    let _runs: Result<Answer<VmmRuns>, _> = serde_json::from_slice(data);
    let _swept: Result<Answer<Swept>, _> = serde_json::from_slice(data);
});

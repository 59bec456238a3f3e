//! What is a request, and what is none.

use proptest::prelude::*;

use super::*;

fn boot() -> BootId {
    BootId::from_random([7; 8])
}

fn spawn(files: Vec<JailFile>) -> Request {
    Request::SpawnVmm(SpawnVmm { boot: boot(), files, nic: Nic::Slots, limits: Limits::default() })
}

fn every_file() -> Vec<JailFile> {
    let (kernel, image) = ("0123456789abcdef".parse().unwrap(), "fedcba9876543210".parse().unwrap());
    let key = "0".repeat(64).parse().unwrap();
    let modules = JailFile::Modules { kernel };
    let kernel = JailFile::Kernel { kernel: "0123456789abcdef".parse().unwrap() };
    let image = JailFile::Image { image };
    let of_vm = [JailFile::Disk {}, JailFile::Log {}, JailFile::Metrics {}];
    let saved = [JailFile::Memory {}, JailFile::Devices {}, JailFile::SaveMemory {}, JailFile::SaveDevices {}];
    [kernel, modules, JailFile::Initramfs { key }, image].into_iter().chain(of_vm).chain(saved).collect()
}

fn bytes(request: Request) -> Vec<u8> {
    serde_json::to_vec(&Envelope { operation: None, request }).unwrap()
}

#[test]
fn every_request_survives_the_way() {
    let (vm, slot) = (VmId::from_random([1; 8]), Slot::try_from(3).unwrap());
    let requests = [
        Hello { build: build_id("0.1.0", "abc") }.into(),
        CreateJail { vm, boot: boot(), slot }.into(),
        DestroyJail { boot: boot() }.into(),
        spawn(every_file()),
        KillVmm { boot: boot() }.into(),
        EnsureTap { slot }.into(),
        DeleteTap { slot }.into(),
        Sweep { live: vec![Live { boot: boot(), slot }] }.into(),
    ];
    for request in requests {
        let sent = Envelope { operation: Some(OpId::from_random([2; 8])), request };
        assert_eq!(Envelope::parse(&serde_json::to_vec(&sent).unwrap()), Ok(sent));
    }
}

#[test]
fn the_largest_requests_fit() {
    assert!(every_file().len() + SpawnVmm::OUTPUTS <= DESCRIPTORS_MAX);
    let last = Slot::try_from(crate::naming::SLOT_MAX).unwrap();
    let live = vec![Live { boot: boot(), slot: last }; LIVE_MAX];
    let packet = bytes(Sweep { live: live.clone() }.into());
    assert!(packet.len() <= PACKET_BYTES_MAX);
    assert!(Envelope::parse(&packet).is_ok());
    let more = [live, vec![Live { boot: boot(), slot: last }]].concat();
    assert_eq!(Envelope::parse(&bytes(Sweep { live: more }.into())), Err(Failure::Malformed));
    let too_many = vec![JailFile::Disk {}; DESCRIPTORS_MAX];
    assert_eq!(Envelope::parse(&bytes(spawn(too_many))), Err(Failure::Malformed));
}

#[test]
fn what_is_no_request_is_refused() {
    let refused = [
        "",
        "null",
        "{}",
        r#"{"request":{"verb":"run_shell","command":"id"}}"#,
        r#"{"request":{"verb":"ensure_tap","slot":10000}}"#,
        r#"{"request":{"verb":"ensure_tap","slot":-1}}"#,
        r#"{"request":{"verb":"ensure_tap","slot":1,"name":"eth0"}}"#,
        r#"{"request":{"verb":"destroy_jail","boot":"../../../../etc"}}"#,
        r#"{"request":{"verb":"destroy_jail","boot":"0123456789ABCDEF"}}"#,
        r#"{"request":{"verb":"destroy_jail","boot":"0123456789abcdef"},"uid":0}"#,
        r#"{"request":{"verb":"destroy_jail","boot":"0123456789abcdef"},"operation":"x"}"#,
        r#"{"request":{"verb":"destroy_jail","boot":"0123456789abcdef"}}{}"#,
        r#"{"request":{"verb":"spawn_vmm","boot":"0123456789abcdef","files":[{"file":"etc_shadow"}],"nic":"slots","limits":{}}}"#,
        r#"{"request":{"verb":"spawn_vmm","boot":"0123456789abcdef","files":[{"file":"disk","path":"/"}],"nic":"slots","limits":{}}}"#,
        r#"{"request":{"verb":"spawn_vmm","boot":"0123456789abcdef","files":[{"file":"initramfs","key":"../x"}],"nic":"slots","limits":{}}}"#,
    ];
    for packet in refused {
        assert_eq!(Envelope::parse(packet.as_bytes()), Err(Failure::Malformed), "{packet}");
    }
    let deep = format!(r#"{{"request":{}"#, "[".repeat(30_000));
    assert_eq!(Envelope::parse(deep.as_bytes()), Err(Failure::Malformed));
    assert_eq!(Envelope::parse(&vec![b' '; PACKET_BYTES_MAX + 1]), Err(Failure::Malformed));
}

#[test]
fn every_file_has_a_place_and_a_name_of_its_own() {
    let (vm, boot) = (VmId::from_random([1; 8]), boot());
    let files = every_file();
    let mut names: Vec<_> = files.iter().map(JailFile::name_in_jail).collect();
    names.sort_unstable();
    names.dedup();
    assert_eq!(names.len(), files.len());
    let mut places: Vec<_> = files.iter().map(|file| file.place(&vm, &boot).1).collect();
    places.sort_unstable();
    places.dedup();
    assert_eq!(places.len(), files.len());
    for file in files {
        let (_, place) = file.place(&vm, &boot);
        assert!(place.components().all(|part| matches!(part, std::path::Component::Normal(_))), "{}", place.display());
        if file.access() == Access::Private {
            assert!(place.starts_with("vms/0101010101010101"), "a private file is this VM's: {}", place.display());
        }
    }
}

#[test]
fn a_saved_machine_is_read_and_another_is_written() {
    let (vm, boot) = (VmId::from_random([1; 8]), boot());
    for (file, name, access, place) in [
        (JailFile::Memory {}, "memory", Access::Shared, "vms/0101010101010101/saves/from/memory"),
        (JailFile::Devices {}, "devices", Access::Shared, "vms/0101010101010101/saves/from/devices"),
        (JailFile::SaveMemory {}, "save-memory", Access::Private, "vms/0101010101010101/saves/shared/memory"),
        (JailFile::SaveDevices {}, "save-devices", Access::Private, "vms/0101010101010101/saves/shared/devices"),
    ] {
        assert_eq!(file.place(&vm, &boot), (Root::State, place.into()));
        assert_eq!((file.name_in_jail(), file.access()), (name, access));
        let json = serde_json::to_string(&file).unwrap();
        assert_eq!(json, format!(r#"{{"file":"{}"}}"#, name.replace('-', "_")));
        assert_eq!(serde_json::from_str::<JailFile>(&json).unwrap(), file);
    }
}

#[test]
fn failures_survive_the_way_and_say_something() {
    for act in Act::ALL {
        let failure = Failure::Os { act, errno: 1 };
        let answer: Answer<Gone> = Answer::Refused(failure.clone());
        let text = serde_json::to_string(&answer).unwrap();
        assert_eq!(serde_json::from_str::<Answer<Gone>>(&text).unwrap(), answer);
        assert!(failure.to_string().starts_with("cannot "), "{failure}");
    }
}

proptest! {
    #[test]
    fn whatever_comes_is_read_or_refused(packet in proptest::collection::vec(any::<u8>(), 0..512)) {
        if let Ok(envelope) = Envelope::parse(&packet) {
            prop_assert_eq!(Envelope::parse(&serde_json::to_vec(&envelope).unwrap()), Ok(envelope));
        }
    }

    #[test]
    fn a_damaged_request_is_read_or_refused(at in 0_usize..400, byte: u8, cut in 0_usize..400) {
        let mut packet = bytes(spawn(every_file()));
        let length = packet.len();
        packet[at % length] = byte;
        packet.truncate(length - cut % length);
        if let Ok(envelope) = Envelope::parse(&packet) {
            prop_assert_eq!(Envelope::parse(&serde_json::to_vec(&envelope).unwrap()), Ok(envelope));
        }
    }
}

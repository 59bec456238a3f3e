//! What is read, what is refused, what holds.

use wire::agent::message::SyncedFile;
use wire::api::Origin;

use super::*;

fn load(text: &str) -> Result<Config, ConfigError> {
    let dir = tempfile::tempdir().unwrap();
    std::fs::write(dir.path().join("config.toml"), text).unwrap();
    Config::load(&dir.path().join("config.toml"))
}

#[test]
fn the_helper_makes_no_jail_for_qemu() {
    let refused = load("mode = \"system\"\nvmm = \"qemu\"").unwrap_err();
    assert!(matches!(refused, ConfigError::SystemQemu), "{refused}");
    for fine in ["mode = \"auto\"\nvmm = \"qemu\"", "mode = \"system\"", "mode = \"system\"\nvmm = \"auto\""] {
        load(fine).unwrap();
    }
}

#[test]
fn sizes_come_from_config_then_host_then_floor() {
    let small = HostSize { cpus: 2, memory_mib: 2048, is_emulated: true };
    let large = HostSize { cpus: 64, memory_mib: 262_144, is_emulated: false };
    let resolved = |config: &Config, host| config.resolve(host, Overrides::default()).unwrap();
    let empty = Config::default();
    let floor = resolved(&empty, small).defaults();
    assert_eq!((floor.vcpus, floor.memory_mib, floor.disk_bytes), (2, 1024, 8 << 30));
    let host = resolved(&empty, large).defaults();
    assert_eq!((host.vcpus, host.memory_mib), (4, 8192));
    let config = load("[vm_defaults]\nvcpu = 7\nmemory_mib = 300\ndisk_size = \"20G\"").unwrap();
    let set = resolved(&config, large).defaults();
    assert_eq!((set.vcpus, set.memory_mib, set.disk_bytes), (7, 300, 20 << 30));

    let over = Overrides { log_level: Some(LogLevel::Debug), vmm: None };
    let told =
        config.resolve(small, over).unwrap().describe(&config, Path::new("/none/config.toml"), Path::new("/key"));
    let said: Vec<_> = told.settings.iter().map(|s| (s.key.as_str(), s.value.as_str(), s.origin)).collect();
    for wanted in [
        ("log_level", "\"debug\"", Origin::Environment),
        ("default_image_name", "\"debian-bookworm\"", Origin::Default),
        ("boot_timeout_s", "90", Origin::Host),
        ("auto_stop_stale_after", "\"0\"", Origin::Default),
        ("vm_defaults.vcpu", "7", Origin::Config),
        ("vm_defaults.disk_size", "\"20 GiB\"", Origin::Config),
    ] {
        assert!(said.contains(&wanted), "{wanted:?} in {said:?}");
    }
    assert!(!told.exists && told.path == "/none/config.toml");
}

#[test]
fn new_vms_may_be_stopped_when_idle() {
    let host = HostSize { cpus: 2, memory_mib: 2048, is_emulated: true };
    let after = |text: &str| load(text).unwrap().resolve(host, Overrides::default()).unwrap().defaults().stop_after_ms;
    assert_eq!(after(""), None, "off, when nothing is said");
    assert_eq!(after("auto_stop_stale_after = \"0\""), None);
    assert_eq!(after("auto_stop_stale_after = \"24h\""), Some(86_400_000));
}

#[test]
fn the_vmm_is_the_environments_then_the_files_choice() {
    let host = HostSize { cpus: 2, memory_mib: 2048, is_emulated: false };
    let vmm = |text: &str, over: Option<VmmChoice>| {
        let over = Overrides { vmm: over, ..Overrides::default() };
        load(text).unwrap().resolve(host, over).unwrap().vmm.value
    };
    assert_eq!(vmm("", None), VmmChoice::Auto);
    assert_eq!(vmm("vmm = \"qemu\"", None), VmmChoice::Qemu);
    assert_eq!(vmm("vmm = \"qemu\"", Some(VmmChoice::Firecracker)), VmmChoice::Firecracker);
}

#[test]
fn what_is_refused() {
    for (text, part) in [
        ("colour = true", "config.toml, line 1: unknown key `colour`; known here: log_level,"),
        ("default_image = \"x\"", "did you mean `default_image_name`?"),
        ("vmm = \"xen\"", "config.toml, line 1"),
        ("[vm_defaults]\nmemory = 1", "line 2: unknown key `memory`"),
        ("ssh_key_path = \"id\"", "neither absolute"),
        ("default_dns = \"dns\"", "config.toml, line 1"),
        ("auto_stop_stale_after = \"soon\"", "auto_stop_stale_after in config.toml is no time: expected a number"),
        ("auto_stop_stale_after = \"1ms\"", "not 1 ms"),
        ("\n\n[x", "config.toml, line 3: unclosed table"),
        ("[vm_defaults]\nvcpu = 900", "not 900"),
        ("[vm_defaults]\nmemory_mib = 1", "not 1 MiB"),
        ("[vm_defaults]\ndisk_size = \"1M\"", "not 1 MiB"),
        ("[vm_defaults]\ncpus = 1", "did you mean `vcpu`?"),
        ("[vm_defaults]\ndisk_size = \"many\"", "not a size"),
        ("[[file_sync]]\nhost = \"x\"\nguest = \"~/x\"", "entry 1"),
        ("[[file_sync]]\nhost = \"~/a\"\nguest = \"/etc/x\"", "entry 1"),
        ("[[file_sync]]\nhost = \"~/../x\"\nguest = \"~/x\"", "contains .."),
        ("[[file_sync]]\nhost = \"~/x\"\nguest = \"~/x\"\nmode = \"rw\"", "octal"),
    ] {
        let error = load(text).unwrap_err();
        let chain = wire::api::ApiError::from_chain(wire::api::ErrorCode::BadRequest, &error).message;
        assert!(chain.contains(part), "{text:?}: {chain}");
    }
}

#[test]
fn files_are_read_at_every_boot_and_missing_ones_warn() {
    let home = tempfile::tempdir().unwrap();
    std::fs::write(home.path().join("token"), b"\x00s").unwrap();
    let config = load(
        "[[file_sync]]\nhost = \"~/token\"\nguest = \"~/.token\"\n[[file_sync]]\nhost = \"~/no\"\nguest = \"/root/no\"",
    )
    .unwrap();
    let (files, warnings) = config.synced_files(home.path());
    assert_eq!(files, [SyncedFile { path: "/root/.token".into(), mode: 0o600, content_hex: "0073".into() }]);
    assert_eq!(warnings.len(), 1);

    std::fs::create_dir_all(home.path().join("tree/below")).unwrap();
    std::fs::write(home.path().join("tree/below/file"), "x").unwrap();
    std::fs::write(home.path().join("large"), vec![0; 2 << 20]).unwrap();
    let entries = ["tree", "large"].map(|name| format!("[[file_sync]]\nhost = \"~/{name}\"\nguest = \"~/{name}\"\n"));
    let (files, warnings) = load(&entries.concat()).unwrap().synced_files(home.path());
    assert_eq!(files.iter().map(|file| file.path.as_str()).collect::<Vec<_>>(), ["/root/tree/below/file"]);
    assert!(warnings.len() == 1 && warnings[0].contains("1 MiB"), "{warnings:?}");
}

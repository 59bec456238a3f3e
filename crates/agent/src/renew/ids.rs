//! What says that this machine is no other: machine-id, boot id, SSH host keys, the seed of the next boot.

use std::io;
use std::os::unix::fs::FileExt;

use rustix::fs::{AtFlags, CWD, OFlags, StatxAttributes, StatxFlags};
use rustix::io::Errno;
use rustix::mount::{MountFlags, UnmountFlags, mount_bind, mount_remount, unmount};
use wire::agent::message::Failure;
use wire::agent::renewal::Renewal;

use super::Place;
use crate::boot::Report;
use crate::boot::identity::{self, MACHINE_ID};
use crate::mounts;
use crate::root_dir::{RootDir, path_of};
use crate::serve::requests::os;

/// Where the kernel shows the id of its boot, which nothing changes: another file is mounted over it.
pub const BOOT_ID: &str = "/proc/sys/kernel/random/boot_id";
/// That file.
pub const BOOT_ID_FILE: &str = "/run/banger/boot_id";
/// What systemd seeds the kernel with at the next boot, beside other things.
const SEED_FILE: &str = "/var/lib/systemd/random-seed";
/// As much as systemd keeps.
const SEED_BYTES: usize = 512;
/// Where sshd(8) looks for its keys.
const SSH: &str = "/etc/ssh";
/// Most bytes of an id's file that are of interest.
const ID_BYTES_MAX: u64 = 64;
/// A boot id has nothing to run and nothing to open.
const CLOSED: MountFlags =
    MountFlags::RDONLY.union(MountFlags::NOSUID).union(MountFlags::NODEV).union(MountFlags::NOEXEC);

/// Whether a text is a machine-id(5): 32 hexadecimal digits in lower case, not all of them zero.
#[must_use]
pub fn is_machine_id(text: &str) -> bool {
    text.len() == 32 && text.bytes().all(is_digit) && text.bytes().any(|byte| byte != b'0')
}

/// Whether a text is a UUID as the kernel writes one.
#[must_use]
pub fn is_uuid(text: &str) -> bool {
    let dashes = [8, 13, 18, 23];
    text.len() == 36
        && text.bytes().enumerate().all(|(at, byte)| if dashes.contains(&at) { byte == b'-' } else { is_digit(byte) })
}

fn is_digit(byte: u8) -> bool {
    matches!(byte, b'0'..=b'9' | b'a'..=b'f')
}

/// Renews them all.
///
/// # Errors
/// What keeps one from being new.
pub fn renew(place: &Place<'_>, renewal: &Renewal, report: &mut Report) -> Result<(), Failure> {
    let (root, config) = (place.root, &renewal.config);
    let old = root.read_text(MACHINE_ID, ID_BYTES_MAX);
    let is_other = old.map_err(|error| os("cannot read /etc/machine-id", &error))?.as_deref().map(str::trim)
        != Some(config.machine_id.as_str());
    if !place.is_hosted {
        uncover(MACHINE_ID).map_err(|error| os("cannot uncover /etc/machine-id", &error))?;
    }
    let written = identity::write_machine_id(root, &config.machine_id);
    written.map_err(|error| os("cannot write /etc/machine-id", &error))?;
    identity::write_host_keys(root, config).map_err(|error| os("cannot write the SSH host keys", &error))?;
    if is_other && !config.ssh_host_keys.is_empty() {
        let kept: Vec<&str> = config.ssh_host_keys.iter().map(|key| key.algorithm.as_str()).collect();
        remove_host_keys(root, &kept).map_err(|error| os("cannot remove the parent's SSH host keys", &error))?;
    }
    if let Some(uuid) = &renewal.boot_uuid {
        renew_boot_id(place, uuid).map_err(|error| os("cannot change the boot id", &error))?;
    }
    report.note("renew the random seed of the next boot", renew_seed(root));
    Ok(())
}

/// Removes host keys of other algorithms than these: an image's own service made them in the parent, which knows them.
fn remove_host_keys(root: &RootDir, kept: &[&str]) -> io::Result<()> {
    let directory = match root.open_at(SSH, OFlags::RDONLY | OFlags::DIRECTORY) {
        Ok(directory) => directory,
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(()),
        Err(error) => return Err(error),
    };
    for entry in std::fs::read_dir(path_of(&directory))? {
        let name = entry?.file_name();
        let algorithm = name.to_str().and_then(algorithm_of);
        if algorithm.is_some_and(|algorithm| !kept.contains(&algorithm)) {
            rustix::fs::unlinkat(&directory, &name, AtFlags::empty())?;
        }
    }
    Ok(())
}

/// The algorithm that a host key's file, private, public or certificate, is named for.
fn algorithm_of(name: &str) -> Option<&str> {
    let (algorithm, rest) = name.strip_prefix("ssh_host_")?.rsplit_once("_key")?;
    matches!(rest, "" | ".pub" | "-cert.pub").then_some(algorithm)
}

/// What a service saved in the parent's memory image is no secret between siblings.
fn renew_seed(root: &RootDir) -> io::Result<()> {
    if !root.exists(SEED_FILE) {
        return Ok(());
    }
    root.write(SEED_FILE, &sys::rand::bytes::<SEED_BYTES>(), 0o600)
}

/// Has the boot id shown by a file before anybody wants another: every mount wakes systemd, which looks at all of them.
///
/// # Errors
/// When it cannot be mounted.
pub fn prepare_boot_id(root: &RootDir) -> io::Result<()> {
    let own = std::fs::read(BOOT_ID)?;
    show_boot_id(root, &own)
}

/// Changes what is shown as the boot id.
fn renew_boot_id(place: &Place<'_>, uuid: &str) -> io::Result<()> {
    let line = format!("{uuid}\n");
    if place.is_hosted {
        return place.root.write(BOOT_ID_FILE, line.as_bytes(), 0o444);
    }
    show_boot_id(place.root, line.as_bytes())?;
    let shown = std::fs::read_to_string(BOOT_ID)?;
    if shown == line { Ok(()) } else { Err(io::Error::other(format!("it still shows {:?}", shown.trim()))) }
}

/// Shows a boot id, with no moment at which the kernel's own is seen again.
fn show_boot_id(root: &RootDir, line: &[u8]) -> io::Result<()> {
    if is_shown()? {
        return std::fs::OpenOptions::new().write(true).open(BOOT_ID_FILE)?.write_all_at(line, 0);
    }
    root.write(BOOT_ID_FILE, line, 0o444)?;
    // Nothing can be mounted on a file of ours that somebody removed.
    uncover(BOOT_ID)?;
    mount_bind(BOOT_ID_FILE, BOOT_ID)?;
    Ok(mount_remount(BOOT_ID, MountFlags::BIND | CLOSED, c"")?)
}

/// Whether our file is what is seen, from an earlier renewal.
fn is_shown() -> io::Result<bool> {
    let (shown, file) = (rustix::fs::stat(BOOT_ID)?, rustix::fs::stat(BOOT_ID_FILE));
    Ok(file.is_ok_and(|file| (file.st_dev, file.st_ino) == (shown.st_dev, shown.st_ino)))
}

/// Takes away whatever is mounted on a file.
fn uncover(path: &str) -> io::Result<()> {
    // Of Linux 5.8, statx(2), and much cheaper than the list.
    let told = match rustix::fs::statx(CWD, path, AtFlags::SYMLINK_NOFOLLOW, StatxFlags::empty()) {
        Err(Errno::NOENT) => return Ok(()),
        told => told?,
    };
    let is_told = told.stx_attributes_mask.contains(StatxAttributes::MOUNT_ROOT);
    if is_told && !told.stx_attributes.contains(StatxAttributes::MOUNT_ROOT) {
        return Ok(());
    }
    for _ in mounts::list()?.iter().filter(|mount| mount.point == path) {
        unmount(path, UnmountFlags::DETACH)?;
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;
    use wire::agent::message::{BootConfig, SshHostKey};

    #[test]
    fn ids_are_told_from_other_words() {
        assert!(is_machine_id("0123456789abcdef0123456789abcdef"));
        for wrong in ["", "0123456789ABCDEF0123456789abcdef", "0123456789abcdef0123456789abcde", &"0".repeat(32)] {
            assert!(!is_machine_id(wrong), "{wrong}");
        }
        assert!(is_uuid("0f0e0d0c-0b0a-4908-8706-050403020100"));
        for wrong in
            ["", "0f0e0d0c-0b0a-4908-8706-05040302010", "0f0e0d0c00b0a-4908-8706-050403020100", &"-".repeat(36)]
        {
            assert!(!is_uuid(wrong), "{wrong}");
        }
    }

    proptest::proptest! {
        #[test]
        fn every_uuid_is_one(number: u128) {
            let digits = format!("{number:032x}");
            let uuid = [&digits[..8], &digits[8..12], &digits[12..16], &digits[16..20], &digits[20..]].join("-");
            proptest::prop_assert!(is_uuid(&uuid));
        }

        #[test]
        fn any_text_is_an_id_or_not(text: String) {
            proptest::prop_assert!(!is_uuid(&text) || text.len() == 36);
            proptest::prop_assert!(!is_machine_id(&text) || text.len() == 32);
        }
    }

    #[test]
    fn the_files_of_host_keys_are_known() {
        for (name, algorithm) in [
            ("ssh_host_rsa_key", Some("rsa")),
            ("ssh_host_ed25519_key.pub", Some("ed25519")),
            ("ssh_host_rsa_key-cert.pub", Some("rsa")),
            ("ssh_host_rsa_key.bak", None),
            ("sshd_config", None),
            ("moduli", None),
        ] {
            assert_eq!(algorithm_of(name), algorithm, "{name}");
        }
    }

    fn renewed(root: &RootDir, machine_id: &str) -> Report {
        let key = SshHostKey { algorithm: "ed25519".into(), private: "p".into(), public: "q".into() };
        let config = BootConfig { machine_id: machine_id.into(), ssh_host_keys: vec![key], ..BootConfig::default() };
        let boot_uuid = Some("0f0e0d0c-0b0a-4908-8706-050403020100".into());
        let mut report = Report::unlogged();
        let parent = BootConfig::default();
        let place = Place { root, is_hosted: true, is_systemd: false, is_quiet: false, parent: &parent };
        renew(&place, &Renewal { boot_uuid, config, ..Renewal::default() }, &mut report).unwrap();
        report
    }

    #[test]
    fn another_machine_has_none_of_its_parents_keys_and_the_same_one_keeps_its_own() {
        let dir = tempfile::tempdir().unwrap();
        let root = RootDir::open(dir.path().to_str().unwrap()).unwrap();
        for (path, text) in [
            ("/etc/ssh/ssh_host_rsa_key", "made in the guest"),
            ("/etc/ssh/ssh_host_rsa_key.pub", "made in the guest"),
            ("/etc/ssh/sshd_config", "x"),
            (SEED_FILE, "old"),
            ("/var/lib/dbus/machine-id", "old"),
        ] {
            root.write(path, text.as_bytes(), 0o644).unwrap();
        }
        let (one, two) = ("1".repeat(32), "2".repeat(32));
        root.write(MACHINE_ID, format!("{one}\n").as_bytes(), 0o444).unwrap();
        renewed(&root, &one);
        assert!(root.exists("/etc/ssh/ssh_host_rsa_key"), "it is the same machine");
        let (_, warnings) = renewed(&root, &two).into_parts();
        assert_eq!(warnings, Vec::<String>::new());
        assert!(!root.exists("/etc/ssh/ssh_host_rsa_key") && !root.exists("/etc/ssh/ssh_host_rsa_key.pub"));
        assert!(root.exists("/etc/ssh/ssh_host_ed25519_key") && root.exists("/etc/ssh/sshd_config"));
        assert_eq!(root.read(SEED_FILE, 1024).unwrap().unwrap().len(), SEED_BYTES);
        for path in [MACHINE_ID, "/var/lib/dbus/machine-id"] {
            assert_eq!(root.read_text(path, 64).unwrap().unwrap(), format!("{two}\n"), "{path}");
        }
    }
}

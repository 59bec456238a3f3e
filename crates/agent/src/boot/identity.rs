//! Who the guest is, written before any of its services starts: names, resolver, keys, git identity, the user's files.
//!
//! What belongs to the image or to the person in the guest stays: in shared files banger owns a fenced block only.

use std::io;
use std::os::fd::OwnedFd;

use rustix::fs::{Mode, OFlags};
use wire::agent::message::{BootConfig, GitIdentity, SyncedFile};

use super::{Report, network};
use crate::root_dir::RootDir;
use crate::serve::requests::set_clock;

/// Most bytes read of a file that is added to.
const FILE_BYTES_MAX: u64 = 1 << 20;
const FENCE_BEGIN: &str = "# >>> banger: written at every boot";
const FENCE_END: &str = "# <<< banger";

/// Sets the clock and feeds the random pool: both before anything is written or generated.
pub fn set_clock_and_entropy(config: &BootConfig, report: &mut Report) {
    if config.unix_ns != 0
        && let Err(failure) = set_clock(config.unix_ns)
    {
        report.warn(failure.to_string());
    }
    let fed = bytes_of_hex(&config.entropy_hex).and_then(|bytes| {
        if bytes.is_empty() {
            return Ok(());
        }
        sys::kernel::add_entropy(random_device()?, &bytes)
    });
    report.note("feed the random pool", fed);
}

/// The random pool, for what is asked of it by ioctl(2).
///
/// # Errors
/// When it cannot be opened.
pub fn random_device() -> io::Result<OwnedFd> {
    Ok(rustix::fs::open("/dev/urandom", OFlags::RDWR | OFlags::CLOEXEC, Mode::empty())?)
}

/// Writes what tells this machine from others of its image: names, resolver, host keys.
pub fn apply(root: &RootDir, config: &BootConfig, report: &mut Report) {
    network::loopback(report);
    set_host_name(config, report);
    write_names(root, config, report);
    if !config.machine_id.is_empty() {
        report.note("write /etc/machine-id", write_machine_id(root, &config.machine_id));
    }
    report.note("write the SSH host keys", write_host_keys(root, config));
}

/// Tells the kernel the guest's name.
pub fn set_host_name(config: &BootConfig, report: &mut Report) {
    if !config.hostname.is_empty() {
        report.note("set the host name", rustix::system::sethostname(config.hostname.as_bytes()));
    }
}

/// Writes the guest's name, and where it asks for those of others.
pub fn write_names(root: &RootDir, config: &BootConfig, report: &mut Report) {
    if !config.hostname.is_empty() {
        let name = format!("{}\n", config.hostname);
        report.note("write /etc/hostname", root.write("/etc/hostname", name.as_bytes(), 0o644));
    }
    report.note("write /etc/hosts", write_hosts(root, &config.hostname));
    report.note("write /etc/resolv.conf", write_resolver(root, config));
}

/// Where the machine's id is.
pub const MACHINE_ID: &str = "/etc/machine-id";
/// Where D-Bus keeps a copy, in images where that is no link.
const MACHINE_ID_OF_DBUS: &str = "/var/lib/dbus/machine-id";

/// Writes machine-id(5).
///
/// # Errors
/// When it cannot be written.
pub fn write_machine_id(root: &RootDir, id: &str) -> io::Result<()> {
    let line = format!("{id}\n");
    root.write(MACHINE_ID, line.as_bytes(), 0o444)?;
    if root.read_link(MACHINE_ID_OF_DBUS).is_none() && root.exists(MACHINE_ID_OF_DBUS) {
        root.write(MACHINE_ID_OF_DBUS, line.as_bytes(), 0o444)?;
    }
    Ok(())
}

/// Writes what is of the person whose machine it is: keys, git identity, files. Their home must be there.
pub fn apply_personal(root: &RootDir, config: &BootConfig, report: &mut Report) {
    report.note("write root's authorized_keys", write_authorized_keys(root, &config.authorized_keys));
    if let Some(identity) = &config.git_identity {
        report.note("write root's git identity", write_git_identity(root, identity));
    }
    for file in &config.files {
        report.note(&format!("write {}", file.path), write_synced(root, file));
    }
}

/// Makes the directory that the image's commands begin in, as engines of containers do: not every builder makes it.
pub fn make_workdir(root: &RootDir, config: &BootConfig, report: &mut Report) {
    if let Some(path) = config.image_workdir.as_deref().filter(|path| path.starts_with('/')) {
        report.note(&format!("make the image's directory {path}"), root.ensure_dir(path, 0o755).map(drop));
    }
}

fn write_hosts(root: &RootDir, hostname: &str) -> io::Result<()> {
    let own = format!("127.0.0.1 localhost\n::1 localhost ip6-localhost ip6-loopback\n127.0.1.1 {hostname}\n");
    let old = root.read_text("/etc/hosts", FILE_BYTES_MAX)?.unwrap_or_default();
    root.write("/etc/hosts", with_block(&old, &own).as_bytes(), 0o644)
}

fn write_resolver(root: &RootDir, config: &BootConfig) -> io::Result<()> {
    let Some(network) = &config.network else {
        return Ok(());
    };
    let mut text = String::from("# written by banger at every boot\n");
    for server in &network.dns {
        text.push_str(&format!("nameserver {server}\n"));
    }
    root.write("/etc/resolv.conf", text.as_bytes(), 0o644)
}

/// Writes the host keys, where the image has a place for them.
///
/// # Errors
/// When one cannot be written.
pub fn write_host_keys(root: &RootDir, config: &BootConfig) -> io::Result<()> {
    if config.ssh_host_keys.is_empty() || !root.exists("/etc/ssh") {
        return Ok(());
    }
    for key in &config.ssh_host_keys {
        if key.algorithm.is_empty() || !key.algorithm.bytes().all(|b| b.is_ascii_alphanumeric()) {
            return Err(io::Error::new(
                io::ErrorKind::InvalidInput,
                format!("{:?} is no key algorithm", key.algorithm),
            ));
        }
        let path = format!("/etc/ssh/ssh_host_{}_key", key.algorithm);
        root.write(&path, key.private.as_bytes(), 0o600)?;
        root.write(&format!("{path}.pub"), key.public.as_bytes(), 0o644)?;
    }
    Ok(())
}

fn write_authorized_keys(root: &RootDir, keys: &[String]) -> io::Result<()> {
    let old = root.read_text("/root/.ssh/authorized_keys", FILE_BYTES_MAX)?;
    if keys.is_empty() && !old.as_deref().is_some_and(|old| old.contains(FENCE_BEGIN)) {
        return Ok(());
    }
    let mut own = String::new();
    for key in keys {
        own.push_str(key.trim());
        own.push('\n');
    }
    let directory = root.ensure_dir("/root/.ssh", 0o700)?;
    rustix::fs::fchmod(&directory, Mode::from_raw_mode(0o700))?;
    root.write("/root/.ssh/authorized_keys", with_block(&old.unwrap_or_default(), &own).as_bytes(), 0o600)
}

/// `old` with banger's block replaced by `own`, foreign lines in their order; no block for an empty `own`.
fn with_block(old: &str, own: &str) -> String {
    let mut text = String::new();
    let mut inside = false;
    for line in old.lines() {
        if line == FENCE_BEGIN {
            inside = true;
        } else if line == FENCE_END {
            inside = false;
        } else if !inside {
            text.push_str(line);
            text.push('\n');
        }
    }
    if !own.is_empty() {
        text.push_str(&format!("{FENCE_BEGIN}\n{own}{FENCE_END}\n"));
    }
    text
}

/// Only where nobody said who commits are by.
fn write_git_identity(root: &RootDir, identity: &GitIdentity) -> io::Result<()> {
    for path in ["/root/.gitconfig", "/root/.config/git/config", "/etc/gitconfig"] {
        if root.read_text(path, FILE_BYTES_MAX)?.is_some_and(|text| names_user(&text)) {
            return Ok(());
        }
    }
    let mut text = root.read_text("/root/.gitconfig", FILE_BYTES_MAX)?.unwrap_or_default();
    if !text.is_empty() && !text.ends_with('\n') {
        text.push('\n');
    }
    text.push_str(&git_section(identity));
    root.write("/root/.gitconfig", text.as_bytes(), 0o644)
}

/// Takes away what [`apply_personal`] wrote about who commits are by; what somebody changed since is theirs.
///
/// # Errors
/// When the file cannot be written.
pub fn remove_git_identity(root: &RootDir, identity: &GitIdentity) -> io::Result<()> {
    let text = root.read_text("/root/.gitconfig", FILE_BYTES_MAX)?.unwrap_or_default();
    match text.strip_suffix(&git_section(identity)) {
        Some(rest) => root.write("/root/.gitconfig", rest.as_bytes(), 0o644),
        None => Ok(()),
    }
}

/// As it is written, at the end of the file.
fn git_section(identity: &GitIdentity) -> String {
    format!("[user]\n\tname = {}\n\temail = {}\n", quoted(&identity.name), quoted(&identity.email))
}

/// Whether a git-config(1) file sets `user.name` or `user.email`.
fn names_user(text: &str) -> bool {
    let mut in_user = false;
    text.lines().map(str::trim).any(|line| {
        if line.starts_with('[') {
            let section = line.trim_start_matches('[').split(']').next().unwrap_or_default();
            in_user = section.trim().eq_ignore_ascii_case("user");
        }
        let key = line.rsplit(']').next().unwrap_or(line).split('=').next().unwrap_or_default().trim();
        in_user && (key.eq_ignore_ascii_case("name") || key.eq_ignore_ascii_case("email"))
    })
}

/// A value as git-config(1) reads it back, whatever is in it.
fn quoted(value: &str) -> String {
    let escaped: String = value
        .chars()
        .filter(|c| !c.is_control())
        .flat_map(|c| match c {
            '"' | '\\' => vec!['\\', c],
            other => vec![other],
        })
        .collect();
    format!("\"{escaped}\"")
}

fn write_synced(root: &RootDir, file: &SyncedFile) -> io::Result<()> {
    let is_below = file.path.starts_with("/root/") && !file.path.split('/').any(|part| part == ".." || part == ".");
    if !is_below || file.path.ends_with('/') {
        return Err(io::Error::new(io::ErrorKind::InvalidInput, "it is not a path below /root"));
    }
    root.write(&file.path, &bytes_of_hex(&file.content_hex)?, file.mode & 0o7777)
}

/// The bytes that hexadecimal digits spell.
///
/// # Errors
/// When they spell none.
pub fn bytes_of_hex(text: &str) -> io::Result<Vec<u8>> {
    let malformed = || io::Error::new(io::ErrorKind::InvalidInput, "not hexadecimal");
    let digit = |c: &u8| char::from(*c).to_digit(16).and_then(|d| u8::try_from(d).ok()).ok_or_else(malformed);
    let pairs = text.as_bytes().chunks(2);
    pairs
        .map(|pair| match pair {
            [high, low] => Ok(digit(high)? << 4 | digit(low)?),
            _ => Err(malformed()),
        })
        .collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn rooted() -> (tempfile::TempDir, RootDir) {
        let dir = tempfile::tempdir().unwrap();
        let root = RootDir::open(dir.path().to_str().unwrap()).unwrap();
        (dir, root)
    }

    #[test]
    fn foreign_lines_stay_and_our_block_is_replaced() {
        let (dir, root) = rooted();
        let path = dir.path().join("root/.ssh/authorized_keys");
        root.write("/root/.ssh/authorized_keys", b"ssh-rsa mine", 0o644).unwrap();
        write_authorized_keys(&root, &["one".into(), "two\n".into()]).unwrap();
        write_authorized_keys(&root, &["three".into()]).unwrap();
        let text = std::fs::read_to_string(&path).unwrap();
        assert_eq!(text, format!("ssh-rsa mine\n{FENCE_BEGIN}\nthree\n{FENCE_END}\n"));
        write_authorized_keys(&root, &[]).unwrap();
        assert_eq!(std::fs::read_to_string(&path).unwrap(), "ssh-rsa mine\n");
    }

    #[test]
    fn a_git_identity_is_not_overruled() {
        for (text, named) in [
            ("[user]\n\tname = x\n", true),
            ("[User] email=a@b", true),
            ("[core]\n name = x\n", false),
            ("[user \"sub\"]\nname = x\n", false),
            ("", false),
        ] {
            assert_eq!(names_user(text), named, "{text:?}");
        }
        let (dir, root) = rooted();
        let identity = GitIdentity { name: "A \"B\" \\C\n[x]".into(), email: "a@b".into() };
        root.write("/root/.gitconfig", b"[core]\n\tx = y", 0o644).unwrap();
        write_git_identity(&root, &identity).unwrap();
        write_git_identity(&root, &GitIdentity { name: "other".into(), email: String::new() }).unwrap();
        let text = std::fs::read_to_string(dir.path().join("root/.gitconfig")).unwrap();
        assert_eq!(text, "[core]\n\tx = y\n[user]\n\tname = \"A \\\"B\\\" \\\\C[x]\"\n\temail = \"a@b\"\n");
        let other = GitIdentity { name: "other".into(), email: String::new() };
        for (removed, left) in [(&other, text.as_str()), (&identity, "[core]\n\tx = y\n")] {
            remove_git_identity(&root, removed).unwrap();
            assert_eq!(std::fs::read_to_string(dir.path().join("root/.gitconfig")).unwrap(), left);
        }
    }

    #[test]
    fn synced_files_stay_below_root() {
        let (dir, root) = rooted();
        let file = |path: &str| SyncedFile { path: path.into(), mode: 0o640, content_hex: "6869".into() };
        write_synced(&root, &file("/root/a/b")).unwrap();
        assert_eq!(std::fs::read(dir.path().join("root/a/b")).unwrap(), b"hi");
        for wrong in ["/etc/x", "/root/../etc/x", "root/x", "/root/", "/root/./x", "/rootx"] {
            assert!(write_synced(&root, &file(wrong)).is_err(), "{wrong}");
        }
    }

    #[test]
    fn hexadecimal_is_read_or_refused() {
        assert_eq!(bytes_of_hex("00fFa0").unwrap(), [0, 255, 160]);
        for wrong in ["0", "0g", "é"] {
            assert!(bytes_of_hex(wrong).is_err(), "{wrong}");
        }
    }
}

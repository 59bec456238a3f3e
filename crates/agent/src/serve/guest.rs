//! What the agent knows about the guest it serves: where its root is, what the image wants of commands, who its users are.

use std::io::{self, Read};
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::path::PathBuf;

use rustix::fs::{Mode, OFlags};
use sys::spawn::Credentials;
use wire::agent::message::{BootConfig, Failure};

use super::accounts::{self, Account};
use super::cgroup::Cgroups;
use super::exec::open_null;

/// A file as it was when it was read: device, inode, size, time of change.
type Version = (u64, u64, i64, i64, i64);

/// A file that is read again only after it changed.
#[derive(Debug, Default)]
struct Remembered {
    version: Option<Version>,
    text: String,
}

/// The guest, as commands see it.
#[derive(Debug)]
pub struct Guest {
    /// Outside a VM: the directory that stands for the guest's root.
    root: Option<PathBuf>,
    own: Credentials,
    config: BootConfig,
    /// The boot id it was renewed with.
    boot_uuid: Option<String>,
    passwd: Remembered,
    group: Remembered,
    null: Option<OwnedFd>,
    /// Where commands are kept apart.
    pub cgroups: Cgroups,
}

impl Guest {
    /// A guest whose root is the process's own, or `root` for a process outside a VM.
    #[must_use]
    pub fn new(root: Option<PathBuf>, config: BootConfig, cgroups: Cgroups) -> Guest {
        let own = Credentials {
            uid: rustix::process::geteuid().as_raw(),
            gid: rustix::process::getegid().as_raw(),
            groups: Vec::new(),
        };
        let (passwd, group) = (Remembered::default(), Remembered::default());
        Guest { root, own, config, boot_uuid: None, passwd, group, null: None, cgroups }
    }

    /// Takes what a process outside a VM is told instead of booting.
    pub fn configure(&mut self, config: BootConfig) {
        self.config = config;
    }

    /// It is another machine.
    pub fn renew(&mut self, config: BootConfig, boot_uuid: Option<String>) {
        self.config = config;
        self.boot_uuid = boot_uuid.or(self.boot_uuid.take());
    }

    /// What it was told to be.
    #[must_use]
    pub fn config(&self) -> &BootConfig {
        &self.config
    }

    /// The boot id it was renewed with, if it was.
    #[must_use]
    pub fn boot_uuid(&self) -> Option<&str> {
        self.boot_uuid.as_deref()
    }

    /// Whether this is a process outside a VM.
    #[must_use]
    pub fn is_hosted(&self) -> bool {
        self.root.is_some()
    }

    /// Where a path of the guest is for this process.
    #[must_use]
    pub fn place(&self, path: &str) -> String {
        match &self.root {
            Some(root) if path.starts_with('/') => format!("{}{path}", root.display()),
            _ => path.to_owned(),
        }
    }

    /// The root directory of the guest.
    ///
    /// # Errors
    /// When it cannot be opened.
    pub fn open_root(&self) -> io::Result<OwnedFd> {
        let flags = OFlags::PATH | OFlags::DIRECTORY | OFlags::CLOEXEC;
        Ok(rustix::fs::open(self.place("/"), flags, Mode::empty())?)
    }

    /// The rights this process has itself.
    #[must_use]
    pub fn own_credentials(&self) -> &Credentials {
        &self.own
    }

    /// The image's `Env`.
    #[must_use]
    pub fn image_env(&self) -> &[(String, String)] {
        &self.config.image_env
    }

    /// The image's `WorkingDir`.
    #[must_use]
    pub fn image_workdir(&self) -> Option<&str> {
        self.config.image_workdir.as_deref().filter(|path| !path.is_empty())
    }

    /// Who a command runs as when `user` was asked for. A process outside a VM that is not root can only run commands as
    /// itself, and does so when nobody else was asked for.
    ///
    /// # Errors
    /// When there is no such user.
    pub fn account(&mut self, user: Option<&str>) -> Result<Account, Failure> {
        let image_user = self.config.image_user.as_deref().filter(|user| !user.is_empty());
        let own = self.own.uid.to_string();
        let spec = match user.or(image_user) {
            Some(spec) => spec.to_owned(),
            None if self.is_hosted() => own,
            None => "0".to_owned(),
        };
        let (passwd, group) = (self.place("/etc/passwd"), self.place("/etc/group"));
        self.passwd.refresh(&passwd);
        self.group.refresh(&group);
        let mut account = accounts::find(&spec, &self.passwd.text, &self.group.text)?;
        if self.is_hosted() && account.uid == self.own.uid {
            (account.gid, account.groups) = (self.own.gid, Vec::new());
        }
        Ok(account)
    }

    /// `/dev/null`.
    ///
    /// # Errors
    /// When it cannot be opened.
    pub fn null(&mut self) -> io::Result<BorrowedFd<'_>> {
        if self.null.is_none() {
            self.null = Some(open_null()?);
        }
        Ok(self.null.as_ref().expect("opened just now").as_fd())
    }

    /// Lets go of everything inside the guest's root, so that it can be unmounted.
    pub fn forget(&mut self) {
        self.null = None;
        self.cgroups.forget();
    }
}

impl Remembered {
    /// A file that is missing, too large or no text is empty.
    fn refresh(&mut self, path: &str) {
        let version = rustix::fs::stat(path)
            .ok()
            .map(|s| (s.st_dev, s.st_ino, s.st_size, s.st_mtime, i64::try_from(s.st_mtime_nsec).unwrap_or_default()));
        if version.is_some() && version == self.version {
            return;
        }
        self.version = version;
        self.text = read_text(path).unwrap_or_default();
    }
}

fn read_text(path: &str) -> io::Result<String> {
    let flags = OFlags::RDONLY | OFlags::CLOEXEC | OFlags::NONBLOCK | OFlags::NOCTTY;
    let file = std::fs::File::from(rustix::fs::open(path, flags, Mode::empty())?);
    if !file.metadata()?.is_file() {
        return Ok(String::new());
    }
    let mut bytes = Vec::new();
    file.take(accounts::FILE_BYTES_MAX).read_to_end(&mut bytes)?;
    Ok(String::from_utf8_lossy(&bytes).into_owned())
}

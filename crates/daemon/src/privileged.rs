//! Asking the helper for what takes root: jails, VMMs in them, taps.
//!
//! One connection, made when it is needed and made anew when the helper was restarted. Every verb may be repeated, so a
//! request whose answer got lost is simply asked again.

use std::fs::{File, OpenOptions};
use std::io;
use std::os::fd::{AsFd, OwnedFd};
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use sys::packet;
use sys::process::Identity;
use wire::helper::{
    Access, Answer, Call, Envelope, Failure, Hello, JailFile, Limits, Nic, PACKET_BYTES_MAX, Root, SpawnVmm, build_id,
};
use wire::id::{BootId, OpId, VmId};

/// How long the helper may take. Its slowest verb waits ten seconds for a killed VMM.
const PATIENCE: Duration = Duration::from_secs(30);
/// Of a file that only one VM uses: for its owner, and for the VM's group, which the helper makes its group.
const PRIVATE_MODE: u32 = 0o660;
/// Of a file that VMs share, all of which are other users: the directory over it keeps everybody else out.
const SHARED_MODE: u32 = 0o644;

/// Why something that takes root was not done.
#[derive(Debug, thiserror::Error)]
pub enum PrivilegedError {
    /// Nobody listens.
    #[error("cannot reach the helper at {}", .path.display())]
    Connect {
        /// Its socket.
        path: PathBuf,
        /// Why.
        #[source]
        source: io::Error,
    },
    /// The connection broke, twice.
    #[error("cannot talk to the helper")]
    Talk(#[source] io::Error),
    /// It said no.
    #[error(transparent)]
    Refused(#[from] Failure),
    /// A file for a jail cannot be opened.
    #[error("cannot open {} for its VM", .path.display())]
    Open {
        /// Which one.
        path: PathBuf,
        /// Why.
        #[source]
        source: io::Error,
    },
}

impl PrivilegedError {
    /// What a person can do about it.
    #[must_use]
    pub fn hint(&self) -> Option<&'static str> {
        match self {
            PrivilegedError::Connect { .. } => Some("look at it: systemctl status banger-helper.socket"),
            PrivilegedError::Refused(Failure::Build { .. }) => {
                Some("restart what is older: systemctl restart banger-helper.service bangerd.service")
            }
            PrivilegedError::Talk(_) => Some("see what it says: journalctl -u banger-helper.service"),
            PrivilegedError::Refused(_) | PrivilegedError::Open { .. } => None,
        }
    }
}

/// The helper, as the daemon sees it. Clones share one connection.
#[derive(Debug, Clone)]
pub struct Helper {
    path: PathBuf,
    connection: Arc<Mutex<Option<OwnedFd>>>,
}

/// What one call brings back.
struct Came {
    packet: Vec<u8>,
    fds: Vec<OwnedFd>,
}

/// A VMM that runs in its jail.
#[derive(Debug)]
pub struct Jailed {
    /// Which process it is.
    pub identity: Identity,
    /// Becomes readable when it ends.
    pub pidfd: OwnedFd,
}

/// What to start in a jail.
#[derive(Debug)]
pub struct Spawn {
    /// In whose jail.
    pub boot: BootId,
    /// What it finds there, each with a descriptor from [`open_file`].
    pub files: Vec<(JailFile, OwnedFd)>,
    /// Standard output and standard error, open for appending only.
    pub outputs: [OwnedFd; 2],
    /// What it has for its guest's NIC.
    pub nic: Nic,
    /// What it may use of the host.
    pub limits: Limits,
}

impl Helper {
    /// The helper that listens at `path`; nobody is asked yet.
    #[must_use]
    pub fn at(path: &Path) -> Helper {
        Helper { path: path.to_owned(), connection: Arc::default() }
    }

    /// Asks for one thing. `operation` is what it is for, as the helper's log tells.
    ///
    /// # Errors
    /// When the helper cannot be reached, or refuses.
    pub async fn call<C: Call>(&self, operation: Option<OpId>, request: C) -> Result<C::Reply, PrivilegedError> {
        self.call_with(operation, request, Vec::new()).await.map(|(reply, _)| reply)
    }

    /// As [`Helper::call`], for who may block.
    ///
    /// # Errors
    /// When the helper cannot be reached, or refuses.
    pub fn ask<C: Call>(&self, operation: Option<OpId>, request: C) -> Result<C::Reply, PrivilegedError> {
        reply_of::<C>(&self.exchange(&packet_of(operation, request)?, &[])?.packet)
    }

    /// Starts a VMM. Where it already runs, that one is the answer.
    ///
    /// # Errors
    /// When the helper cannot be reached, or refuses.
    pub async fn spawn(&self, operation: Option<OpId>, spawn: Spawn) -> Result<Jailed, PrivilegedError> {
        let (files, opened): (Vec<_>, Vec<_>) = spawn.files.into_iter().unzip();
        let request = SpawnVmm { boot: spawn.boot, files, nic: spawn.nic, limits: spawn.limits };
        let fds = spawn.outputs.into_iter().chain(opened).collect();
        let (runs, came) = self.call_with(operation, request, fds).await?;
        let identity = Identity { pid: runs.pid, start_ticks: runs.start_ticks };
        let missing = || PrivilegedError::Talk(io::Error::new(io::ErrorKind::InvalidData, "no pidfd came back"));
        let pidfd = came.into_iter().next().ok_or_else(missing)?;
        Ok(Jailed { identity, pidfd })
    }

    async fn call_with<C: Call>(
        &self,
        operation: Option<OpId>,
        request: C,
        fds: Vec<OwnedFd>,
    ) -> Result<(C::Reply, Vec<OwnedFd>), PrivilegedError> {
        let packet = packet_of(operation, request)?;
        let helper = self.clone();
        let came = tokio::task::spawn_blocking(move || helper.exchange(&packet, &fds)).await;
        let came = came.map_err(|error| PrivilegedError::Talk(io::Error::other(error)))??;
        Ok((reply_of::<C>(&came.packet)?, came.fds))
    }

    /// One packet there and one back; a connection that broke is made once more.
    fn exchange(&self, packet: &[u8], fds: &[OwnedFd]) -> Result<Came, PrivilegedError> {
        let mut connection = self.connection.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(socket) = connection.take()
            && let Ok(came) = round_trip(&socket, packet, fds)
        {
            *connection = Some(socket);
            return Ok(came);
        }
        let socket = self.connect()?;
        let came = round_trip(&socket, packet, fds).map_err(PrivilegedError::Talk)?;
        *connection = Some(socket);
        Ok(came)
    }

    /// A new connection to a helper of this build.
    fn connect(&self) -> Result<OwnedFd, PrivilegedError> {
        let socket = packet::connect_to(&self.path, PATIENCE)
            .map_err(|source| PrivilegedError::Connect { path: self.path.clone(), source })?;
        let build = build_id(env!("CARGO_PKG_VERSION"), env!("BANGER_COMMIT"));
        let hello = packet_of(None, Hello { build })?;
        let came = round_trip(&socket, &hello, &[]).map_err(PrivilegedError::Talk)?;
        reply_of::<Hello>(&came.packet)?;
        Ok(socket)
    }
}

fn packet_of(operation: Option<OpId>, request: impl Call) -> Result<Vec<u8>, PrivilegedError> {
    let envelope = Envelope { operation, request: request.into() };
    serde_json::to_vec(&envelope).map_err(|error| PrivilegedError::Talk(error.into()))
}

fn reply_of<C: Call>(packet: &[u8]) -> Result<C::Reply, PrivilegedError> {
    match serde_json::from_slice(packet) {
        Ok(Answer::Done(reply)) => Ok(reply),
        Ok(Answer::Refused(failure)) => Err(failure.into()),
        Err(error) => Err(PrivilegedError::Talk(error.into())),
    }
}

fn round_trip(socket: &OwnedFd, packet: &[u8], fds: &[OwnedFd]) -> io::Result<Came> {
    let borrowed: Vec<_> = fds.iter().map(AsFd::as_fd).collect();
    packet::send(socket, packet, &borrowed)?;
    let mut buffer = vec![0; PACKET_BYTES_MAX];
    let received = packet::receive(socket, &mut buffer)?;
    if received.bytes == 0 || received.is_cut {
        return Err(io::ErrorKind::UnexpectedEof.into());
    }
    buffer.truncate(received.bytes);
    Ok(Came { packet: buffer, fds: received.fds })
}

/// Opens a file of a jail as its owner, for what the jail will do with it, with a mode that lets the VM in.
///
/// # Errors
/// When it is not there or not ours.
pub fn open_file(
    (state, cache): (&Path, &Path),
    vm: &VmId,
    boot: &BootId,
    file: &JailFile,
) -> Result<OwnedFd, PrivilegedError> {
    let (root, place) = file.place(vm, boot);
    let path = match root {
        Root::State => state.join(place),
        Root::Cache => cache.join(place),
    };
    let (writes, mode) = match file.access() {
        Access::Shared => (false, SHARED_MODE),
        Access::Private => (true, PRIVATE_MODE),
    };
    let opened = OpenOptions::new().read(true).write(writes).open(&path).and_then(|file| with_mode(file, mode));
    opened.map(OwnedFd::from).map_err(|source| PrivilegedError::Open { path, source })
}

/// Only what differs is changed: a shared file may be on a filesystem that nobody writes to.
fn with_mode(file: File, mode: u32) -> io::Result<File> {
    let mut permissions = file.metadata()?.permissions();
    if permissions.mode() & 0o7777 != mode {
        permissions.set_mode(mode);
        file.set_permissions(permissions)?;
    }
    Ok(file)
}

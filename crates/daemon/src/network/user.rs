//! The driver `user`: networks without any privilege.
//!
//! | asked | who carries the frames | what the guest reaches |
//! |---|---|---|
//! | nothing | QEMU's own user-mode network, restricted | nothing |
//! | `--nat` | passt(1), or where it is missing slirp4netns(1), behind our [`filter`](super::filter) | the outside; nothing on the host's loopback |
//! | ports alone, and the NIC is a tap | the same, and the filter lets answers of these ports pass | nothing |
//! | nothing, and the NIC is a tap | nobody | nothing |
//!
//! Either way the guest has a static IPv4 address of its own network, and published ports lead to it from the host's
//! 127.0.0.1. With `--nat` it asks the host's own name servers, and has IPv6 too where passt carries it and
//! the host has a default route for it. One that listens on the host's loopback is out of its reach; behind systemd-resolved's are the real ones.

use std::collections::BTreeSet;
use std::ffi::OsStr;
use std::io;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, TcpListener};
use std::os::fd::OwnedFd;
use std::path::{Path, PathBuf};
use std::process::{Child, Stdio};
use std::time::Duration;

use async_trait::async_trait;
use rustix::process::Signal;
use sys::process::Identity;
use tokio::io::unix::AsyncFd;
use tokio::time::{Instant, sleep_until, timeout};
use wire::agent::message::GuestNetwork;
use wire::api::Publish;

use super::filter::{Filter, Handover, Reach, Speech, gate};
use super::{NetworkDriver, NetworkError};
use crate::model::machine::{NicAttachment, NicSpec};

/// The program behind `--nat`.
pub const PROGRAM: &str = "passt";
/// What can stand in for it, with IPv4 only.
pub const SUBSTITUTE: &str = "slirp4netns";
/// The Debian package that brings it.
pub const PACKAGE: &str = "passt";

/// The guest's address, the one QEMU's user-mode network forwards ports to.
pub(super) const GUEST_V4: Ipv4Addr = Ipv4Addr::new(10, 0, 2, 15);
/// The other end of its network.
pub(super) const GATEWAY_V4: Ipv4Addr = Ipv4Addr::new(10, 0, 2, 2);
/// Bits of its network.
const PREFIX_V4: u8 = 24;
/// A unique local address (RFC 4193); guests never see each other, so all have the same.
const GUEST_V6: Ipv6Addr = Ipv6Addr::new(0xfd62, 0x616e, 0x6765, 0x72, 0, 0, 0, 0x15);
const GATEWAY_V6: Ipv6Addr = Ipv6Addr::new(0xfd62, 0x616e, 0x6765, 0x72, 0, 0, 0, 2);
const PREFIX_V6: u8 = 64;

/// The other end's, where passt cannot take that of an interface.
const GATEWAY_MAC: &str = "52:54:00:00:00:02";

/// Name servers resolv.conf(5) has room for.
const NAME_SERVERS_MAX: usize = 3;
/// Where the C library looks, and where systemd-resolved names the servers behind its own.
const RESOLV_CONF: [&str; 2] = ["/etc/resolv.conf", "/run/systemd/resolve/resolv.conf"];
/// How long passt may take to be up.
const UP_WITHIN: Duration = Duration::from_secs(15);
/// How often a starting one is looked at.
const LOOK_EVERY: Duration = Duration::from_millis(5);
/// How long a killed process may take to be gone.
const GONE_WITHIN: Duration = Duration::from_secs(10);
/// Longest path of a Unix socket: unix(7).
const SOCKET_PATH_MAX: usize = 107;

/// Networks without privilege.
#[derive(Debug, Clone)]
pub struct UserNetwork {
    /// Who carries the frames of open guests; none when neither is installed.
    carrier: Option<Carrier>,
    /// `bangerd`, which is the filter too.
    daemon: PathBuf,
    /// Whether open guests have IPv6.
    has_v6: bool,
    /// The resolver of open guests, instead of the host's.
    resolver: Option<IpAddr>,
    nics: Nics,
    /// slirp4netns, whether or not it is the carrier.
    substitute: Option<PathBuf>,
}

/// How VMMs carry their guests' NICs.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Nics {
    /// By themselves, or on a stream, as QEMU does.
    Streams,
    /// By a tap.
    Taps,
}

#[derive(Debug, Clone)]
enum Carrier {
    Passt(PathBuf),
    Slirp4netns(PathBuf),
}

impl UserNetwork {
    /// The name of this driver.
    pub const NAME: &'static str = "user";

    /// Looks for programs in `path` (the value of `PATH`) and for the host's routes; `daemon` is the `bangerd` to run as
    /// the filter.
    #[must_use]
    pub fn probe(path: Option<&OsStr>, daemon: PathBuf) -> UserNetwork {
        let find = |program| path.and_then(|path| sys::process::find_program(program, path));
        let substitute = find(SUBSTITUTE);
        let carrier = find(PROGRAM).map(Carrier::Passt).or_else(|| substitute.clone().map(Carrier::Slirp4netns));
        let routes = std::fs::read_to_string("/proc/net/ipv6_route").unwrap_or_default();
        let has_v6 = matches!(carrier, Some(Carrier::Passt(_))) && has_default_route(&routes);
        UserNetwork { carrier, daemon, has_v6, resolver: None, nics: Nics::Streams, substitute }
    }

    /// With a resolver of its owner's choice.
    #[must_use]
    pub fn with_resolver(self, resolver: Option<IpAddr>) -> UserNetwork {
        UserNetwork { resolver, ..self }
    }

    /// For VMMs that carry NICs so. Behind a tap slirp4netns comes first where it is installed: a tap loses frames that it has no
    /// room for, and passt up to 2023 (Debian 12 has one) resets connections then.
    #[must_use]
    pub fn for_nics(self, nics: Nics) -> UserNetwork {
        match (nics, self.substitute.clone()) {
            (Nics::Taps, Some(program)) => {
                UserNetwork { nics, carrier: Some(Carrier::Slirp4netns(program)), has_v6: false, ..self }
            }
            (Nics::Taps, None) | (Nics::Streams, _) => UserNetwork { nics, ..self },
        }
    }

    /// The program that carries the frames of open guests; none when none is installed and `--nat` is refused.
    #[must_use]
    pub fn carrier(&self) -> Option<&Path> {
        match &self.carrier {
            Some(Carrier::Passt(program) | Carrier::Slirp4netns(program)) => Some(program),
            None => None,
        }
    }

    fn filter(&self, nic: &NicSpec, boot_dir: &Path, socket: &Path) -> Result<Filter, NetworkError> {
        let carrier = self.carrier.as_ref().ok_or_else(|| missing(nic))?;
        let has_v6 = self.has_v6 && nic.nat;
        let (program, speech, arguments) = match carrier {
            Carrier::Passt(program) => (program, Speech::Stream, passt_arguments(nic, has_v6)),
            Carrier::Slirp4netns(program) => {
                let ports = nic.publish.iter().map(|publish| (publish.host_port, publish.guest_port)).collect();
                (program, Speech::Packets(ports), slirp4netns_arguments())
            }
        };
        let mut carrier = vec![program.to_string_lossy().into_owned()];
        carrier.extend(arguments);
        let carrier_pid = Files::of(boot_dir).carrier_pid;
        let handover = match self.nics {
            Nics::Streams => Handover::Stream,
            Nics::Taps => Handover::Tap,
        };
        let answers = || Reach::Answers(nic.publish.iter().map(|publish| publish.guest_port).collect());
        let reach = if nic.nat { Reach::Outside } else { answers() };
        let mac = nic.mac.clone();
        Ok(Filter { socket: socket.to_path_buf(), carrier_pid, mac, handover, reach, speech, carrier })
    }
}

/// The files of a boot's network.
struct Files {
    socket: PathBuf,
    /// What it is called before it takes connections: [`sys::socket::listen_at`].
    unready: PathBuf,
    filter_pid: PathBuf,
    carrier_pid: PathBuf,
    /// What slirp4netns makes: `filter/carrier.rs`.
    packets: PathBuf,
    api: PathBuf,
    /// What lets frames pass: `filter/gate.rs`.
    plugged: PathBuf,
    log: PathBuf,
}

impl Files {
    fn of(boot_dir: &Path) -> Files {
        Files {
            socket: boot_dir.join("net.sock"),
            unready: boot_dir.join("net.new"),
            filter_pid: boot_dir.join("net.pid"),
            carrier_pid: boot_dir.join("carrier.pid"),
            packets: boot_dir.join("net.pkts"),
            api: boot_dir.join("net.api"),
            plugged: boot_dir.join("net.plugged"),
            log: boot_dir.join("net.log"),
        }
    }
}

/// passt(1)'s arguments: static addresses, so nothing that hands some out; no way to the host's loopback by the gateway.
fn passt_arguments(nic: &NicSpec, has_v6: bool) -> Vec<String> {
    let words = "--foreground --quiet --no-map-gw --no-dhcp --no-dhcpv6 --no-ra --udp-ports none";
    let mut arguments: Vec<String> = words.split(' ').map(str::to_owned).collect();
    let mut option = |name: &str, value: String| arguments.extend([name.to_owned(), value]);
    option("--address", GUEST_V4.to_string());
    option("--netmask", PREFIX_V4.to_string());
    option("--gateway", GATEWAY_V4.to_string());
    if has_v6 {
        option("--address", GUEST_V6.to_string());
        option("--gateway", GATEWAY_V6.to_string());
    }
    if !nic.nat {
        // What only leads in needs no way out of this host, which passt would look for.
        option("--interface", "lo".to_owned());
        option("--mac-addr", GATEWAY_MAC.to_owned());
    }
    for Publish { host_port, guest_port } in &nic.publish {
        option("--tcp-ports", format!("127.0.0.1/{host_port}:{guest_port}"));
    }
    if !has_v6 {
        arguments.push("--ipv4-only".to_owned());
    }
    arguments
}

/// slirp4netns(1)'s arguments: the same addresses, which are its defaults, and nothing on the host by its own.
fn slirp4netns_arguments() -> Vec<String> {
    let network = format!("--cidr={}/{PREFIX_V4}", Ipv4Addr::from_bits(GATEWAY_V4.to_bits() & !0xff));
    vec!["--disable-host-loopback".to_owned(), "--disable-dns".to_owned(), "--mtu=1500".to_owned(), network]
}

#[async_trait]
impl NetworkDriver for UserNetwork {
    fn name(&self) -> &'static str {
        UserNetwork::NAME
    }

    fn plan(&self, nic: &NicSpec, boot_dir: &Path) -> Result<NicAttachment, NetworkError> {
        check_ports(&nic.publish)?;
        match self.nics {
            Nics::Streams if !nic.nat => return Ok(NicAttachment::QemuUser { publish: nic.publish.clone() }),
            Nics::Taps if !nic.nat && nic.publish.is_empty() => return Ok(NicAttachment::Tap { uplink: None }),
            Nics::Streams | Nics::Taps => {}
        }
        let path = Files::of(boot_dir).socket;
        self.filter(nic, boot_dir, &path)?;
        let length = path.as_os_str().len();
        if length > SOCKET_PATH_MAX {
            let why = format!("the socket path {} has {length} bytes, at most {SOCKET_PATH_MAX} fit", path.display());
            return Err(NetworkError::Refused { why });
        }
        Ok(match self.nics {
            Nics::Streams => NicAttachment::StreamSocket { path },
            Nics::Taps => NicAttachment::Tap { uplink: Some(path) },
        })
    }

    fn guest(&self, nic: &NicSpec) -> GuestNetwork {
        let mut guest = GuestNetwork {
            mac: nic.mac.clone(),
            addresses: vec![format!("{GUEST_V4}/{PREFIX_V4}")],
            gateways: Vec::new(),
            dns: Vec::new(),
        };
        if nic.nat {
            guest.gateways.push(GATEWAY_V4.to_string());
            if self.has_v6 {
                guest.addresses.push(format!("{GUEST_V6}/{PREFIX_V6}"));
                guest.gateways.push(GATEWAY_V6.to_string());
            }
            guest.dns = self.resolver.map_or_else(|| host_resolvers(self.has_v6), |own| vec![own.to_string()]);
        }
        guest
    }

    async fn ensure_attached(
        &self,
        nic: &NicSpec,
        attachment: &NicAttachment,
        boot_dir: &Path,
    ) -> Result<(), NetworkError> {
        let Some(path) = filter_socket(attachment) else {
            return check_free(&nic.publish);
        };
        let files = Files::of(boot_dir);
        if recorded(&files.filter_pid)?.is_some_and(|filter| filter.is_alive()) {
            return Ok(());
        }
        self.ensure_detached(attachment, boot_dir).await?;
        check_free(&nic.publish)?;
        let mut words = vec![self.daemon.to_string_lossy().into_owned()];
        words.extend(self.filter(nic, boot_dir, path)?.arguments());
        let filter = start(&words, &files)?;
        if let Err(why) = until_up(filter, &files).await {
            self.ensure_detached(attachment, boot_dir).await?;
            let program = match self.carrier {
                Some(Carrier::Slirp4netns(_)) => SUBSTITUTE,
                Some(Carrier::Passt(_)) | None => PROGRAM,
            };
            return Err(NetworkError::Process { program: program.to_owned(), why });
        }
        Ok(())
    }

    async fn ensure_plugged(&self, attachment: &NicAttachment, _boot_dir: &Path) -> Result<(), NetworkError> {
        match attachment {
            NicAttachment::Tap { uplink: Some(socket) } => Ok(sys::fs::append(&gate::file(socket), 0o600).map(drop)?),
            NicAttachment::Tap { uplink: None }
            | NicAttachment::QemuUser { .. }
            | NicAttachment::StreamSocket { .. } => Ok(()),
        }
    }

    async fn ensure_detached(&self, attachment: &NicAttachment, boot_dir: &Path) -> Result<(), NetworkError> {
        if filter_socket(attachment).is_none() {
            return Ok(());
        }
        let files = Files::of(boot_dir);
        // The filter first: it would otherwise be seen to lose its other end.
        for pid_file in [&files.filter_pid, &files.carrier_pid] {
            if let Some(identity) = recorded(pid_file)? {
                kill_and_wait(identity).await?;
            }
        }
        let Files { socket, unready, filter_pid, carrier_pid, packets, api, plugged, log } = files;
        for left in [socket, unready, filter_pid, carrier_pid, packets, api, plugged, log] {
            sys::fs::remove_file(&left)?;
        }
        Ok(())
    }

    fn possible_attachments(&self, boot_dir: &Path) -> Vec<NicAttachment> {
        // The other kinds are nothing but a part of the VMM, or the same files.
        vec![NicAttachment::StreamSocket { path: Files::of(boot_dir).socket }]
    }
}

/// Where the filter of an attachment listens; none when it has none.
fn filter_socket(attachment: &NicAttachment) -> Option<&PathBuf> {
    match attachment {
        NicAttachment::QemuUser { .. } => None,
        NicAttachment::StreamSocket { path } => Some(path),
        NicAttachment::Tap { uplink } => uplink.as_ref(),
    }
}

fn missing(nic: &NicSpec) -> NetworkError {
    if nic.nat {
        return NetworkError::Missing { program: PROGRAM, package: PACKAGE };
    }
    let why =
        format!("published ports of a closed guest take {PROGRAM}, which is not installed (Debian package {PACKAGE})");
    NetworkError::Refused { why }
}

/// Refuses ports that cannot be published together.
fn check_ports(publish: &[Publish]) -> Result<(), NetworkError> {
    let refused = |why: String| Err(NetworkError::Refused { why });
    let mut seen = BTreeSet::new();
    for Publish { host_port, guest_port } in publish {
        if *host_port == 0 || *guest_port == 0 {
            return refused("port 0 cannot be published".to_owned());
        }
        if !seen.insert(host_port) {
            return refused(format!("host port {host_port} is published twice"));
        }
    }
    Ok(())
}

/// Whether every port can be bound now. Whoever takes one afterwards makes the VMM or passt fail with its own words.
fn check_free(publish: &[Publish]) -> Result<(), NetworkError> {
    for Publish { host_port, .. } in publish {
        TcpListener::bind((Ipv4Addr::LOCALHOST, *host_port))
            .map_err(|source| NetworkError::Port { port: *host_port, source })?;
    }
    Ok(())
}

fn process_error(why: &io::Error) -> NetworkError {
    NetworkError::Process { program: PROGRAM.to_owned(), why: why.to_string() }
}

fn recorded(pid_file: &Path) -> Result<Option<Identity>, NetworkError> {
    let failed = |source| sys::fs::FsError { act: "read", path: pid_file.to_path_buf(), source };
    Ok(Identity::recorded(pid_file).map_err(failed)?)
}

fn start(words: &[String], files: &Files) -> Result<Child, NetworkError> {
    let log = sys::fs::append(&files.log, 0o600)?;
    let other = log.try_clone().map_err(|error| process_error(&error))?;
    let mut command = sys::process::command(&words[0]);
    command.args(&words[1..]).stdout(Stdio::from(log)).stderr(Stdio::from(other));
    let spawned = sys::process::spawn_recorded(&mut command, &files.filter_pid);
    spawned.map(|(child, _identity)| child).map_err(|error| process_error(&error))
}

/// Waits until the socket is there; else says why it will not be. A task collects the child whenever it ends.
async fn until_up(mut child: Child, files: &Files) -> Result<(), String> {
    let deadline = Instant::now() + UP_WITHIN;
    let why = loop {
        if files.socket.exists() {
            collect_later(child);
            return Ok(());
        }
        match child.try_wait() {
            Ok(None) if Instant::now() < deadline => sleep_until(Instant::now() + LOOK_EVERY).await,
            Ok(None) => break "it did not come up",
            Ok(Some(_)) => break "it ended at once",
            Err(_) => break "it cannot be waited for",
        }
    };
    let log = std::fs::read_to_string(&files.log).unwrap_or_default();
    let said: Vec<&str> = log.lines().filter(|line| !line.contains("syslog")).collect();
    let last = said.len().saturating_sub(5);
    collect_later(child);
    Err(format!("{why}: {}", said[last..].join("; ")))
}

#[expect(
    deprecated,
    reason = "its successor is unsafe; an OwnedFd keeps the descriptor open, which is all that asks for"
)]
fn end_of(pidfd: OwnedFd) -> io::Result<AsyncFd<OwnedFd>> {
    AsyncFd::new(pidfd)
}

fn collect_later(mut child: Child) {
    let Some(pidfd) = Identity::of(child.id()).and_then(|identity| identity.pidfd()) else {
        // It has ended; this only takes its status.
        let _: io::Result<Option<std::process::ExitStatus>> = child.try_wait();
        return;
    };
    crate::supervise::spawn("network watch", async move {
        let ended = match end_of(pidfd) {
            Ok(fd) => fd.readable().await.map(|_guard| ()),
            Err(error) => Err(error),
        };
        let status = ended.and_then(|()| child.wait());
        tracing::debug!(pid = child.id(), ?status, "a guest's network ended");
    });
}

async fn kill_and_wait(identity: Identity) -> Result<(), NetworkError> {
    let failed = |error: io::Error| process_error(&error);
    let Some(pidfd) = identity.pidfd() else {
        return Ok(());
    };
    identity.signal(Signal::KILL).map_err(failed)?;
    let fd = end_of(pidfd).map_err(failed)?;
    match timeout(GONE_WITHIN, fd.readable()).await {
        Ok(ended) => ended.map(|_guard| ()).map_err(failed),
        Err(_) => Err(failed(io::ErrorKind::TimedOut.into())),
    }
}

/// Whether `/proc/net/ipv6_route` has a default route that leads out: proc(5) of the kernel's `Documentation/networking`;
/// destination, its prefix length, …, the device last. The kernel's own catch-all goes through `lo`.
fn has_default_route(routes: &str) -> bool {
    routes.lines().any(|line| {
        let words: Vec<&str> = line.split_ascii_whitespace().collect();
        matches!(words[..], [to, "00", .., device] if to.bytes().all(|b| b == b'0') && device != "lo")
    })
}

/// The resolvers of this host that a guest can reach.
fn host_resolvers(has_v6: bool) -> Vec<String> {
    RESOLV_CONF
        .iter()
        .map(|path| name_servers(&std::fs::read_to_string(path).unwrap_or_default(), has_v6))
        .find(|servers| !servers.is_empty())
        .unwrap_or_default()
}

/// The servers of a resolv.conf(5) that a guest can reach.
fn name_servers(text: &str, has_v6: bool) -> Vec<String> {
    let reachable = |address: &IpAddr| match address {
        IpAddr::V4(v4) => !v4.is_loopback() && !v4.is_unspecified(),
        IpAddr::V6(v6) => has_v6 && !v6.is_loopback() && !v6.is_unspecified() && !v6.is_unicast_link_local(),
    };
    let servers = text.lines().filter_map(|line| line.trim_start().strip_prefix("nameserver")?.trim().parse().ok());
    servers.filter(reachable).take(NAME_SERVERS_MAX).map(|address| address.to_string()).collect()
}

#[cfg(test)]
mod tests;

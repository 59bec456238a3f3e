//! An open network against the real passt and the real slirp4netns, with a guest made by hand that sends whatever it
//! likes.

use std::io::{ErrorKind, Read, Write};
use std::net::{IpAddr, Ipv4Addr, SocketAddr, TcpListener, TcpStream, UdpSocket};
use std::os::unix::net::UnixStream;
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use daemon::model::machine::{NicAttachment, NicSpec};
use daemon::network::user::UserNetwork;
use daemon::network::{NetworkDriver, NetworkError};
use sys::process::Identity;
use wire::api::Publish;

use crate::fake::SOON;

const MAC: [u8; 6] = [0x52, 0x54, 0, 0x11, 0x22, 0x33];
const GUEST_V4: &str = "10.0.2.15";
const GUEST_V6: &str = "fd62:616e:6765:72::15";

fn driver(path: &std::ffi::OsStr) -> UserNetwork {
    UserNetwork::probe(Some(path), PathBuf::from(env!("CARGO_BIN_EXE_bangerd")))
}

/// A driver that finds one program only, in a directory that lives as long as the test.
fn with(program: &str, dir: &Path) -> UserNetwork {
    let path = std::env::var_os("PATH").expect("PATH is set");
    let real = sys::process::find_program(program, &path);
    let real = real.unwrap_or_else(|| panic!("install the Debian package {program}"));
    let bin = dir.join(program);
    std::fs::create_dir(&bin).unwrap();
    std::os::unix::fs::symlink(real, bin.join(program)).unwrap();
    driver(bin.as_os_str())
}

fn open(publish: Vec<Publish>) -> NicSpec {
    NicSpec { mac: "52:54:00:11:22:33".to_owned(), nat: true, publish }
}

/// A guest by hand: Ethernet frames over the socket that QEMU would use.
struct Guest {
    socket: UnixStream,
    gateway: [u8; 6],
    next_port: u16,
}

impl Guest {
    fn connect(attachment: &NicAttachment) -> Guest {
        let NicAttachment::StreamSocket { path } = attachment else { panic!("{attachment:?}") };
        let socket = UnixStream::connect(path).unwrap();
        socket.set_read_timeout(Some(SOON)).unwrap();
        let mut guest = Guest { socket, gateway: [0xff; 6], next_port: 40000 };
        let request = [&[0, 1, 8, 0, 6, 4, 0, 1][..], &MAC, &[10, 0, 2, 15], &[0; 6], &[10, 0, 2, 2]].concat();
        guest.send(0x0806, &request);
        let answer = guest.until(|frame| frame[12..14] == [8, 6]);
        guest.gateway.copy_from_slice(&answer[22..28]);
        guest
    }

    fn send(&mut self, kind: u16, packet: &[u8]) {
        let frame = [&self.gateway[..], &MAC, &kind.to_be_bytes(), packet].concat();
        self.socket.write_all(&[&(frame.len() as u32).to_be_bytes()[..], &frame].concat()).unwrap();
    }

    /// The first frame that `wanted` likes.
    fn until(&mut self, wanted: impl Fn(&[u8]) -> bool) -> Vec<u8> {
        loop {
            let mut length = [0; 4];
            self.socket.read_exact(&mut length).expect("a frame was expected");
            let mut frame = vec![0; u32::from_be_bytes(length) as usize];
            self.socket.read_exact(&mut frame).unwrap();
            if wanted(&frame) {
                return frame;
            }
        }
    }

    /// Sends the first packet of a TCP connection.
    fn knock(&mut self, to: SocketAddr) {
        self.next_port += 1;
        let source: IpAddr = if to.is_ipv4() { GUEST_V4 } else { GUEST_V6 }.parse().unwrap();
        let (from, dest) = (octets(source), octets(to.ip()));
        let mut tcp =
            [&self.next_port.to_be_bytes()[..], &to.port().to_be_bytes(), &[0, 0, 3, 232, 0, 0, 0, 0]].concat();
        tcp.extend_from_slice(&[5 << 4, 2, 0xff, 0xff, 0, 0, 0, 0]);
        let sum = checksum(&[&from[..], &dest, &[0, 6], &(tcp.len() as u16).to_be_bytes(), &tcp].concat());
        tcp[16..18].copy_from_slice(&sum.to_be_bytes());
        if to.is_ipv4() {
            let mut ip = [0x45, 0, 0, 40, 0, 1, 0x40, 0, 64, 6, 0, 0].to_vec();
            ip.extend_from_slice(&[&from[..], &dest].concat());
            let sum = checksum(&ip);
            ip[10..12].copy_from_slice(&sum.to_be_bytes());
            self.send(0x0800, &[ip, tcp].concat());
        } else {
            let ip = [&[0x60, 0, 0, 0, 0, 20, 6, 64][..], &from, &dest].concat();
            self.send(0x86dd, &[ip, tcp].concat());
        }
    }
}

fn octets(address: IpAddr) -> Vec<u8> {
    match address {
        IpAddr::V4(v4) => v4.octets().to_vec(),
        IpAddr::V6(v6) => v6.octets().to_vec(),
    }
}

fn checksum(bytes: &[u8]) -> u16 {
    let mut sum: u32 = bytes.chunks(2).map(|b| u32::from(u16::from_be_bytes([b[0], *b.get(1).unwrap_or(&0)]))).sum();
    while sum > 0xffff {
        sum = (sum & 0xffff) + (sum >> 16);
    }
    !(sum as u16)
}

/// The host's address on the way out.
fn own_address(outside: &str) -> Option<IpAddr> {
    let any = if outside.contains("::") { "[::]:0" } else { "0.0.0.0:0" };
    let socket = UdpSocket::bind(any).ok()?;
    socket.connect(outside).ok()?;
    socket.local_addr().ok().map(|address| address.ip())
}

fn listen(at: IpAddr) -> TcpListener {
    let listener = TcpListener::bind((at, 0)).unwrap();
    listener.set_nonblocking(true).unwrap();
    listener
}

fn accepted(listener: &TcpListener, within: Duration) -> bool {
    let deadline = Instant::now() + within;
    loop {
        match listener.accept() {
            Ok(_) => return true,
            Err(error) if error.kind() == ErrorKind::WouldBlock && Instant::now() < deadline => {
                std::thread::yield_now();
            }
            Err(_) => return false,
        }
    }
}

fn processes(dir: &Path) -> Vec<Identity> {
    ["net.pid", "carrier.pid"].iter().filter_map(|file| Identity::recorded(&dir.join(file)).unwrap()).collect()
}

fn wait_until(what: &str, condition: impl Fn() -> bool) {
    let deadline = Instant::now() + SOON;
    while !condition() {
        assert!(Instant::now() < deadline, "{what}");
        std::thread::yield_now();
    }
}

fn free_port() -> u16 {
    TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap().port()
}

#[tokio::test]
async fn a_guest_reaches_the_outside_and_no_listener_on_the_hosts_loopback() {
    for program in ["passt", "slirp4netns"] {
        reaches_the_outside_and_no_loopback(program).await;
    }
}

async fn reaches_the_outside_and_no_loopback(program: &str) {
    let (dir, bin) = (tempfile::tempdir().unwrap(), tempfile::tempdir().unwrap());
    let user = with(program, bin.path());
    let nic = open(Vec::new());
    let attachment = user.plan(&nic, dir.path()).unwrap();
    user.ensure_attached(&nic, &attachment, dir.path()).await.unwrap();
    let mut guest = Guest::connect(&attachment);

    let inside: Vec<TcpListener> = ["127.0.0.1", "::1"].iter().map(|a| listen(a.parse().unwrap())).collect();
    let ports: Vec<u16> = inside.iter().map(|l| l.local_addr().unwrap().port()).collect();
    let ways = ["127.0.0.1", "127.1.2.3", "0.0.0.0", "10.0.2.2", "10.0.2.3", "10.0.2.15"].into_iter().chain([
        "::1",
        "::",
        "::ffff:127.0.0.1",
        "::127.0.0.1",
        "fd62:616e:6765:72::2",
        "fe80::1",
    ]);
    for way in ways {
        for port in &ports {
            guest.knock(SocketAddr::new(way.parse().unwrap(), *port));
        }
    }
    // Frames keep their order: once these have arrived, the others would have.
    let mut families = 0;
    for outside in ["192.0.2.1:9", "[2001:db8::1]:9"] {
        if outside.starts_with('[') && user.guest(&nic).gateways.len() < 2 {
            continue;
        }
        let listener = listen(own_address(outside).expect("the host has a way out"));
        guest.knock(listener.local_addr().unwrap());
        assert!(accepted(&listener, SOON), "the way out is open ({outside})");
        families += 1;
    }
    assert!(families > 0);
    for listener in &inside {
        assert!(!accepted(listener, Duration::from_millis(300)), "{:?} was reached", listener.local_addr());
    }
    user.ensure_detached(&attachment, dir.path()).await.unwrap();
}

#[tokio::test]
async fn a_published_port_leads_in_and_is_free_again_afterwards() {
    for program in ["passt", "slirp4netns"] {
        leads_in_and_is_free_again(program).await;
    }
}

async fn leads_in_and_is_free_again(program: &str) {
    let (dir, bin) = (tempfile::tempdir().unwrap(), tempfile::tempdir().unwrap());
    let user = with(program, bin.path());
    let (one, two) = (free_port(), free_port());
    let publish = [(one, 80), (two, 22)].map(|(host_port, guest_port)| Publish { host_port, guest_port });
    let nic = open(publish.to_vec());
    let attachment = user.plan(&nic, dir.path()).unwrap();
    user.ensure_attached(&nic, &attachment, dir.path()).await.unwrap();
    user.ensure_attached(&nic, &attachment, dir.path()).await.expect("again is once");
    let before = processes(dir.path());
    assert_eq!(before.iter().filter(|p| p.is_alive()).count(), 2);
    assert!(own_address("192.0.2.1:9").is_some_and(|ip| TcpStream::connect((ip, one)).is_err()), "127.0.0.1 only");

    let mut guest = Guest::connect(&attachment);
    for (host_port, guest_port) in [(one, 80_u16), (two, 22)] {
        let _caller = TcpStream::connect((Ipv4Addr::LOCALHOST, host_port)).unwrap();
        let frame = guest.until(|f| f[12..14] == [8, 0] && f[23] == 6 && f[47] & 2 != 0);
        assert_eq!((&frame[30..34], &frame[36..38]), (&[10, 0, 2, 15][..], &guest_port.to_be_bytes()[..]));
    }
    drop(guest);
    wait_until("both processes end with the VMM's connection", || before.iter().all(|p| !p.is_alive()));
    drop(TcpListener::bind((Ipv4Addr::LOCALHOST, one)).expect("the port is free"));
    user.ensure_detached(&attachment, dir.path()).await.unwrap();
    user.ensure_detached(&attachment, dir.path()).await.unwrap();
    assert_eq!(std::fs::read_dir(dir.path()).unwrap().count(), 0);
}

#[tokio::test]
async fn detaching_ends_both_processes_and_so_does_the_death_of_one() {
    for program in ["passt", "slirp4netns"] {
        ends_whole(program).await;
    }
}

async fn ends_whole(program: &str) {
    let (dir, bin) = (tempfile::tempdir().unwrap(), tempfile::tempdir().unwrap());
    let user = with(program, bin.path());
    let nic = open(Vec::new());
    let attachment = user.plan(&nic, dir.path()).unwrap();
    user.ensure_attached(&nic, &attachment, dir.path()).await.unwrap();
    let first = processes(dir.path());
    user.ensure_detached(&attachment, dir.path()).await.unwrap();
    assert!(first.iter().all(|p| !p.is_alive()));

    for victim in 0..2 {
        user.ensure_attached(&nic, &attachment, dir.path()).await.unwrap();
        let guest = Guest::connect(&attachment);
        let both = processes(dir.path());
        both[victim].signal(rustix::process::Signal::KILL).unwrap();
        wait_until("the other ends too", || both.iter().all(|p| !p.is_alive()));
        drop(guest);
    }
    user.ensure_detached(&attachment, dir.path()).await.unwrap();
}

#[tokio::test]
async fn a_passt_that_fails_is_quoted_and_leaves_nothing() {
    let dir = tempfile::tempdir().unwrap();
    let boot = dir.path().join("boot");
    std::fs::create_dir(&boot).unwrap();
    let fake = dir.path().join("passt");
    std::fs::write(&fake, "#!/bin/sh\necho 'no such luck' >&2\nexit 1\n").unwrap();
    sys::fs::set_mode(&fake, 0o700).unwrap();
    let user = driver(dir.path().as_os_str());
    let nic = open(Vec::new());
    let attachment = user.plan(&nic, &boot).unwrap();
    let error = user.ensure_attached(&nic, &attachment, &boot).await.unwrap_err();
    let NetworkError::Process { why, .. } = &error else { panic!("{error:?}") };
    assert!(why.contains("no such luck"), "{why}");
    assert_eq!(std::fs::read_dir(&boot).unwrap().count(), 0);
}

//! The process that turns a guest's frames into sockets of the host.
//!
//! | | passt(1) | slirp4netns(1) |
//! |---|---|---|
//! | frames | on a stream, each behind its length | on a socket of packets, each one packet (its mode "bess") |
//! | our end of the wire | one of a pair, the other is inherited | connected to a socket that it makes |
//! | published ports | among its arguments | asked for on its API socket |
//! | ends | with the connection | when it is killed; its life is tied to ours |

use std::io::{self, Read, Write};
use std::net::Shutdown;
use std::os::fd::AsRawFd;
use std::os::unix::net::UnixStream;
use std::path::{Path, PathBuf};
use std::process::Child;
use std::time::Duration;

use rustix::event::{Timespec, poll};
use rustix::io::{Errno, FdFlags};
use rustix::net::{AddressFamily, SocketAddrUnix, SocketFlags, SocketType, connect, socket_with};
use sys::process::Tie;

use super::{FRAME_MAX, Filter, LENGTH_BYTES, first_frame};

/// How long it may take to answer.
const ANSWER_WITHIN: Duration = Duration::from_secs(10);
/// How often a starting one is looked at.
const LOOK_EVERY: Timespec = Timespec { tv_sec: 0, tv_nsec: 5_000_000 };
/// Bytes of an answer on the API socket.
const ANSWER_BYTES_MAX: u64 = 4096;

/// How it is spoken to.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(in crate::network) enum Speech {
    /// As passt.
    Stream,
    /// As slirp4netns, with these ports of the host's 127.0.0.1 leading to these of the guest.
    Packets(Vec<(u16, u16)>),
}

impl Speech {
    /// One word of an argument list.
    pub(super) fn word(&self) -> String {
        match self {
            Speech::Stream => "stream".to_owned(),
            Speech::Packets(ports) => {
                let ports: String = ports.iter().map(|(host, guest)| format!(",{host}:{guest}")).collect();
                format!("packets{ports}")
            }
        }
    }

    pub(super) fn parse(word: &str) -> Option<Speech> {
        let mut words = word.split(',');
        let port = |word: &str| {
            let (host, guest) = word.split_once(':')?;
            Some((host.parse().ok()?, guest.parse().ok()?))
        };
        match words.next()? {
            "stream" => Some(Speech::Stream),
            "packets" => words.map(port).collect::<Option<_>>().map(Speech::Packets),
            _ => None,
        }
    }
}

/// Our end of the wire: a stream of frames behind their lengths, whatever is underneath.
#[derive(Debug)]
pub(super) enum Wire {
    Stream(UnixStream),
    /// The socket's type is SOCK_SEQPACKET: what is read or written at once is one packet.
    Packets(UnixStream),
}

/// A running one.
pub(super) struct Carrier {
    child: Child,
    pub(super) wire: Wire,
}

impl Carrier {
    /// Starts what `filter` names and waits until it answers.
    pub(super) fn start(filter: &Filter) -> io::Result<Carrier> {
        let mut carrier = match &filter.speech {
            Speech::Stream => stream(filter)?,
            Speech::Packets(_) => packets(filter)?,
        };
        let mac = super::parse_mac(&filter.mac).ok_or(io::ErrorKind::InvalidInput)?;
        let up = carrier.wire.await_answer(mac).and_then(|()| match &filter.speech {
            Speech::Stream => Ok(()),
            Speech::Packets(ports) => ports.iter().try_for_each(|ports| publish(&api_socket(filter), *ports)),
        });
        match up {
            Ok(()) => Ok(carrier),
            Err(error) => {
                carrier.child.kill()?;
                carrier.end()?;
                Err(error)
            }
        }
    }

    /// Ends it: the connection is closed, and one that stays for all that is killed.
    pub(super) fn end(self) -> io::Result<()> {
        let Carrier { mut child, wire } = self;
        if let Wire::Packets(_) = wire {
            child.kill()?;
        }
        drop(wire);
        child.wait().map(|_status| ())
    }
}

fn command(filter: &Filter) -> std::process::Command {
    let mut command = sys::process::command(&filter.carrier[0]);
    command.args(&filter.carrier[1..]);
    command
}

fn stream(filter: &Filter) -> io::Result<Carrier> {
    let (ours, theirs) = UnixStream::pair()?;
    rustix::io::fcntl_setfd(&theirs, FdFlags::empty())?;
    let mut command = command(filter);
    command.args(["--fd", &theirs.as_raw_fd().to_string()]);
    let (child, _identity) = sys::process::spawn_recorded(&mut command, &filter.carrier_pid)?;
    Ok(Carrier { child, wire: Wire::Stream(ours) })
}

fn packet_socket(filter: &Filter) -> PathBuf {
    filter.socket.with_extension("pkts")
}

fn api_socket(filter: &Filter) -> PathBuf {
    filter.socket.with_extension("api")
}

fn packets(filter: &Filter) -> io::Result<Carrier> {
    let path = packet_socket(filter);
    let mut command = command(filter);
    command.arg("--api-socket").arg(api_socket(filter)).arg("--target-type=bess").arg(&path).tie();
    let (mut child, _identity) = sys::process::spawn_recorded(&mut command, &filter.carrier_pid)?;
    let address = SocketAddrUnix::new(&path)?;
    let deadline = sys::clock::monotonic() + ANSWER_WITHIN;
    loop {
        let socket = socket_with(AddressFamily::UNIX, SocketType::SEQPACKET, SocketFlags::CLOEXEC, None)?;
        match connect(&socket, &address) {
            Ok(()) => return Ok(Carrier { child, wire: Wire::Packets(socket.into()) }),
            Err(Errno::NOENT | Errno::CONNREFUSED) if sys::clock::monotonic() < deadline => {}
            Err(errno) => {
                child.kill()?;
                child.wait()?;
                return Err(errno.into());
            }
        }
        if let Some(status) = child.try_wait()? {
            return Err(io::Error::other(format!("it ended at once ({status})")));
        }
        match poll(&mut [], Some(&LOOK_EVERY)) {
            Ok(_) | Err(Errno::INTR) => {}
            Err(errno) => return Err(errno.into()),
        }
    }
}

/// Asks slirp4netns for a port of the host's 127.0.0.1; slirp4netns(1), "API socket".
fn publish(api: &Path, (host_port, guest_port): (u16, u16)) -> io::Result<()> {
    let request = serde_json::json!({"execute": "add_hostfwd", "arguments": {
        "proto": "tcp", "host_addr": "127.0.0.1", "host_port": host_port,
        "guest_addr": super::super::user::GUEST_V4.to_string(), "guest_port": guest_port,
    }});
    let mut stream = UnixStream::connect(api)?;
    stream.set_read_timeout(Some(ANSWER_WITHIN))?;
    stream.write_all(request.to_string().as_bytes())?;
    stream.shutdown(Shutdown::Write)?;
    let mut answer = String::new();
    stream.take(ANSWER_BYTES_MAX).read_to_string(&mut answer)?;
    if answer.contains("\"return\"") {
        return Ok(());
    }
    Err(io::Error::other(format!("it cannot publish host port {host_port}: {answer}")))
}

impl Wire {
    fn socket(&self) -> &UnixStream {
        match self {
            Wire::Stream(socket) | Wire::Packets(socket) => socket,
        }
    }

    /// Ends the connection; one that has ended needs no ending.
    pub(super) fn shut(&self) {
        let _: io::Result<()> = self.socket().shutdown(Shutdown::Both);
    }

    /// Asks for the gateway's hardware address in the guest's name, which is answered from the main loop: what was asked for by arguments is
    /// done then.
    fn await_answer(&self, mac: [u8; 6]) -> io::Result<()> {
        const BROADCAST: [u8; 6] = [0xff; 6];
        const ARP_REQUEST: [u8; 8] = [0, 1, 8, 0, 6, 4, 0, 1];
        let mut frame = [&BROADCAST[..], &mac, &[8, 6], &ARP_REQUEST, &mac].concat();
        frame.extend_from_slice(&super::super::user::GUEST_V4.octets());
        frame.extend_from_slice(&[0; 6]);
        frame.extend_from_slice(&super::super::user::GATEWAY_V4.octets());
        let length = u32::try_from(frame.len()).expect("42 bytes");
        let mut wire = self;
        wire.write_all(&[&length.to_be_bytes()[..], &frame].concat())?;
        self.socket().set_read_timeout(Some(ANSWER_WITHIN))?;
        let mut socket = self.socket();
        match self {
            Wire::Stream(_) => {
                // Not a byte more than this frame: the rest is the guest's.
                let mut header = [0; LENGTH_BYTES];
                socket.read_exact(&mut header)?;
                let length = usize::try_from(u32::from_be_bytes(header)).unwrap_or(usize::MAX);
                if length > FRAME_MAX {
                    return Err(io::ErrorKind::InvalidData.into());
                }
                socket.read_exact(&mut vec![0; length])?;
            }
            Wire::Packets(_) => {
                if socket.read(&mut vec![0; FRAME_MAX])? == 0 {
                    return Err(io::ErrorKind::UnexpectedEof.into());
                }
            }
        }
        self.socket().set_read_timeout(None)
    }
}

/// Reads into at least [`FRAME_MAX`] bytes behind a length.
impl Read for &Wire {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        match self {
            Wire::Stream(socket) => (&*socket).read(buffer),
            Wire::Packets(socket) => {
                let Some((length, frame)) = buffer.split_first_chunk_mut::<LENGTH_BYTES>() else {
                    return Err(io::ErrorKind::InvalidInput.into());
                };
                let count = (&*socket).read(frame)?;
                *length = u32::try_from(count).unwrap_or(u32::MAX).to_be_bytes();
                Ok(if count == 0 { 0 } else { LENGTH_BYTES + count })
            }
        }
    }
}

/// Takes whole frames only.
impl Write for &Wire {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        match self {
            Wire::Stream(socket) => (&*socket).write(bytes),
            Wire::Packets(socket) => {
                let mut at = 0;
                while let Some(frame) = first_frame(&bytes[at..])? {
                    (&*socket).write_all(frame)?;
                    at += LENGTH_BYTES + frame.len();
                }
                if at == bytes.len() { Ok(at) } else { Err(io::ErrorKind::InvalidInput.into()) }
            }
        }
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

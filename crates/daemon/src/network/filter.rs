//! A process between a VMM and passt(1) or slirp4netns(1) that lets no frame for the host's loopback through.
//!
//! passt opens a socket on the host for whatever address a guest's packet names. `--no-map-gw` takes away the gateway's
//! special meaning, but versions up to at least 2023 (Debian 12 has one) still connect a packet *addressed* to 127.0.0.1,
//! 0.0.0.0, ::1, :: or ::ffff:127.0.0.1 to the host's own listener, and a guest's root can send such packets. So every
//! frame of the guest passes here first:
//!
//! ```text
//! VMM ──net.sock──► filter ──wire──► passt ──sockets──► outside
//!     ◄───── what passt sends, and the ends of handshakes
//! ```
//!
//! A guest that is closed and has published ports may answer on those, and nothing else of it passes.
//!
//! `gate.rs` keeps a guest silent until it is itself. `guest.rs` is the VMM's end, `segments.rs` what a NIC would do. `carrier.rs` starts passt, or slirp4netns in its place, and speaks to it. `handshake.rs` gives the guest the one answer
//! that passt withholds.
//!
//! It is `bangerd` called by [`VERB`] ([`run`]): one process for each boot with an open network, in a session of its own
//! like the VMM, two threads that copy, no runtime. It makes its socket when the other answers, and both end with the
//! VMM's connection.

mod carrier;
pub(super) mod gate;
mod guest;
mod handshake;
mod segments;

use std::ffi::OsString;
use std::io::{self, Read, Write};
use std::path::{Path, PathBuf};
use std::process::ExitCode;
use std::sync::{Mutex, PoisonError};

pub(super) use carrier::Speech;
use carrier::{Carrier, Wire};
use gate::Gate;
use guest::Guest;
pub(super) use guest::Handover;
use rustix::process::{Resource, Rlimit, setrlimit};

/// What `bangerd` is called with to be this.
pub const VERB: &str = "net-filter";

/// Bytes of a frame's length on the stream: QEMU's and passt's framing, big endian.
const LENGTH_BYTES: usize = 4;
/// Longest frame: the largest IP packet behind an Ethernet header.
const FRAME_MAX: usize = 65535 + 14;
/// Bytes copied at once.
const BUFFER_BYTES: usize = 256 * 1024;
/// Bytes of the log at most; in good order it stays empty.
const LOG_BYTES_MAX: u64 = 1 << 20;

/// What the filter needs to know; the form of its arguments.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Filter {
    /// The socket to make.
    pub(super) socket: PathBuf,
    /// Where the identity of the other process is recorded.
    pub(super) carrier_pid: PathBuf,
    /// The hardware address of the guest's NIC: whoever carries its frames learns it before the guest says a word, which a
    /// closed one may never do.
    pub(super) mac: String,
    /// How the VMM hands over frames.
    pub(super) handover: Handover,
    /// What of the guest's passes.
    pub(super) reach: Reach,
    /// How it is spoken to.
    pub(super) speech: Speech,
    /// The program and its arguments, without those that say where it is spoken to.
    pub(super) carrier: Vec<String>,
}

impl Filter {
    pub(super) fn arguments(&self) -> Vec<String> {
        let text = |path: &Path| path.to_string_lossy().into_owned();
        let guest = guest_word(self.handover, &self.reach);
        let mut arguments = vec![
            VERB.to_owned(),
            text(&self.socket),
            text(&self.carrier_pid),
            self.mac.clone(),
            guest,
            self.speech.word(),
        ];
        arguments.extend(self.carrier.iter().cloned());
        arguments
    }

    fn parse(mut arguments: impl Iterator<Item = OsString>) -> Option<Filter> {
        let (socket, carrier_pid) = (arguments.next()?.into(), arguments.next()?.into());
        let mac = arguments.next()?.into_string().ok()?;
        parse_mac(&mac)?;
        let (handover, reach) = parse_guest_word(arguments.next()?.to_str()?)?;
        let speech = Speech::parse(arguments.next()?.to_str()?)?;
        let carrier: Vec<String> = arguments.map(|word| word.to_string_lossy().into_owned()).collect();
        (!carrier.is_empty()).then_some(Filter { socket, carrier_pid, mac, handover, reach, speech, carrier })
    }

    fn serve(&self) -> io::Result<()> {
        limit_files()?;
        let carrier = Carrier::start(self)?;
        let served = sys::socket::listen_at(&self.socket).and_then(|listener| {
            let (vmm, _) = listener.accept()?;
            drop(listener);
            let gate = Gate::of(&self.socket, self.handover);
            relay(&Guest::take_over(vmm, self.handover)?, &self.reach, &carrier.wire, &gate);
            Ok(())
        });
        carrier.end()?;
        served
    }
}

/// What of a guest's frames passes.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum Reach {
    /// What is not for the host alone.
    Outside,
    /// Of that, only what these ports of the guest answer to whoever came to them.
    Answers(Vec<u16>),
}

/// One word of an argument list: `stream`, `tap`, `tap,answers,80,443`.
fn guest_word(handover: Handover, reach: &Reach) -> String {
    let mut word = match handover {
        Handover::Stream => "stream".to_owned(),
        Handover::Tap => "tap".to_owned(),
    };
    if let Reach::Answers(ports) = reach {
        word.push_str(",answers");
        ports.iter().for_each(|port| word.push_str(&format!(",{port}")));
    }
    word
}

/// A hardware address: six bytes in hexadecimal, with colons.
fn parse_mac(text: &str) -> Option<[u8; 6]> {
    let bytes: Vec<u8> = text.split(':').map(|byte| u8::from_str_radix(byte, 16).ok()).collect::<Option<_>>()?;
    bytes.try_into().ok()
}

fn parse_guest_word(word: &str) -> Option<(Handover, Reach)> {
    let mut words = word.split(',');
    let handover = match words.next()? {
        "stream" => Handover::Stream,
        "tap" => Handover::Tap,
        _ => return None,
    };
    let reach = match words.next() {
        None => Reach::Outside,
        Some("answers") => Reach::Answers(words.map(|port| port.parse().ok()).collect::<Option<_>>()?),
        Some(_) => return None,
    };
    Some((handover, reach))
}

/// A guest that found a way to make passt talk without end loses its network, not the host's disk: passt inherits the
/// limit, and the log is the only file either of them writes.
fn limit_files() -> io::Result<()> {
    let limit = Rlimit { current: Some(LOG_BYTES_MAX), maximum: Some(LOG_BYTES_MAX) };
    Ok(setrlimit(Resource::Fsize, limit)?)
}

/// `bangerd net-filter SOCKET PID-FILE MAC stream|tap[,answers,PORT…] stream|packets[,PORT:PORT…] PROGRAM ARGUMENT…`, with the arguments behind the verb.
#[expect(clippy::print_stderr, reason = "what it prints is the log that the driver quotes")]
pub fn run(arguments: impl Iterator<Item = OsString>) -> ExitCode {
    let Some(filter) = Filter::parse(arguments) else {
        eprintln!(
            "usage: bangerd {VERB} SOCKET PID-FILE MAC stream|tap[,answers,PORT…] stream|packets[,PORT:PORT…] PROGRAM [ARGUMENT…]"
        );
        return ExitCode::from(2);
    };
    match filter.serve() {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("cannot connect the guest to {}: {error}", filter.carrier[0]);
            ExitCode::FAILURE
        }
    }
}

/// Copies both ways until either side ends.
fn relay(guest: &Guest, reach: &Reach, wire: &Wire, gate: &Gate) {
    let end = || {
        guest.shut();
        wire.shut();
    };
    // Both directions write frames to the guest, and no frame into another.
    let told = Mutex::new(guest);
    let tell = |frames: &[u8]| told.lock().unwrap_or_else(PoisonError::into_inner).write_all(frames);
    std::thread::scope(|scope| {
        scope.spawn(|| {
            // How a connection ends does not matter: both end.
            let _: io::Result<()> = from_guest(guest, wire, reach, gate, tell);
            end();
        });
        let _: io::Result<()> = to_guest(wire, gate, tell);
        end();
    });
}

/// Reads a stream of frames to its end: `take` gets the bytes read and not taken yet, and says how many it took.
fn each_read(mut from: impl Read, mut take: impl FnMut(&mut [u8]) -> io::Result<usize>) -> io::Result<()> {
    let mut buffer = vec![0; BUFFER_BYTES];
    let mut filled = 0;
    loop {
        match from.read(&mut buffer[filled..]) {
            Ok(0) => return Ok(()),
            Ok(count) => filled += count,
            Err(error) if error.kind() == io::ErrorKind::Interrupted => continue,
            Err(error) => return Err(error),
        }
        let taken = take(&mut buffer[..filled])?;
        buffer.copy_within(taken..filled, 0);
        filled -= taken;
    }
}

/// Copies whole frames.
fn to_guest(from: impl Read, gate: &Gate, tell: impl Fn(&[u8]) -> io::Result<()>) -> io::Result<()> {
    each_read(from, |bytes| {
        let mut whole = 0;
        while let Some(frame) = first_frame(&bytes[whole..])? {
            whole += LENGTH_BYTES + frame.len();
        }
        if gate.is_open() {
            tell(&bytes[..whole])?;
        }
        Ok(whole)
    })
}

/// Copies whole frames, without those that [`may_pass`] refuses; `tell` gets what the guest is answered at once.
fn from_guest(
    from: impl Read,
    mut to: impl Write,
    reach: &Reach,
    gate: &Gate,
    tell: impl Fn(&[u8]) -> io::Result<()>,
) -> io::Result<()> {
    each_read(from, |bytes| {
        let Sifted { passed, whole, answers } = sift(bytes, reach)?;
        if !gate.is_open() {
            return Ok(whole);
        }
        to.write_all(&bytes[..passed])?;
        if !answers.is_empty() {
            tell(&answers)?;
        }
        Ok(whole)
    })
}

/// The frame at the beginning of `bytes`; none while it is not whole.
fn first_frame(bytes: &[u8]) -> io::Result<Option<&[u8]>> {
    let Some(header) = bytes.first_chunk::<LENGTH_BYTES>() else { return Ok(None) };
    let length = usize::try_from(u32::from_be_bytes(*header)).unwrap_or(usize::MAX);
    if length > FRAME_MAX {
        return Err(io::ErrorKind::InvalidData.into());
    }
    Ok(bytes.get(LENGTH_BYTES..LENGTH_BYTES + length))
}

/// What [`sift`] found.
#[derive(Debug, Default)]
struct Sifted {
    /// Length of the frames that pass, moved to the front.
    passed: usize,
    /// Length of all whole frames.
    whole: usize,
    /// Frames for the guest.
    answers: Vec<u8>,
}

/// Moves the frames that may pass to the front.
fn sift(bytes: &mut [u8], reach: &Reach) -> io::Result<Sifted> {
    let mut found = Sifted::default();
    while let Some(frame) = first_frame(&bytes[found.whole..])? {
        let (begin, end) = (found.whole, found.whole + LENGTH_BYTES + frame.len());
        if may_pass(frame, reach) {
            if let Some(answer) = handshake::answer(frame) {
                let length = u32::try_from(answer.len()).unwrap_or_default();
                found.answers.extend_from_slice(&length.to_be_bytes());
                found.answers.extend_from_slice(&answer);
            }
            if found.passed < begin {
                bytes.copy_within(begin..end, found.passed);
            }
            found.passed += end - begin;
        }
        found.whole = end;
    }
    Ok(found)
}

/// Whether an Ethernet frame is within a guest's reach: ARP, or IP for an address that no host takes for itself alone.
fn may_pass(frame: &[u8], reach: &Reach) -> bool {
    match reach {
        Reach::Outside => leads_outside(frame),
        Reach::Answers(ports) => leads_outside(frame) && is_answer(frame, ports),
    }
}

/// Whether a frame is ARP, or a segment of a TCP connection over IPv4 that another has begun to one of these ports. A
/// fragment is none: where it leads stands in another frame.
fn is_answer(frame: &[u8], ports: &[u16]) -> bool {
    const TCP: u8 = 6;
    const SYN: u8 = 0x02;
    const ACK: u8 = 0x10;
    if frame.get(12..14) == Some(&[8, 6]) {
        return true;
    }
    let Some(ip) = frame.get(14..34).filter(|ip| frame[12..14] == [8, 0] && ip[0] >> 4 == 4) else {
        return false;
    };
    let is_whole = ip[6] & 0x3f == 0 && ip[7] == 0;
    let segment = frame.get(14 + usize::from(ip[0] & 0x0f) * 4..).and_then(|rest| rest.first_chunk::<20>());
    let Some(tcp) = segment.filter(|_| is_whole && ip[9] == TCP && ip[0] & 0x0f >= 5) else {
        return false;
    };
    ports.contains(&u16::from_be_bytes([tcp[0], tcp[1]])) && tcp[13] & (SYN | ACK) != SYN
}

fn leads_outside(frame: &[u8]) -> bool {
    const ARP: [u8; 2] = [0x08, 0x06];
    const V4: [u8; 2] = [0x08, 0x00];
    const V6: [u8; 2] = [0x86, 0xdd];
    let field = |at: usize, length: usize| frame.get(at..at + length);
    match field(12, 2) {
        Some(kind) if kind == ARP => true,
        // 0.0.0.0/8 is this host, 127.0.0.0/8 its loopback: RFC 1122, section 3.2.1.3.
        Some(kind) if kind == V4 => field(30, 4).is_some_and(|to| to[0] != 0 && to[0] != 127),
        Some(kind) if kind == V6 => field(38, 16).is_some_and(|to| !is_own_v6(to)),
        _ => false,
    }
}

/// `::`, `::1` and the rest of ::/96, and IPv4 in IPv6 (::ffff:0:0/96): RFC 4291, section 2.5.
fn is_own_v6(address: &[u8]) -> bool {
    address[..10].iter().all(|b| *b == 0) && matches!(address[10..12], [0, 0] | [0xff, 0xff])
}

#[cfg(test)]
mod tests;

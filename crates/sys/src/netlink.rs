//! The little of netlink(7) that a guest needs: an interface up, down and gone, its addresses, a default route; connections found
//! and destroyed; and being told of devices.
//!
//! [`Routes`] speaks rtnetlink(7) (`linux/rtnetlink.h`): one request, one acknowledgement, or a list ([`answers`]).
//! [`Connections`] speaks sock_diag(7). [`Uevents`] wakes whoever waits for a device; what appeared is read from sysfs.

pub mod answers;
mod connections;

use std::io;
use std::net::IpAddr;
use std::os::fd::OwnedFd;
use std::time::Duration;

use rustix::event::{PollFd, PollFlags, Timespec, poll};
use rustix::net::netlink::{KOBJECT_UEVENT, SocketAddrNetlink};
use rustix::net::{
    AddressFamily, Protocol, RecvFlags, SendFlags, SocketFlags, SocketType, bind, recv, send, socket_with,
};

use answers::{Answers, attributes};
pub use connections::{Connection, Connections, Transport};

const RTM_NEWLINK: u16 = 16;
const RTM_DELLINK: u16 = 17;
const RTM_NEWADDR: u16 = 20;
const RTM_DELADDR: u16 = 21;
const RTM_GETADDR: u16 = 22;
const RTM_NEWROUTE: u16 = 24;
const NLMSG_ERROR: u16 = 2;
const NLM_F_REQUEST: u16 = 1;
const NLM_F_ACK: u16 = 4;
const NLM_F_DUMP: u16 = 0x300;
const NLM_F_REPLACE: u16 = 0x100;
const NLM_F_CREATE: u16 = 0x400;
const IFLA_ADDRESS: u16 = 1;
const IFA_ADDRESS: u16 = 1;
const IFA_LOCAL: u16 = 2;
const IFA_FLAGS: u16 = 8;
const IFA_F_NODAD: u32 = 2;
const RTA_OIF: u16 = 4;
const RTA_GATEWAY: u16 = 5;
const RT_TABLE_MAIN: u8 = 254;
const RTPROT_BOOT: u8 = 3;
const RTN_UNICAST: u8 = 1;
const IFF_UP: u32 = 1;
/// Bytes of `struct nlmsghdr`.
const HEADER_BYTES: usize = 16;

/// A message being written: header, fixed part, attributes.
struct Message(Vec<u8>);

impl Message {
    fn new(kind: u16, flags: u16, fixed: &[u8]) -> Message {
        let mut bytes = Vec::with_capacity(128);
        bytes.extend_from_slice(&0_u32.to_ne_bytes());
        bytes.extend_from_slice(&kind.to_ne_bytes());
        bytes.extend_from_slice(&(NLM_F_REQUEST | NLM_F_ACK | flags).to_ne_bytes());
        bytes.extend_from_slice(&1_u32.to_ne_bytes());
        bytes.extend_from_slice(&0_u32.to_ne_bytes());
        bytes.extend_from_slice(fixed);
        Message(bytes)
    }

    /// Adds an attribute.
    fn attribute(mut self, kind: u16, payload: &[u8]) -> Message {
        let length = u16::try_from(payload.len() + 4).expect("attributes here are short");
        self.0.extend_from_slice(&length.to_ne_bytes());
        self.0.extend_from_slice(&kind.to_ne_bytes());
        self.0.extend_from_slice(payload);
        self.0.resize(self.0.len().next_multiple_of(4), 0);
        self
    }

    fn finish(mut self) -> Vec<u8> {
        let length = u32::try_from(self.0.len()).expect("messages here are short");
        self.0[..4].copy_from_slice(&length.to_ne_bytes());
        self.0
    }
}

fn malformed() -> io::Error {
    io::Error::new(io::ErrorKind::InvalidData, "a malformed netlink answer")
}

/// Whether an acknowledgement says that all went well.
fn acknowledged(reply: &[u8]) -> io::Result<()> {
    let kind = reply.get(4..6).and_then(|b| b.first_chunk()).map(|b| u16::from_ne_bytes(*b)).ok_or_else(malformed)?;
    let code = reply.get(HEADER_BYTES..).and_then(|b| b.first_chunk()).map(|b| i32::from_ne_bytes(*b));
    match (kind, code) {
        (NLMSG_ERROR, Some(0)) => Ok(()),
        (NLMSG_ERROR, Some(code)) => Err(io::Error::from_raw_os_error(code.saturating_neg())),
        _ => Err(malformed()),
    }
}

fn family(address: IpAddr) -> u8 {
    let family = if address.is_ipv4() { AddressFamily::INET } else { AddressFamily::INET6 };
    u8::try_from(family.as_raw()).expect("both are small numbers")
}

fn octets(address: IpAddr) -> Vec<u8> {
    match address {
        IpAddr::V4(address) => address.octets().to_vec(),
        IpAddr::V6(address) => address.octets().to_vec(),
    }
}

/// An address of an interface.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct InterfaceAddress {
    /// Of which interface.
    pub index: u32,
    /// The interface's own address, on a point-to-point link too.
    pub address: IpAddr,
    /// 0 to 128.
    pub prefix_length: u8,
}

impl InterfaceAddress {
    /// Reads an `RTM_NEWADDR`; none for what is no address of a family known here.
    fn parse(body: &[u8]) -> Option<InterfaceAddress> {
        let fixed: &[u8; 8] = body.first_chunk()?;
        let mut found = None;
        for (kind, value) in attributes(&body[8..]) {
            // IPv6 has only the one; IPv4 has both, and they differ on a point-to-point link.
            if kind == IFA_LOCAL || kind == IFA_ADDRESS && found.is_none() {
                found = address_of(fixed[0], value).or(found);
            }
        }
        let index = u32::from_ne_bytes(*fixed[4..].first_chunk()?);
        Some(InterfaceAddress { index, address: found?, prefix_length: fixed[1] })
    }
}

/// The first bytes of `bytes` as an address of `family`.
fn address_of(family: u8, bytes: &[u8]) -> Option<IpAddr> {
    let is = |wanted: AddressFamily| u16::from(family) == wanted.as_raw();
    if is(AddressFamily::INET) {
        bytes.first_chunk::<4>().map(|octets| IpAddr::from(*octets))
    } else if is(AddressFamily::INET6) {
        bytes.first_chunk::<16>().map(|octets| IpAddr::from(*octets))
    } else {
        None
    }
}

/// A connection to the kernel's network configuration.
#[derive(Debug)]
pub struct Routes {
    socket: OwnedFd,
}

impl Routes {
    /// Connects.
    ///
    /// # Errors
    /// When the kernel has no rtnetlink.
    pub fn open() -> io::Result<Routes> {
        Ok(Routes { socket: open(None, 0)? })
    }

    /// Brings interface `index` up.
    ///
    /// # Errors
    /// When the kernel refuses.
    pub fn set_up(&self, index: u32) -> io::Result<()> {
        self.ask(Message::new(RTM_NEWLINK, 0, &link(index, IFF_UP, IFF_UP)))
    }

    /// Takes interface `index` down; the kernel forgets its routes and neighbours.
    ///
    /// # Errors
    /// When the kernel refuses.
    pub fn set_down(&self, index: u32) -> io::Result<()> {
        self.ask(Message::new(RTM_NEWLINK, 0, &link(index, 0, IFF_UP)))
    }

    /// Gives interface `index`, which is down, another MAC address.
    ///
    /// # Errors
    /// When the kernel or the device refuses.
    pub fn set_mac(&self, index: u32, mac: [u8; 6]) -> io::Result<()> {
        self.ask(Message::new(RTM_NEWLINK, 0, &link(index, 0, 0)).attribute(IFLA_ADDRESS, &mac))
    }

    /// All addresses of all interfaces.
    ///
    /// # Errors
    /// When the kernel does not tell.
    pub fn addresses(&self) -> io::Result<Vec<InterfaceAddress>> {
        let message = Message::new(RTM_GETADDR, NLM_F_DUMP, &[0; 8]);
        let mut found = Vec::new();
        list(&self.socket, message, RTM_NEWADDR, |body| found.extend(InterfaceAddress::parse(body)))?;
        Ok(found)
    }

    /// Takes an address from its interface; one that is gone needs no taking.
    ///
    /// # Errors
    /// When the kernel refuses.
    pub fn remove_address(&self, old: &InterfaceAddress) -> io::Result<()> {
        let mut fixed = [family(old.address), old.prefix_length, 0, 0, 0, 0, 0, 0];
        fixed[4..].copy_from_slice(&old.index.to_ne_bytes());
        let octets = octets(old.address);
        match self.ask(Message::new(RTM_DELADDR, 0, &fixed).attribute(IFA_LOCAL, &octets)) {
            Err(error) if error.kind() == io::ErrorKind::AddrNotAvailable => Ok(()),
            other => other,
        }
    }

    /// Removes interface `index`.
    ///
    /// # Errors
    /// When the kernel refuses.
    pub fn delete(&self, index: u32) -> io::Result<()> {
        let mut fixed = [0; 16];
        fixed[4..8].copy_from_slice(&index.to_ne_bytes());
        self.ask(Message::new(RTM_DELLINK, 0, &fixed))
    }

    /// Gives interface `index` an address. IPv6 addresses are used at once, without duplicate address detection: whoever
    /// made the network knows them to be free.
    ///
    /// # Errors
    /// When the kernel refuses.
    pub fn add_address(&self, index: u32, address: IpAddr, prefix_length: u8) -> io::Result<()> {
        let mut fixed = [family(address), prefix_length, 0, 0, 0, 0, 0, 0];
        fixed[4..].copy_from_slice(&index.to_ne_bytes());
        let message = Message::new(RTM_NEWADDR, NLM_F_CREATE | NLM_F_REPLACE, &fixed)
            .attribute(IFA_LOCAL, &octets(address))
            .attribute(IFA_ADDRESS, &octets(address))
            .attribute(IFA_FLAGS, &IFA_F_NODAD.to_ne_bytes());
        self.ask(message)
    }

    /// Routes everything of `gateway`'s family through it, over interface `index`.
    ///
    /// # Errors
    /// When the kernel refuses.
    pub fn add_default(&self, index: u32, gateway: IpAddr) -> io::Result<()> {
        let fixed = [family(gateway), 0, 0, 0, RT_TABLE_MAIN, RTPROT_BOOT, 0, RTN_UNICAST, 0, 0, 0, 0];
        let message = Message::new(RTM_NEWROUTE, NLM_F_CREATE | NLM_F_REPLACE, &fixed)
            .attribute(RTA_GATEWAY, &octets(gateway))
            .attribute(RTA_OIF, &index.to_ne_bytes());
        self.ask(message)
    }

    fn ask(&self, message: Message) -> io::Result<()> {
        ask(&self.socket, message)
    }
}

/// `struct ifinfomsg`: these of its flags, so.
fn link(index: u32, flags: u32, change: u32) -> [u8; 16] {
    let mut fixed = [0; 16];
    fixed[4..8].copy_from_slice(&index.to_ne_bytes());
    fixed[8..12].copy_from_slice(&flags.to_ne_bytes());
    fixed[12..16].copy_from_slice(&change.to_ne_bytes());
    fixed
}

/// One request, one acknowledgement.
fn ask(socket: &OwnedFd, message: Message) -> io::Result<()> {
    send(socket, &message.finish(), SendFlags::empty())?;
    let mut reply = [0_u8; 4096];
    let (count, _) = recv(socket, &mut reply[..], RecvFlags::empty())?;
    acknowledged(&reply[..count])
}

/// One request, a list in as many answers as it takes: `each` gets the body of every entry of `kind`.
fn list(socket: &OwnedFd, message: Message, kind: u16, mut each: impl FnMut(&[u8])) -> io::Result<()> {
    send(socket, &message.finish(), SendFlags::empty())?;
    // The kernel's own limit for one answer of a list.
    let mut buffer = vec![0_u8; 32 * 1024];
    loop {
        let (count, _) = recv(socket, &mut buffer[..], RecvFlags::empty())?;
        for answer in Answers::of(&buffer[..count.min(buffer.len())]) {
            match answer? {
                answers::Answer::Entry { kind: found, body } if found == kind => each(body),
                answers::Answer::Entry { .. } => {}
                answers::Answer::Done => return Ok(()),
            }
        }
    }
}

/// Wakes up when the kernel announces a device.
#[derive(Debug)]
pub struct Uevents {
    socket: OwnedFd,
}

impl Uevents {
    /// Listens; open it before looking for the device, so that none is missed between.
    ///
    /// # Errors
    /// When the kernel announces nothing.
    pub fn open() -> io::Result<Uevents> {
        Ok(Uevents { socket: open(Some(KOBJECT_UEVENT), 1)? })
    }

    /// Waits for the next announcement, at most so long; says whether there was one.
    ///
    /// # Errors
    /// When waiting fails.
    pub fn wait(&self, longest: Duration) -> io::Result<bool> {
        let seconds = i64::try_from(longest.as_secs()).unwrap_or(i64::MAX);
        let timeout = Timespec { tv_sec: seconds, tv_nsec: i64::from(longest.subsec_nanos()) };
        let mut fds = [PollFd::new(&self.socket, PollFlags::IN)];
        match poll(&mut fds, Some(&timeout)) {
            Ok(0) => return Ok(false),
            Ok(_) => {}
            Err(rustix::io::Errno::INTR) => return Ok(true),
            Err(errno) => return Err(errno.into()),
        }
        let mut announcement = [0_u8; 8192];
        match recv(&self.socket, &mut announcement[..], RecvFlags::DONTWAIT) {
            // NOBUFS: announcements were lost, so something happened.
            Ok(_) | Err(rustix::io::Errno::AGAIN | rustix::io::Errno::NOBUFS) => Ok(true),
            Err(errno) => Err(errno.into()),
        }
    }
}

fn open(protocol: Option<Protocol>, groups: u32) -> io::Result<OwnedFd> {
    let socket = socket_with(AddressFamily::NETLINK, SocketType::RAW, SocketFlags::CLOEXEC, protocol)?;
    bind(&socket, &SocketAddrNetlink::new(0, groups))?;
    Ok(socket)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn messages_have_their_length_and_attributes() {
        let bytes =
            Message::new(RTM_NEWADDR, 0, &[2, 24, 0, 0, 1, 0, 0, 0]).attribute(IFA_LOCAL, &[10, 0, 2, 15]).finish();
        assert_eq!(bytes.len(), 16 + 8 + 8);
        assert_eq!(bytes[..4], 32_u32.to_ne_bytes());
        assert_eq!(bytes[24..], [8, 0, 2, 0, 10, 0, 2, 15]);
    }

    #[test]
    fn answers_are_understood_whatever_they_are() {
        let answer = |kind: u16, code: i32| {
            let mut bytes = vec![0; HEADER_BYTES];
            bytes[4..6].copy_from_slice(&kind.to_ne_bytes());
            bytes.extend_from_slice(&code.to_ne_bytes());
            bytes
        };
        assert!(acknowledged(&answer(NLMSG_ERROR, 0)).is_ok());
        assert_eq!(acknowledged(&answer(NLMSG_ERROR, -1)).unwrap_err().raw_os_error(), Some(1));
        assert!(acknowledged(&answer(NLMSG_ERROR, i32::MIN)).is_err());
        for end in 0..HEADER_BYTES + 4 {
            assert!(acknowledged(&answer(NLMSG_ERROR, 0)[..end]).is_err());
        }
    }

    #[test]
    fn the_loopback_is_asked_to_be_up() {
        match Routes::open().unwrap().set_up(1) {
            Ok(()) => {}
            Err(error) => assert_eq!(error.kind(), io::ErrorKind::PermissionDenied, "an ordinary user may not"),
        }
    }
}

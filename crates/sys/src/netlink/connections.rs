//! Connections of this network namespace, listed and destroyed: sock_diag(7), `linux/inet_diag.h`.
//!
//! A connection is named by the kernel's cookie as well as by its addresses: one that is gone by now is never mistaken for a
//! socket that listens on the same port.

use std::io;
use std::net::{IpAddr, Ipv6Addr, SocketAddr};
use std::os::fd::OwnedFd;

use rustix::net::AddressFamily;
use rustix::net::netlink::SOCK_DIAG;

use super::{Message, NLM_F_DUMP, address_of, ask, list, open};

const SOCK_DIAG_BY_FAMILY: u16 = 20;
const SOCK_DESTROY: u16 = 21;
const TCP_ESTABLISHED: u32 = 1;
const TCP_TIME_WAIT: u32 = 6;
const TCP_CLOSE: u32 = 7;
const TCP_LISTEN: u32 = 10;
/// Bytes of `struct inet_diag_sockid`.
const ID_BYTES: usize = 48;
/// Where it begins in `struct inet_diag_msg`.
const ID_AT: usize = 4;

/// What a connection speaks.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Transport {
    /// TCP.
    Tcp,
    /// UDP, where connect(2) was called.
    Udp,
}

impl Transport {
    fn protocol(self) -> u8 {
        match self {
            Transport::Tcp => 6,
            Transport::Udp => 17,
        }
    }

    /// The states of sockets with a peer, one bit each. One in TIME_WAIT has nobody behind it and sends nothing on its own.
    fn connected(self) -> u32 {
        match self {
            Transport::Tcp => !(1 << TCP_LISTEN | 1 << TCP_TIME_WAIT | 1 << TCP_CLOSE),
            Transport::Udp => 1 << TCP_ESTABLISHED,
        }
    }
}

/// A connection.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Connection {
    transport: Transport,
    family: u8,
    id: [u8; ID_BYTES],
    /// This side.
    pub local: SocketAddr,
    /// The other side.
    pub remote: SocketAddr,
}

impl Connection {
    /// Reads a `struct inet_diag_msg`.
    fn parse(transport: Transport, body: &[u8]) -> Option<Connection> {
        let family = *body.first()?;
        let id: [u8; ID_BYTES] = *body.get(ID_AT..)?.first_chunk()?;
        let port = |at: usize| u16::from_be_bytes([id[at], id[at + 1]]);
        let local = SocketAddr::new(address_of(family, &id[4..20])?, port(0));
        let remote = SocketAddr::new(address_of(family, &id[20..36])?, port(2));
        Some(Connection { transport, family, id, local, remote })
    }

    /// Whether both ends are on the loopback.
    #[must_use]
    pub fn is_loopback(&self) -> bool {
        [self.local, self.remote].into_iter().all(|end| is_loopback(end.ip()))
    }
}

/// An IPv4 address in the form that IPv6 sockets show counts as what it is.
fn is_loopback(address: IpAddr) -> bool {
    address.to_canonical().is_loopback() || address == IpAddr::V6(Ipv6Addr::LOCALHOST)
}

/// A way to the kernel's sockets.
#[derive(Debug)]
pub struct Connections {
    socket: OwnedFd,
}

impl Connections {
    /// Connects, in the network namespace of the calling thread.
    ///
    /// # Errors
    /// When the kernel has no sock_diag.
    pub fn open() -> io::Result<Connections> {
        Ok(Connections { socket: open(Some(SOCK_DIAG), 0)? })
    }

    /// All connections of a transport, both families.
    ///
    /// # Errors
    /// `NotFound` when the kernel cannot list them: `tcp_diag` or `udp_diag` is not there.
    pub fn list(&self, transport: Transport) -> io::Result<Vec<Connection>> {
        let mut found = Vec::new();
        for family in [AddressFamily::INET, AddressFamily::INET6] {
            let family = u8::try_from(family.as_raw()).expect("both are small numbers");
            let message = request(SOCK_DIAG_BY_FAMILY, NLM_F_DUMP, (family, transport), &[0; ID_BYTES]);
            list(&self.socket, message, SOCK_DIAG_BY_FAMILY, |body| found.extend(Connection::parse(transport, body)))?;
        }
        Ok(found)
    }

    /// Ends a connection: whoever reads or writes it meets `ECONNABORTED`. One that is gone needs no ending.
    ///
    /// # Errors
    /// `Unsupported` when the kernel was built without `CONFIG_INET_DIAG_DESTROY`.
    pub fn destroy(&self, connection: &Connection) -> io::Result<()> {
        let of = (connection.family, connection.transport);
        match ask(&self.socket, request(SOCK_DESTROY, 0, of, &connection.id)) {
            Err(error) if error.kind() == io::ErrorKind::NotFound || is_stale(&error) => Ok(()),
            other => other,
        }
    }
}

fn is_stale(error: &io::Error) -> bool {
    error.raw_os_error() == Some(rustix::io::Errno::STALE.raw_os_error())
}

/// A `struct inet_diag_req_v2`.
fn request(kind: u16, flags: u16, (family, transport): (u8, Transport), id: &[u8; ID_BYTES]) -> Message {
    let mut fixed = vec![family, transport.protocol(), 0, 0];
    fixed.extend_from_slice(&transport.connected().to_ne_bytes());
    fixed.extend_from_slice(id);
    Message::new(kind, flags, &fixed)
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    /// An established connection as the kernel lists it.
    fn listed(family: u8, local: &[u8], remote: &[u8]) -> Vec<u8> {
        let mut body = vec![family, 1, 0, 0];
        body.extend_from_slice(&22_u16.to_be_bytes());
        body.extend_from_slice(&40_000_u16.to_be_bytes());
        for address in [local, remote] {
            let mut room = [0; 16];
            room[..address.len()].copy_from_slice(address);
            body.extend_from_slice(&room);
        }
        body.extend_from_slice(&[0, 0, 0, 0, 1, 2, 3, 4, 5, 6, 7, 8]);
        body.extend_from_slice(&[0; 20]);
        body
    }

    #[test]
    fn connections_are_read() {
        let bytes = listed(2, &[10, 0, 2, 15], &[10, 0, 2, 2]);
        let found = Connection::parse(Transport::Tcp, &bytes).unwrap();
        assert_eq!((found.local, found.remote), ("10.0.2.15:22".parse().unwrap(), "10.0.2.2:40000".parse().unwrap()));
        assert!(!found.is_loopback());
        assert_eq!(found.id[40..], [1, 2, 3, 4, 5, 6, 7, 8], "the cookie goes back as it came");
    }

    #[test]
    fn what_stays_inside_is_told_from_the_rest() {
        let v4 = |local, remote| Connection::parse(Transport::Tcp, &listed(2, local, remote)).unwrap();
        assert!(v4(&[127, 0, 0, 1], &[127, 1, 2, 3]).is_loopback());
        assert!(!v4(&[127, 0, 0, 1], &[10, 0, 2, 2]).is_loopback());
        let v6 = |text: &str| text.parse::<Ipv6Addr>().unwrap().octets();
        for (address, inside) in
            [("::1", true), ("::ffff:127.0.0.1", true), ("::ffff:10.0.2.15", false), ("fe80::1", false)]
        {
            let found = Connection::parse(Transport::Tcp, &listed(10, &v6(address), &v6(address))).unwrap();
            assert_eq!(found.is_loopback(), inside, "{address}");
        }
    }

    /// Where the kernel lists connections and lets us, one of our own is found and ended, and only that one.
    #[test]
    fn a_connection_is_ended_where_that_is_possible() {
        use std::io::{Read, Write};
        use std::net::{TcpListener, TcpStream};
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let mut ours = TcpStream::connect(listener.local_addr().unwrap()).unwrap();
        let (mut other, _) = listener.accept().unwrap();
        let connections = Connections::open().unwrap();
        let ends = (ours.local_addr().unwrap(), ours.peer_addr().unwrap());
        let listed = match connections.list(Transport::Tcp) {
            Ok(listed) => listed,
            Err(error) => return assert_eq!(error.kind(), io::ErrorKind::NotFound, "a kernel without tcp_diag"),
        };
        let found = listed.iter().find(|connection| (connection.local, connection.remote) == ends).unwrap();
        assert!(found.is_loopback());
        match connections.destroy(found) {
            Ok(()) => {}
            Err(error) => {
                let refusals = [io::ErrorKind::PermissionDenied, io::ErrorKind::Unsupported];
                assert!(refusals.contains(&error.kind()), "{error}");
                return;
            }
        }
        let ended = ours.read(&mut [0]).unwrap_err();
        assert_eq!(ended.kind(), io::ErrorKind::ConnectionAborted);
        assert!(other.write_all(b"x").and_then(|()| other.read_exact(&mut [0])).is_err());
        connections.destroy(found).expect("what is gone needs no ending");
        TcpStream::connect(listener.local_addr().unwrap()).expect("whoever listens goes on");
    }

    proptest! {
        #[test]
        fn any_bytes_are_read_or_not(bytes in prop::collection::vec(any::<u8>(), 0..100)) {
            let found = Connection::parse(Transport::Udp, &bytes);
            prop_assert!(found.is_none() || bytes.len() >= ID_AT + ID_BYTES);
        }
    }
}

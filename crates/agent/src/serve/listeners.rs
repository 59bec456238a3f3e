//! Which sockets of the guest wait for somebody: read from the kernel's tables, without a program of the image.
//!
//! A table is text, a socket a line (proc(5), `/proc/net/tcp`): number, local address, remote address, state ….
//! Addresses are hexadecimal, 32 bits at a time in the byte order of the machine.

use std::fs::File;
use std::io::{BufRead, BufReader, Read};
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

use wire::agent::message::{LISTENERS_MAX, Listeners, ListeningSocket, Protocol};

/// `TCP_LISTEN` of the kernel's `include/net/tcp_states.h`.
const LISTENS: &str = "0A";
/// `TCP_CLOSE`: a UDP socket without a peer.
const WITHOUT_PEER: &str = "07";
/// Bytes of a table that are read: some ten thousand sockets.
const TABLE_BYTES_MAX: u64 = 4 << 20;

/// The tables, with the state that means waiting.
const TABLES: [(&str, Protocol, &str); 4] = [
    ("/proc/self/net/tcp", Protocol::Tcp, LISTENS),
    ("/proc/self/net/tcp6", Protocol::Tcp, LISTENS),
    ("/proc/self/net/udp", Protocol::Udp, WITHOUT_PEER),
    ("/proc/self/net/udp6", Protocol::Udp, WITHOUT_PEER),
];

/// All of them, in order, each once. A table that cannot be read (a kernel without IPv6) holds none.
#[must_use]
pub fn listeners() -> Listeners {
    let mut sockets = Vec::new();
    for (path, protocol, state) in TABLES {
        if let Ok(file) = File::open(path) {
            let lines = BufReader::new(file.take(TABLE_BYTES_MAX)).lines().map_while(Result::ok);
            sockets.extend(lines.filter_map(|line| waiting(&line, protocol, state)));
        }
    }
    sockets.sort_unstable();
    sockets.dedup();
    let is_cut = sockets.len() > LISTENERS_MAX;
    sockets.truncate(LISTENERS_MAX);
    Listeners { sockets, is_cut }
}

/// The socket of a line, if it waits.
fn waiting(line: &str, protocol: Protocol, state: &str) -> Option<ListeningSocket> {
    let mut words = line.split_ascii_whitespace();
    let (local, _remote, found) = (words.nth(1)?, words.next()?, words.next()?);
    let (address, port) = local.split_once(':')?;
    let port = u16::from_str_radix(port, 16).ok()?;
    (found == state && port > 0).then_some(ListeningSocket { protocol, port, address: address_of(address)? })
}

fn address_of(text: &str) -> Option<IpAddr> {
    let word =
        |at: usize| text.get(at..at + 8).and_then(|word| u32::from_str_radix(word, 16).ok()).map(u32::to_ne_bytes);
    match text.len() {
        8 => Some(IpAddr::from(Ipv4Addr::from(word(0)?))),
        32 => {
            let mut bytes = [0; 16];
            for (index, chunk) in bytes.chunks_mut(4).enumerate() {
                chunk.copy_from_slice(&word(index * 8)?);
            }
            Some(IpAddr::from(Ipv6Addr::from(bytes)))
        }
        _ => None,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn lines_of_the_kernel() {
        let found =
            |line: &str, protocol, state| waiting(line, protocol, state).map(|s| format!("{}:{}", s.address, s.port));
        let listen = "   0: 0100007F:1F90 00000000:0000 0A 00000000:00000000 00:00000000 00000000     0        0 1 1 0 100 0 0 10 0";
        assert_eq!(found(listen, Protocol::Tcp, LISTENS).as_deref(), Some("127.0.0.1:8080"));
        let connected = listen.replace(" 0A ", " 01 ");
        assert_eq!(found(&connected, Protocol::Tcp, LISTENS), None);
        let six = "   1: 00000000000000000000000001000000:0016 00000000000000000000000000000000:0000 0A 0:0";
        assert_eq!(found(six, Protocol::Tcp, LISTENS).as_deref(), Some("::1:22"));
        let udp = "  10: 00000000:0044 00000000:0000 07 00000000:00000000 00:00000000";
        assert_eq!(found(udp, Protocol::Udp, WITHOUT_PEER).as_deref(), Some("0.0.0.0:68"));
        for nonsense in
            ["", "  sl  local_address rem_address   st", "0: XX:1 0:0 0A", "0: 0100007F:0000 0:0 0A", "0: 0100007F"]
        {
            assert_eq!(found(nonsense, Protocol::Tcp, LISTENS), None, "{nonsense:?}");
        }
    }

    #[test]
    fn a_socket_of_this_process_is_found() {
        let listener = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
        let socket = ListeningSocket {
            protocol: Protocol::Tcp,
            port: listener.local_addr().unwrap().port(),
            address: "127.0.0.1".parse().unwrap(),
        };
        assert!(listeners().sockets.contains(&socket));
    }
}

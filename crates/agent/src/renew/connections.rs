//! The parent's connections: their other ends are its, and nobody here may speak on them.
//!
//! Every TCP connection and every connected UDP socket ends but those between two ends on the loopback, in every network
//! namespace of the guest: those of containers leave the machine too. What listens goes on.
//!
//! Which there are is read from proc(5), which every kernel has; a guest without any, as every template is, needs nothing
//! more. Ending them takes the kernel's modules `inet_diag`, `tcp_diag` and `udp_diag`.

use std::collections::BTreeMap;
use std::fs::File;
use std::io::{self, Read};
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};
use std::os::fd::AsFd;

use rustix::io::Errno;
use rustix::thread::{LinkNameSpaceType, move_into_link_name_space};
use sys::netlink::{Connections, Transport};

use crate::boot::devices::release;

/// The kernel's tables of a network namespace.
const TABLES: [(Transport, &str); 4] =
    [(Transport::Tcp, "tcp"), (Transport::Tcp, "tcp6"), (Transport::Udp, "udp"), (Transport::Udp, "udp6")];
/// Most bytes read of one: half a million connections.
const TABLE_BYTES_MAX: u64 = 64 << 20;
/// The modules, each after what it needs.
const MODULES: [&str; 3] = ["inet_diag", "tcp_diag", "udp_diag"];
/// What a module's file is called behind its name, and whether the kernel has to unpack it.
const SUFFIXES: [(&str, i32); 4] = [
    (".ko", 0),
    (".ko.xz", MODULE_INIT_COMPRESSED_FILE),
    (".ko.zst", MODULE_INIT_COMPRESSED_FILE),
    (".ko.gz", MODULE_INIT_COMPRESSED_FILE),
];
/// finit_module(2).
const MODULE_INIT_COMPRESSED_FILE: i32 = 4;
/// How many times what is left is looked for: somebody may connect while others are ended, but without a NIC not for long.
const ROUNDS: usize = 3;

/// Ends them all.
///
/// # Errors
/// When one is left.
pub fn destroy() -> io::Result<()> {
    for namespace in namespaces()? {
        // A thread of its own, because it stays where it goes.
        let ended = std::thread::Builder::new().name("connections".to_owned()).spawn(move || {
            move_into_link_name_space(namespace.as_fd(), Some(LinkNameSpaceType::Network))?;
            destroy_here()
        })?;
        ended.join().map_err(|_| io::Error::other("the thread for it panicked"))??;
    }
    Ok(())
}

/// Every network namespace that a process of the guest is in.
fn namespaces() -> io::Result<Vec<File>> {
    let mut found = BTreeMap::new();
    for entry in std::fs::read_dir("/proc")? {
        let entry = entry?;
        if !entry.file_name().to_str().is_some_and(|name| name.bytes().all(|byte| byte.is_ascii_digit())) {
            continue;
        }
        let path = entry.path().join("ns/net");
        // A process that ended meanwhile, and a kernel thread, is in none.
        if let Ok(name) = std::fs::read_link(&path)
            && !found.contains_key(&name)
            && let Ok(namespace) = File::open(&path)
        {
            found.insert(name, namespace);
        }
    }
    Ok(found.into_values().collect())
}

/// Ends those of the thread's network namespace.
fn destroy_here() -> io::Result<()> {
    let mut left = leaving()?;
    if left.is_empty() {
        return Ok(());
    }
    load_modules()?;
    let connections = Connections::open()?;
    for _ in 0..ROUNDS {
        for transport in [Transport::Tcp, Transport::Udp] {
            for connection in connections.list(transport)?.iter().filter(|connection| !connection.is_loopback()) {
                connections.destroy(connection)?;
            }
        }
        left = leaving()?;
        if left.is_empty() {
            return Ok(());
        }
    }
    let (local, remote) = &left[0];
    Err(io::Error::other(format!("{} are left, one from {local} to {remote}", left.len())))
}

/// Both ends of the connections of the thread's network namespace that leave the machine.
fn leaving() -> io::Result<Vec<(IpAddr, IpAddr)>> {
    let mut found = Vec::new();
    for (transport, table) in TABLES {
        let file = match File::open(format!("/proc/thread-self/net/{table}")) {
            Ok(file) => file,
            // A kernel without IPv6.
            Err(error) if error.kind() == io::ErrorKind::NotFound => continue,
            Err(error) => return Err(error),
        };
        let mut text = String::new();
        file.take(TABLE_BYTES_MAX).read_to_string(&mut text)?;
        let leaves = |(local, remote): &(IpAddr, IpAddr)| {
            ![local, remote].into_iter().all(|address| address.to_canonical().is_loopback())
        };
        found.extend(text.lines().skip(1).filter_map(|line| connected(transport, line)).filter(leaves));
    }
    Ok(found)
}

/// Both addresses of a table's line, when it is of a socket with a peer.
fn connected(transport: Transport, line: &str) -> Option<(IpAddr, IpAddr)> {
    let mut words = line.split_ascii_whitespace().skip(1);
    let (local, remote, state) = (words.next()?, words.next()?, words.next()?);
    let state = u8::from_str_radix(state, 16).ok()?;
    // Established; of TCP everything else too but TIME_WAIT, CLOSE and LISTEN.
    let has_peer = match transport {
        Transport::Tcp => ![6, 7, 10].contains(&state),
        Transport::Udp => state == 1,
    };
    if has_peer { Some((address(local)?, address(remote)?)) } else { None }
}

/// `0F02000A:0016`: an address in 32-bit words of this machine's order, and a port.
fn address(text: &str) -> Option<IpAddr> {
    let (digits, _) = text.split_once(':')?;
    if !digits.bytes().all(|byte| byte.is_ascii_hexdigit()) {
        return None;
    }
    let words: Vec<[u8; 4]> = (0..digits.len())
        .step_by(8)
        .map(|at| Some(u32::from_str_radix(digits.get(at..at + 8)?, 16).ok()?.to_ne_bytes()))
        .collect::<Option<_>>()?;
    match words.as_slice() {
        [v4] => Some(Ipv4Addr::from(*v4).into()),
        v6 => Some(Ipv6Addr::from(<[u8; 16]>::try_from(v6.concat()).ok()?).into()),
    }
}

/// Loads what ends connections. The kernel would ask the guest's own modprobe(8), which an image need not have.
fn load_modules() -> io::Result<()> {
    let directory = format!("/lib/modules/{}/kernel/net/ipv4", release());
    for module in MODULES {
        let open = |(suffix, flags)| Some((File::open(format!("{directory}/{module}{suffix}")).ok()?, flags));
        // A kernel that has it built in has no file; one that has it not at all refuses to list.
        let Some((file, flags)) = SUFFIXES.into_iter().find_map(open) else {
            continue;
        };
        match rustix::system::finit_module(&file, c"", flags) {
            Ok(()) | Err(Errno::EXIST) => {}
            Err(errno) => return Err(errno.into()),
        }
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::net::{TcpListener, TcpStream};

    const TCP: &str =
        "   0: 0F02000A:0016 0202000A:9C40 01 00000000:00000000 02:000A 00000000     0        0 1 2 0 20 4";

    #[test]
    fn lines_of_the_tables_are_read() {
        let ends = |local: &str, remote: &str| Some((local.parse().unwrap(), remote.parse().unwrap()));
        assert_eq!(connected(Transport::Tcp, TCP), ends("10.0.2.15", "10.0.2.2"));
        for state in ["06", "07", "0A"] {
            assert_eq!(connected(Transport::Tcp, &TCP.replacen(" 01 ", &format!(" {state} "), 1)), None, "{state}");
        }
        let mapped = "1: 0000000000000000FFFF00000F02000A:0016 000080FE000000000000000001000000:0001 03 x";
        assert_eq!(connected(Transport::Tcp, mapped), ends("::ffff:10.0.2.15", "fe80::1"));
        assert_eq!(connected(Transport::Udp, &TCP.replacen(" 01 ", " 07 ", 1)), None);
        assert_eq!(connected(Transport::Tcp, "  sl  local_address rem_address   st tx_queue"), None);
    }

    proptest::proptest! {
        #[test]
        fn any_line_is_read_or_not(line: String) {
            let _: Option<_> = connected(Transport::Tcp, &line);
            let _: Option<_> = address(&line);
        }

        #[test]
        fn addresses_are_read_as_the_kernel_writes_them(octets: [u8; 16]) {
            let words: Vec<String> = octets.chunks(4)
                .map(|word| format!("{:08X}", u32::from_ne_bytes([word[0], word[1], word[2], word[3]])))
                .collect();
            proptest::prop_assert_eq!(address(&format!("{}:0016", words.concat())), Some(IpAddr::from(octets)));
            let first = [octets[0], octets[1], octets[2], octets[3]];
            proptest::prop_assert_eq!(address(&format!("{}:0016", words[0])), Some(IpAddr::from(first)));
        }
    }

    #[test]
    fn the_kernel_lists_a_connection_and_the_loopback_stays() {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let ours = TcpStream::connect(listener.local_addr().unwrap()).unwrap();
        let text = std::fs::read_to_string("/proc/thread-self/net/tcp").unwrap();
        let port = format!(":{:04X} ", ours.local_addr().unwrap().port());
        let line = text
            .lines()
            .find(|line| line.split_ascii_whitespace().nth(1).is_some_and(|w| format!("{w} ").ends_with(&port)));
        let (local, remote) = connected(Transport::Tcp, line.unwrap()).unwrap();
        assert!(local.is_loopback() && remote.is_loopback());
    }
}

//! What a guest reaches and what reaches it.

use std::io::{Read, Write};
use std::net::{Ipv4Addr, Ipv6Addr, SocketAddr, TcpListener, TcpStream};
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};

use super::host::{Host, eventually};

/// Listens on a loopback address and counts who comes.
fn listener(address: SocketAddr) -> (u16, Arc<AtomicUsize>) {
    let listener = TcpListener::bind(address).unwrap();
    let port = listener.local_addr().unwrap().port();
    let visits = Arc::new(AtomicUsize::new(0));
    let counter = Arc::clone(&visits);
    std::thread::spawn(move || {
        for _ in listener.incoming() {
            counter.fetch_add(1, Ordering::SeqCst);
        }
    });
    (port, visits)
}

/// Tries every address under which the host's loopback could be seen from a guest.
fn reaches_no_loopback(extra: &[&str]) {
    let host = Host::new();
    let (port4, visits4) = listener((Ipv4Addr::LOCALHOST, 0).into());
    let (port6, visits6) = listener((Ipv6Addr::LOCALHOST, 0).into());
    // The listeners do work.
    TcpStream::connect((Ipv4Addr::LOCALHOST, port4)).unwrap();
    TcpStream::connect((Ipv6Addr::LOCALHOST, port6)).unwrap();
    eventually("both listeners count", || visits4.load(Ordering::SeqCst) == 1 && visits6.load(Ordering::SeqCst) == 1);
    let mut args = vec!["run", "--name", "shut", "-d", "--wait", "agent"];
    args.extend(extra);
    host.ok(&args);
    let script = format!(
        "ip route; gateways=$(ip route | awk '/default/ {{print $3}}; /src/ {{print $9}}'; ip -6 route | awk '/default/ {{print $3}}')
         for host in 10.0.2.2 10.0.2.3 10.0.2.4 169.254.1.1 fec0::2 fec0::3 fe80::2 $gateways; do
           for port in {port4} {port6}; do
             timeout 2 bash -c \"echo x >/dev/tcp/$host/$port\" 2>/dev/null && echo REACHED $host $port
           done
         done; echo tried"
    );
    let out = host.ok(&["exec", "shut", "--", "bash", "-c", &script]);
    assert!(out.ends_with("tried") && !out.contains("REACHED"), "{out}");
    assert_eq!((visits4.load(Ordering::SeqCst), visits6.load(Ordering::SeqCst)), (1, 1), "{out}");
    host.leaves_nothing();
}

#[test]
fn a_closed_guest_reaches_no_listener_on_the_hosts_loopback() {
    reaches_no_loopback(&[]);
}

#[test]
fn an_open_guest_reaches_no_listener_on_the_hosts_loopback() {
    reaches_no_loopback(&["--nat"]);
}

#[test]
fn a_closed_guest_has_no_way_out() {
    let host = Host::new();
    let out = host.ok(&["run", "--rm", "--wait", "agent", "--", "sh", "-c", "ip route show default | wc -l"]);
    assert_eq!(out, "0");
    host.ends_clean();
}

#[test]
fn a_published_port_leads_in_from_the_hosts_loopback_only() {
    let host = Host::new();
    let port = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).unwrap().local_addr().unwrap().port();
    host.ok(&["run", "--name", "pub", "-d", "--publish", &format!("{port}:22"), "--wait", "ssh"]);
    let mut stream = TcpStream::connect((Ipv4Addr::LOCALHOST, port)).unwrap();
    let mut banner = [0; 4];
    stream.read_exact(&mut banner).unwrap();
    assert_eq!(&banner, b"SSH-");
    stream.write_all(b"\r\n").unwrap();
    let sockets = std::fs::read_to_string("/proc/net/tcp").unwrap();
    let open = format!("00000000:{port:04X}");
    assert!(!sockets.contains(&open), "the port is open to every address");
    // A taken port is refused before anything boots.
    let taken = host.run(&["run", "--rm", "--publish", &format!("{port}:80"), "--", "true"]).code(125);
    assert!(taken.stderr.contains(&port.to_string()), "{}", taken.stderr);
    host.leaves_nothing();
}

//! What a guest reaches and what reaches it.

use std::io::{BufRead, BufReader, Read, Write};
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr, TcpListener, TcpStream, UdpSocket};
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;

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

/// This host's address on the way out: not its loopback's. None when it has no way out; then passt(1) has none either.
fn own_address() -> Option<IpAddr> {
    // Connecting a datagram socket sends nothing; it only asks for the route. The address is one for documents, RFC 5737.
    let socket = UdpSocket::bind((Ipv4Addr::UNSPECIFIED, 0)).unwrap();
    socket.connect((Ipv4Addr::new(198, 51, 100, 1), 9)).ok()?;
    let address = socket.local_addr().unwrap().ip();
    (!address.is_loopback() && !address.is_unspecified()).then_some(address)
}

/// Answers each line that comes to `address` with the same line behind "heard ".
fn echo(address: IpAddr) -> u16 {
    let listener = TcpListener::bind((address, 0)).unwrap();
    let port = listener.local_addr().unwrap().port();
    std::thread::spawn(move || {
        for stream in listener.incoming() {
            let mut stream = stream.unwrap();
            let mut line = String::new();
            // Who connects and says nothing gets no answer; the test then misses it.
            if BufReader::new(stream.try_clone().unwrap()).read_line(&mut line).is_ok() {
                let _ = stream.write_all(format!("heard {line}").as_bytes());
            }
        }
    });
    port
}

/// A question for the address of `localhost`, RFC 1035, section 4: any answer to it shows that the server is in reach.
const QUESTION: &[u8] = b"\x4a\x4b\x01\x00\x00\x01\x00\x00\x00\x00\x00\x00\x09localhost\x00\x00\x01\x00\x01";

/// Whether the name server answers this host itself.
fn answers(server: &str) -> bool {
    let Ok(server) = server.parse::<IpAddr>() else { return false };
    let Ok(socket) = UdpSocket::bind((Ipv4Addr::UNSPECIFIED, 0)) else { return false };
    socket.set_read_timeout(Some(Duration::from_secs(5))).unwrap();
    let mut answer = [0; 512];
    socket.connect((server, 53)).and_then(|()| socket.send(QUESTION)).and_then(|_| socket.recv(&mut answer)).is_ok()
}

#[test]
fn an_open_guest_reaches_the_outside_and_published_ports_lead_in() {
    let host = Host::new();
    open_both_ways(&host);
    host.leaves_nothing();
}

#[test]
fn an_open_guest_of_a_host_without_passt_does_too() {
    let mut host = Host::new();
    host.hide("passt");
    open_both_ways(&host);
    let programs: Vec<_> = host.processes().into_iter().map(|(_, line)| line).collect();
    assert!(!programs.iter().any(|line| line.contains("passt ")), "{programs:?}");
    host.leaves_nothing();
}

/// Leaves the host with an open guest.
#[expect(clippy::print_stdout, reason = "a test says what this host kept it from testing")]
fn open_both_ways(host: &Host) {
    let outside = own_address();
    let outside =
        outside.expect("this host has only its loopback: give it an address and a default route (`ip route`)");
    let port = echo(outside);
    let published = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).unwrap().local_addr().unwrap().port();
    let talk = format!("exec 3<>/dev/tcp/{outside}/{port} && echo knock >&3 && head -n 1 <&3");
    let talk = ["timeout", "10", "bash", "-c", &talk];
    let publish = format!("{published}:22");
    host.ok(&["run", "--name", "open", "-d", "--nat", "--publish", &publish, "--wait", "ssh"]);
    assert_eq!(host.ok(&[&["exec", "open", "--"], &talk[..]].concat()), "heard knock");

    let mut stream = TcpStream::connect((Ipv4Addr::LOCALHOST, published)).unwrap();
    let mut banner = [0; 4];
    stream.read_exact(&mut banner).unwrap();
    assert_eq!(&banner, b"SSH-");
    TcpStream::connect((outside, published)).expect_err("it is published on the host's loopback only");

    let servers = host.ok(&["exec", "open", "--", "sh", "-c", "sed -n 's/^nameserver //p' /etc/resolv.conf"]);
    match servers.lines().find(|server| answers(server)) {
        Some(server) => {
            let question: String = QUESTION.iter().map(|byte| format!("\\x{byte:02x}")).collect();
            let ask = format!("exec 3<>/dev/udp/{server}/53 && printf '{question}' >&3 && head -c 2 <&3 | od -An -tx1");
            assert_eq!(host.ok(&["exec", "open", "--", "timeout", "20", "bash", "-c", &ask]), " 4a 4b", "{server}");
        }
        None => println!("name servers are not tested: none of {servers:?} answers this host"),
    }

    // The same listener is out of reach without --nat: it is that which opens the way.
    let closed = host.run(&[&["run", "--rm", "--wait", "agent", "--"], &talk[..]].concat());
    assert!(closed.code != 0 && !closed.text().contains("heard"), "{closed:?}");
}

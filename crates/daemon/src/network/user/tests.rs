//! What is decided before any process runs.

use super::*;

fn driver(passt: Option<&str>) -> UserNetwork {
    UserNetwork {
        carrier: passt.map(|program| Carrier::Passt(program.into())),
        daemon: "/x/bangerd".into(),
        has_v6: true,
        resolver: None,
        nics: Nics::Streams,
        substitute: None,
    }
}

fn nic(nat: bool, ports: &[(u16, u16)]) -> NicSpec {
    let publish =
        ports.iter().map(|(host_port, guest_port)| Publish { host_port: *host_port, guest_port: *guest_port });
    NicSpec { mac: "52:54:00:11:22:33".to_owned(), nat, publish: publish.collect() }
}

#[test]
fn closed_needs_nothing_and_tells_nothing() {
    let user = driver(None);
    let nic = nic(false, &[(8080, 80)]);
    let attachment = user.plan(&nic, Path::new("/run/b")).unwrap();
    assert_eq!(attachment, NicAttachment::QemuUser { publish: nic.publish.clone() });
    let guest = user.guest(&nic);
    assert_eq!(guest.addresses, ["10.0.2.15/24"]);
    assert!(guest.gateways.is_empty() && guest.dns.is_empty());
}

#[test]
fn open_needs_passt() {
    let error = driver(None).plan(&nic(true, &[]), Path::new("/run/b")).unwrap_err();
    assert_eq!(
        error.to_string(),
        "cannot open the guest to the outside: passt is not installed (Debian package passt)"
    );
    let attachment = driver(Some("/usr/bin/passt")).plan(&nic(true, &[]), Path::new("/run/b")).unwrap();
    assert_eq!(attachment, NicAttachment::StreamSocket { path: "/run/b/net.sock".into() });
    let guest = driver(None).guest(&nic(true, &[]));
    assert_eq!(guest.addresses, ["10.0.2.15/24", "fd62:616e:6765:72::15/64"]);
    assert_eq!(guest.gateways, ["10.0.2.2", "fd62:616e:6765:72::2"]);
}

#[test]
fn a_tap_leads_nowhere_unless_something_was_asked() {
    let user = |passt| driver(passt).for_nics(Nics::Taps);
    let plan = |user: &UserNetwork, nic: &NicSpec| user.plan(nic, Path::new("/run/b"));
    let (closed, ports, open) = (nic(false, &[]), nic(false, &[(8080, 80)]), nic(true, &[]));
    assert_eq!(plan(&user(None), &closed).unwrap(), NicAttachment::Tap { uplink: None });
    let error = plan(&user(None), &ports).unwrap_err().to_string();
    assert!(error.contains("take passt, which is not installed"), "{error}");
    let user = user(Some("/usr/bin/passt"));
    let uplink = NicAttachment::Tap { uplink: Some("/run/b/net.sock".into()) };
    assert_eq!((plan(&user, &ports).unwrap(), plan(&user, &open).unwrap()), (uplink.clone(), uplink));
    let filter = |nic| user.filter(nic, Path::new("/run/b"), Path::new("/run/b/net.sock")).unwrap();
    assert_eq!(filter(&ports).reach, Reach::Answers(vec![80]));
    assert!(filter(&ports).carrier.contains(&"--ipv4-only".to_owned()), "the host's IPv6 is nobody's business");
    assert_eq!((filter(&open).reach, filter(&open).handover), (Reach::Outside, Handover::Tap));
}

#[test]
fn slirp4netns_stands_in_for_a_missing_passt() {
    let dir = tempfile::tempdir().unwrap();
    let install = |name: &str| {
        std::fs::write(dir.path().join(name), "").unwrap();
        sys::fs::set_mode(&dir.path().join(name), 0o755).unwrap();
        UserNetwork::probe(Some(dir.path().as_os_str()), "/x/bangerd".into())
    };
    let nic = nic(true, &[(8080, 80)]);
    let user = install("slirp4netns");
    assert_eq!(user.guest(&nic).addresses, ["10.0.2.15/24"], "it has no IPv6");
    let filter = user.filter(&nic, Path::new("/b"), Path::new("/b/net.sock")).unwrap();
    assert_eq!(filter.speech, Speech::Packets(vec![(8080, 80)]));
    assert!(filter.carrier.iter().any(|word| word == "--disable-host-loopback"), "{filter:?}");
    assert!(filter.carrier.contains(&"--cidr=10.0.2.0/24".to_owned()), "{filter:?}");
    let both = install("passt");
    assert!(both.carrier().unwrap().ends_with("passt"), "which is preferred");
    assert!(both.for_nics(Nics::Taps).carrier().unwrap().ends_with("slirp4netns"), "but not behind a tap");
}

#[test]
fn ports_that_cannot_be_published() {
    for (ports, expected) in [
        (&[(0, 80)][..], "port 0 cannot be published"),
        (&[(80, 0)], "port 0 cannot be published"),
        (&[(8080, 80), (8080, 81)], "host port 8080 is published twice"),
    ] {
        let error = driver(None).plan(&nic(false, ports), Path::new("/run/b")).unwrap_err();
        assert!(error.to_string().contains(expected), "{error}");
    }
}

#[tokio::test]
async fn a_port_that_is_taken_is_named() {
    let taken = TcpListener::bind("127.0.0.1:0").unwrap();
    let port = taken.local_addr().unwrap().port();
    let user = driver(Some("/usr/bin/passt"));
    let dir = tempfile::tempdir().unwrap();
    for nat in [false, true] {
        let nic = nic(nat, &[(port, 80)]);
        let attachment = user.plan(&nic, dir.path()).unwrap();
        let error = user.ensure_attached(&nic, &attachment, dir.path()).await.unwrap_err();
        assert_eq!(error.to_string(), format!("cannot publish host port {port} on 127.0.0.1"));
    }
    assert_eq!(std::fs::read_dir(dir.path()).unwrap().count(), 0);
}

#[test]
fn passts_words() {
    assert_eq!(
        passt_arguments(&nic(true, &[(8080, 80), (2222, 22)]), true).join(" "),
        "--foreground --quiet --no-map-gw --no-dhcp --no-dhcpv6 --no-ra --udp-ports none --address 10.0.2.15 \
         --netmask 24 --gateway 10.0.2.2 --address fd62:616e:6765:72::15 --gateway fd62:616e:6765:72::2 \
         --tcp-ports 127.0.0.1/8080:80 --tcp-ports 127.0.0.1/2222:22"
    );
    assert!(passt_arguments(&nic(true, &[]), false).ends_with(&["--ipv4-only".to_owned()]));
    let closed = passt_arguments(&nic(false, &[(8080, 80)]), false).join(" ");
    assert!(closed.contains(" --interface lo --mac-addr "), "it needs no way out: {closed}");
}

#[test]
fn name_servers_a_guest_can_reach() {
    let text = "# x\nsearch lan\nnameserver 127.0.0.53\nnameserver 192.0.2.53\n nameserver 2001:db8::1\nnameserver ::1\n\
                nameserver fe80::1%eth0\nnameserver 192.0.2.54\nnameserver 192.0.2.55\nnameserver nonsense\n";
    assert_eq!(name_servers(text, true), ["192.0.2.53", "2001:db8::1", "192.0.2.54"]);
    assert_eq!(name_servers(text, false), ["192.0.2.53", "192.0.2.54", "192.0.2.55"]);
    assert!(name_servers("nameserver 127.0.0.1\n", true).is_empty());
}

#[test]
fn a_default_route_leads_out() {
    let zeros = "0".repeat(32);
    let line = |to: &str, bits: &str, device: &str| {
        format!("{to} {bits} {zeros} 00 {zeros} 00000400 00000001 00000000 00000003 {device:>8}\n")
    };
    assert!(has_default_route(&(line(&"f".repeat(32), "40", "lo") + &line(&zeros, "00", "eth0"))));
    assert!(!has_default_route(&line(&zeros, "00", "lo")));
    assert!(!has_default_route(&line(&zeros, "80", "eth0")));
    assert!(!has_default_route(""));
}

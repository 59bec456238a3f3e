//! The guest's one NIC, configured before any service starts and without any program of the image.

use std::io;
use std::net::IpAddr;
use std::path::PathBuf;

use sys::netlink::Routes;
use wire::agent::message::GuestNetwork;

use super::Report;

/// Index of the loopback interface in every network namespace.
const LOOPBACK: u32 = 1;

/// Gives the NIC its addresses and routes. A network that cannot be had is a warning: the guest runs without.
pub fn configure(network: &GuestNetwork, report: &mut Report) {
    report.note("configure the network", apply(network));
}

/// Brings the loopback up, which every guest has.
pub fn loopback(report: &mut Report) {
    report.note("bring the loopback up", Routes::open().and_then(|routes| routes.set_up(LOOPBACK)));
}

fn apply(network: &GuestNetwork) -> io::Result<()> {
    let routes = Routes::open()?;
    let nic = find(&network.mac)?;
    routes.set_up(nic)?;
    for text in &network.addresses {
        let (address, prefix_length) = parse_address(text)?;
        routes.add_address(nic, address, prefix_length)?;
    }
    for text in &network.gateways {
        let gateway = text.parse().map_err(|_| malformed(text))?;
        routes.add_default(nic, gateway)?;
    }
    Ok(())
}

/// `10.0.2.15/24` in its parts.
fn parse_address(text: &str) -> io::Result<(IpAddr, u8)> {
    let (address, length) = text.split_once('/').ok_or_else(|| malformed(text))?;
    let address: IpAddr = address.parse().map_err(|_| malformed(text))?;
    let length: u8 = length.parse().map_err(|_| malformed(text))?;
    let most = if address.is_ipv4() { 32 } else { 128 };
    if length > most { Err(malformed(text)) } else { Ok((address, length)) }
}

fn malformed(text: &str) -> io::Error {
    io::Error::new(io::ErrorKind::InvalidInput, format!("{text:?} is no address"))
}

/// The index of the interface with this MAC address.
fn find(mac: &str) -> io::Result<u32> {
    for entry in std::fs::read_dir("/sys/class/net")? {
        let path: PathBuf = entry?.path();
        let attribute = |name: &str| std::fs::read_to_string(path.join(name)).unwrap_or_default();
        if attribute("address").trim().eq_ignore_ascii_case(mac) {
            let index = attribute("ifindex");
            return index.trim().parse().map_err(|_| io::ErrorKind::InvalidData.into());
        }
    }
    Err(io::Error::new(io::ErrorKind::NotFound, format!("no interface has the address {mac}")))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn addresses_are_checked() {
        assert_eq!(parse_address("10.0.2.15/24").unwrap(), ("10.0.2.15".parse().unwrap(), 24));
        assert_eq!(parse_address("fd00::2/64").unwrap(), ("fd00::2".parse().unwrap(), 64));
        for wrong in ["10.0.2.15", "10.0.2.15/33", "x/24", "10.0.2.15/x", "fd00::2/129"] {
            assert!(parse_address(wrong).is_err(), "{wrong}");
        }
    }
}

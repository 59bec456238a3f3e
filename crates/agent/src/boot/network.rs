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
    let nic = find(&network.mac)?;
    bring_up(&Routes::open()?, &nic, network)
}

/// Brings a NIC up and gives it its addresses and routes.
///
/// # Errors
/// When one is malformed, or the kernel refuses.
pub fn bring_up(routes: &Routes, nic: &Nic, network: &GuestNetwork) -> io::Result<()> {
    routes.set_up(nic.index)?;
    for text in &network.addresses {
        let (address, prefix_length) = parse_address(text)?;
        routes.add_address(nic.index, address, prefix_length)?;
    }
    for text in &network.gateways {
        let gateway = text.parse().map_err(|_| malformed(text))?;
        routes.add_default(nic.index, gateway)?;
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

/// `52:54:00:12:34:56` in its parts.
///
/// # Errors
/// When it is none.
pub fn parse_mac(text: &str) -> io::Result<[u8; 6]> {
    let malformed = || io::Error::new(io::ErrorKind::InvalidInput, format!("{text:?} is no MAC address"));
    let mut mac = [0; 6];
    let mut parts = text.split(':');
    for byte in &mut mac {
        let part = parts.next().filter(|part| part.len() == 2 && part.bytes().all(|b| b.is_ascii_hexdigit()));
        *byte = u8::from_str_radix(part.ok_or_else(malformed)?, 16).map_err(|_| malformed())?;
    }
    // Bit 0 of the first byte is a group's: no NIC has such an address.
    if parts.next().is_some() || mac[0] & 1 == 1 { Err(malformed()) } else { Ok(mac) }
}

/// An interface with a device behind it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Nic {
    /// As netlink counts.
    pub index: u32,
    /// As people call it.
    pub name: String,
    /// As the kernel writes it.
    pub mac: String,
}

/// The NIC with this MAC address.
///
/// # Errors
/// When there is none.
pub fn find(mac: &str) -> io::Result<Nic> {
    let found = nics()?.into_iter().find(|nic| nic.mac.eq_ignore_ascii_case(mac));
    found.ok_or_else(|| io::Error::new(io::ErrorKind::NotFound, format!("no interface has the address {mac}")))
}

/// The interfaces with a device behind them, in the kernel's order: not the loopback, nor what the guest made itself.
///
/// # Errors
/// When /sys is not there.
pub fn nics() -> io::Result<Vec<Nic>> {
    let mut found = Vec::new();
    for entry in std::fs::read_dir("/sys/class/net")? {
        let entry = entry?;
        let path: PathBuf = entry.path();
        if path.join("device").exists() {
            let attribute = |name: &str| std::fs::read_to_string(path.join(name));
            let index = attribute("ifindex")?.trim().parse().map_err(|_| io::ErrorKind::InvalidData)?;
            let name = entry.file_name().to_string_lossy().into_owned();
            found.push(Nic { index, name, mac: attribute("address")?.trim().to_owned() });
        }
    }
    found.sort_by_key(|nic| nic.index);
    Ok(found)
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

    #[test]
    fn mac_addresses_are_checked() {
        assert_eq!(parse_mac("52:54:00:12:aB:ff").unwrap(), [0x52, 0x54, 0, 0x12, 0xab, 0xff]);
        for wrong in
            ["", "52:54:00:12:34", "52:54:00:12:34:56:78", "52:54:00:12:34:5", "53:54:00:12:34:56", "+2:54:00:12:34:56"]
        {
            assert!(parse_mac(wrong).is_err(), "{wrong}");
        }
    }

    proptest::proptest! {
        #[test]
        fn every_mac_address_is_read_back(mac: [u8; 6]) {
            let text = mac.map(|byte| format!("{byte:02x}")).join(":");
            proptest::prop_assert_eq!(parse_mac(&text).ok(), (mac[0] & 1 == 0).then_some(mac));
        }
    }
}

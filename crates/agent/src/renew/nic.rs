//! The NIC forgets whose it was, and learns whose it is.

use std::io;

use sys::netlink::Routes;
use wire::agent::message::{Failure, GuestNetwork};

use crate::boot::Report;
use crate::boot::network::{self, Nic};
use crate::serve::requests::os;

/// Takes every interface with a device behind it down and its addresses away; routes and neighbours go with it. The loopback
/// and what the guest made itself stay: nothing of them leaves the machine but through such a device.
///
/// # Errors
/// When the kernel refuses.
pub fn silence() -> io::Result<()> {
    let nics = network::nics()?;
    if nics.is_empty() {
        return Ok(());
    }
    let routes = Routes::open()?;
    for nic in &nics {
        routes.set_down(nic.index)?;
    }
    for address in routes.addresses()? {
        if nics.iter().any(|nic| nic.index == address.index) {
            routes.remove_address(&address)?;
        }
    }
    Ok(())
}

/// Gives the NIC its new MAC address, brings it up, and gives it its addresses and routes. `found` is told its name before
/// anything changes. A guest without a NIC goes without network, as one that boots does.
///
/// # Errors
/// When the NIC stays what it was.
pub fn renew(
    network: &GuestNetwork,
    report: &mut Report,
    found: impl FnOnce(&str, &mut Report),
) -> Result<(), Failure> {
    let failed = |error: io::Error| os("cannot give the NIC its new address", &error);
    let Some(nic) = the_one(network::nics().map_err(failed)?, &network.mac) else {
        report.warn("cannot configure the network: the guest has no NIC");
        return Ok(());
    };
    found(&nic.name, report);
    let routes = Routes::open().map_err(failed)?;
    routes.set_mac(nic.index, network::parse_mac(&network.mac).map_err(failed)?).map_err(failed)?;
    report.note("configure the network", network::bring_up(&routes, &nic, network));
    Ok(())
}

/// The guest's NIC: the one that has the address already, or else the first.
fn the_one(mut nics: Vec<Nic>, mac: &str) -> Option<Nic> {
    let at = nics.iter().position(|nic| nic.mac.eq_ignore_ascii_case(mac)).unwrap_or(0);
    (at < nics.len()).then(|| nics.swap_remove(at))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_nic_is_found_whatever_its_address_is() {
        let nic = |index: u32| Nic { index, name: format!("eth{index}"), mac: format!("52:54:00:00:00:0{index}") };
        let found =
            |nics: &[u32], mac: &str| the_one(nics.iter().copied().map(nic).collect(), mac).map(|nic| nic.index);
        assert_eq!(found(&[2, 3], "52:54:00:00:00:03"), Some(3));
        assert_eq!(found(&[2, 3], "52:54:00:00:00:09"), Some(2));
        assert_eq!(found(&[], "52:54:00:00:00:09"), None);
    }
}

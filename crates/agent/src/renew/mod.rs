//! A guest whose memory was saved and restored becomes another machine, before anything is asked of it.
//!
//! ```text
//! clock         as the host says, forwards or backwards           boot::identity
//! randomness    added to the kernel's pool, its generator rekeyed boot::identity
//! silence       NIC down, addresses and routes gone               nic.rs
//! connections   those that leave the machine are destroyed        connections.rs
//! names         host name, hosts, resolver                        boot::identity
//! ids           machine-id, host keys, boot id, random seed       ids.rs
//! person        keys, git identity, files                         boot::identity
//! disk          grown to its device                               serve::grow
//! services      those that remember who the guest was are told    services.rs
//! network       new MAC address, NIC up, new addresses and routes nic.rs
//! ```
//! The network comes last: nobody outside meets the guest as anything but what it is now, and the resets of connections
//! that are destroyed reach nobody, who might be a peer of the parent.
//!
//! What would let the guest be mistaken for its parent, or know its secrets, fails the renewal: randomness, silence,
//! connections, ids, the NIC's new address. All else is a warning. Renewing twice is renewing once.

pub mod connections;
pub mod ids;
pub mod nic;
pub mod services;

use std::io;

use wire::agent::message::{BootConfig, Failure};
use wire::agent::renewal::{Renewal, Renewed};

use crate::boot::{Report, dropins, identity};
use crate::root_dir::RootDir;
use crate::serve::grow;
use crate::serve::requests::{os, set_clock};

/// Least bytes of randomness that make a generator new: what the kernel's key has.
const ENTROPY_BYTES_MIN: usize = 32;

/// The guest that is renewed.
#[derive(Debug)]
pub struct Place<'a> {
    /// Its root directory.
    pub root: &'a RootDir,
    /// A process outside a VM serves a directory: files are written below it, the kernel and its services are the host's.
    pub is_hosted: bool,
    /// Its init is systemd.
    pub is_systemd: bool,
}

/// Readies the guest for being saved: everything is on the disk, and with `quiesce` it has no address any more.
///
/// # Errors
/// When the NIC cannot be silenced.
pub fn freeze(quiesce: bool) -> Result<(), Failure> {
    if quiesce {
        nic::silence().map_err(|error| os("cannot take the network down", &error))?;
    }
    rustix::fs::sync();
    Ok(())
}

/// Makes the guest another machine.
///
/// # Errors
/// [`Failure::Refused`] when the renewal makes no sense, with nothing changed; else what keeps the guest from being another
/// machine.
pub fn renew(place: &Place<'_>, renewal: &Renewal) -> Result<Renewed, Failure> {
    let entropy = check(renewal)?;
    let config = &renewal.config;
    let mut report = if place.is_hosted { Report::unlogged() } else { Report::default() };
    if !place.is_hosted {
        set_clock(config.unix_ns)?;
        report.reached("clock");
        reseed(&entropy).map_err(|error| os("cannot renew the kernel's random generator", &error))?;
        report.reached("randomness");
        nic::silence().map_err(|error| os("cannot take the network down", &error))?;
        report.reached("silence");
        connections::destroy().map_err(|error| os("cannot destroy the connections of the parent", &error))?;
        report.reached("connections");
        identity::set_host_name(config, &mut report);
    }
    identity::write_names(place.root, config, &mut report);
    report.reached("names");
    ids::renew(place, renewal, &mut report)?;
    report.reached("ids");
    identity::apply_personal(place.root, config, &mut report);
    report.reached("person");
    if !place.is_hosted {
        finish(place, renewal, &mut report)?;
    }
    let (timeline, warnings) = report.into_parts();
    Ok(Renewed { timeline, warnings })
}

/// What only a machine has.
fn finish(place: &Place<'_>, renewal: &Renewal, report: &mut Report) -> Result<(), Failure> {
    if let Some(bytes) = renewal.disk_bytes {
        let grown = place.root.as_fd().try_clone_to_owned().map_err(|error| os("cannot share the root", &error));
        if let Err(failure) = grown.and_then(|root| grow::grow(&root, bytes)) {
            report.warn(failure.to_string());
        }
        report.reached("disk");
    }
    if place.is_systemd {
        services::tell(&renewal.services, report);
        report.reached("services");
    }
    if let Some(network) = &renewal.config.network {
        nic::renew(network, report, |name, report| {
            dropins::write_network(place.root, network, Some(name), place.is_systemd, report);
        })?;
        report.reached("network");
    }
    Ok(())
}

/// Whether a renewal can be what its sender meant; gives the random bytes.
fn check(renewal: &Renewal) -> Result<Vec<u8>, Failure> {
    let refused = |why: String| Failure::Refused { why };
    let BootConfig { machine_id, entropy_hex, unix_ns, .. } = &renewal.config;
    if !ids::is_machine_id(machine_id) {
        return Err(refused(format!("{machine_id:?} is no machine-id")));
    }
    if !ids::is_uuid(&renewal.boot_uuid) {
        return Err(refused(format!("{:?} is no boot id", renewal.boot_uuid)));
    }
    if *unix_ns == 0 {
        return Err(refused("a renewal without the time".to_owned()));
    }
    let entropy = identity::bytes_of_hex(entropy_hex).map_err(|error| refused(format!("random bytes: {error}")))?;
    if entropy.len() < ENTROPY_BYTES_MIN {
        let have = entropy.len();
        return Err(refused(format!("{have} random bytes make no new generator, {ENTROPY_BYTES_MIN} would")));
    }
    Ok(entropy)
}

/// Adds `entropy` and makes it count at once: the pool as it was saved is known to every other guest made of it.
fn reseed(entropy: &[u8]) -> io::Result<()> {
    let device = identity::random_device()?;
    for part in entropy.chunks(sys::kernel::ENTROPY_BYTES_MAX) {
        sys::kernel::add_entropy(&device, part)?;
    }
    sys::kernel::reseed(&device)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn renewal() -> Renewal {
        let config = BootConfig {
            machine_id: "0123456789abcdef0123456789abcdef".into(),
            unix_ns: 1_700_000_000_000_000_000,
            entropy_hex: "5a".repeat(64),
            ..BootConfig::default()
        };
        Renewal { boot_uuid: "0f0e0d0c-0b0a-4908-8706-050403020100".into(), config, ..Renewal::default() }
    }

    #[test]
    fn a_renewal_that_would_not_make_another_machine_is_refused() {
        assert_eq!(check(&renewal()), Ok(vec![0x5a; 64]));
        type Spoil = fn(&mut Renewal);
        let spoilt: [Spoil; 7] = [
            |r| r.config.entropy_hex = "5a".repeat(31),
            |r| r.config.entropy_hex = "5".repeat(65),
            |r| r.config.entropy_hex.clear(),
            |r| r.config.unix_ns = 0,
            |r| r.config.machine_id.clear(),
            |r| r.boot_uuid.clear(),
            |r| r.boot_uuid = "0123456789abcdef0123456789abcdef".into(),
        ];
        for (number, spoil) in spoilt.into_iter().enumerate() {
            let mut renewal = renewal();
            spoil(&mut renewal);
            assert!(matches!(check(&renewal), Err(Failure::Refused { .. })), "{number}");
        }
    }
}

//! A guest whose memory was saved and restored becomes another machine, before anything is asked of it.
//!
//! ```text
//! clock          as the host says, forwards or backwards            serve::requests
//! randomness     added to the kernel's pool, its generator rekeyed  boot::identity
//!   silence        NIC down, addresses and routes gone              nic.rs
//!   connections    those that leave the machine are destroyed       connections.rs
//! names          host name, hosts, resolver                         boot::identity
//! ids            machine-id, host keys, boot id, random seed        ids.rs
//! person         keys, git identity, files                          boot::identity
//! services       those that remember who the guest was are told     services.rs
//! disk           grown to its device                                serve::grow
//! network        new MAC address, NIC up, new addresses and routes  nic.rs
//! ```
//! What is indented runs beside the rest, in a thread that has ended before the disk's turn; a machine that was cut off before
//! it was saved, as every template is, needs none of it.
//!
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
    /// It was cut off its network before it was saved: [`freeze`].
    pub is_quiet: bool,
    /// What it was told to be before.
    pub parent: &'a BootConfig,
}

/// How a guest is that is saved only to be another machine, and what is done ahead of that.
#[derive(Debug)]
pub struct Quiet<'a> {
    /// Its root directory.
    pub root: &'a RootDir,
    /// Its init is systemd.
    pub is_systemd: bool,
}

/// Readies the guest for being saved: everything is on the disk, and one that is to be quiet has neither addresses nor
/// connections any more.
///
/// # Errors
/// When it cannot be cut off its network, or its boot id cannot be covered.
pub fn freeze(quiet: Option<&Quiet<'_>>) -> Result<(), Failure> {
    if let Some(quiet) = quiet {
        if quiet.is_systemd {
            services::rest();
        }
        ids::prepare_boot_id(quiet.root).map_err(|error| os("cannot cover the boot id", &error))?;
        cut_off().0?;
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
    let mut report = if place.is_hosted { Report::unlogged() } else { Report::default() };
    if place.is_hosted {
        rename(place, renewal, &mut report)?;
    } else {
        renew_machine(place, renewal, &entropy, &mut report)?;
    }
    let (timeline, warnings) = report.into_parts();
    Ok(Renewed { timeline, warnings })
}

/// What only a machine has, and all else.
fn renew_machine(place: &Place<'_>, renewal: &Renewal, entropy: &[u8], report: &mut Report) -> Result<(), Failure> {
    set_clock(renewal.config.unix_ns)?;
    report.reached("clock");
    reseed(entropy).map_err(|error| os("cannot renew the kernel's random generator", &error))?;
    report.reached("randomness");
    let told = std::thread::scope(|scope| {
        let beside = || std::thread::Builder::new().name("cut off".to_owned()).spawn_scoped(scope, cut_off);
        let cut =
            if place.is_quiet { None } else { Some(beside().map_err(|error| os("cannot start a thread", &error))?) };
        identity::set_host_name(&renewal.config, report);
        let renamed = rename(place, renewal, report);
        let told = if place.is_systemd { services::tell(&renewal.services, report) } else { services::Told::default() };
        let cut = match cut.map(|thread| thread.join()) {
            Some(Ok((cut, beside))) => {
                report.merge(beside);
                cut
            }
            Some(Err(_panic)) => Err(os("cannot cut the network off", &io::Error::other("it panicked"))),
            None => Ok(()),
        };
        renamed.and(cut).map(|()| told)
    })?;
    if let Some(bytes) = renewal.disk_bytes {
        let root = place.root.as_fd().try_clone_to_owned().map_err(|error| os("cannot share the root", &error));
        if let Err(failure) = root.and_then(|root| grow::grow(&root, bytes)) {
            report.warn(failure.to_string());
        }
        report.reached("disk");
    }
    if let Some(network) = &renewal.config.network {
        nic::renew(network, report, |name, report| {
            dropins::write_network(place.root, network, Some(name), place.is_systemd, report);
        })?;
        report.reached("network");
    }
    told.settle(report);
    report.reached("services");
    Ok(())
}

/// Nothing leaves the machine any more, and nobody waits for what would come.
fn cut_off() -> (Result<(), Failure>, Report) {
    let mut report = Report::default();
    let silenced = nic::silence().map_err(|error| os("cannot take the network down", &error));
    report.reached("silence");
    let cut = silenced.and_then(|()| {
        connections::destroy().map_err(|error| os("cannot destroy the connections of the parent", &error))
    });
    report.reached("connections");
    (cut, report)
}

/// What is written in files.
fn rename(place: &Place<'_>, renewal: &Renewal, report: &mut Report) -> Result<(), Failure> {
    let config = &renewal.config;
    identity::write_names(place.root, config, report);
    report.reached("names");
    ids::renew(place, renewal, report)?;
    report.reached("ids");
    if let Some(old) = place.parent.git_identity.as_ref().filter(|old| Some(*old) != config.git_identity.as_ref()) {
        report.note("remove the parent's git identity", identity::remove_git_identity(place.root, old));
    }
    identity::apply_personal(place.root, config, report);
    report.reached("person");
    Ok(())
}

/// Whether a renewal can be what its sender meant; gives the random bytes.
fn check(renewal: &Renewal) -> Result<Vec<u8>, Failure> {
    let refused = |why: String| Failure::Refused { why };
    let BootConfig { machine_id, entropy_hex, unix_ns, .. } = &renewal.config;
    if !ids::is_machine_id(machine_id) {
        return Err(refused(format!("{machine_id:?} is no machine-id")));
    }
    if let Some(uuid) = renewal.boot_uuid.as_ref().filter(|uuid| !ids::is_uuid(uuid)) {
        return Err(refused(format!("{uuid:?} is no boot id")));
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
        Renewal { boot_uuid: Some("0f0e0d0c-0b0a-4908-8706-050403020100".into()), config, ..Renewal::default() }
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
            |r| r.boot_uuid = Some(String::new()),
            |r| r.boot_uuid = Some("0123456789abcdef0123456789abcdef".into()),
        ];
        for (number, spoil) in spoilt.into_iter().enumerate() {
            let mut renewal = renewal();
            spoil(&mut renewal);
            assert!(matches!(check(&renewal), Err(Failure::Refused { .. })), "{number}");
        }
    }
}

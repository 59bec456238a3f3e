//! The guest's memory is saved, and it is another machine when it is restored: [`crate::renew`].

use wire::agent::message::{Failure, Reply, Stage};
use wire::agent::renewal::Renewal;

use super::requests::os;
use super::worker::Channels;
use super::{Name, Server};
use crate::renew::{self, Place, Quiet};
use crate::root_dir::RootDir;

impl Server {
    /// Readies the guest for being saved, beside what else is served: writing to the disk takes as long as it takes.
    pub(super) fn freeze(&mut self, stream: u32, quiesce: bool) {
        let quiesce = quiesce && !self.guest.is_hosted();
        // Whoever is told that it failed saves no machine.
        self.is_quiet = quiesce;
        let is_systemd = self.tells.is_systemd();
        self.work(stream, Channels::Neither, move |hands| {
            let quiet = Quiet { root: &RootDir::from_fd(hands.root), is_systemd };
            renew::freeze(quiesce.then_some(&quiet)).map(|()| Reply::Done { bytes: 0 })
        });
    }

    /// Says nothing more until the host is heard from.
    pub(super) fn hold(&mut self, stream: u32) {
        self.reply(stream, &Reply::Done { bytes: 0 });
        self.hold_until = None;
        self.outbound.hold();
    }

    /// Makes the guest another machine; nothing else is served meanwhile. What it is called changes when it is one.
    pub(super) fn renew(&mut self, renewal: Renewal) -> Result<Reply, Failure> {
        if self.stage != Stage::Serving {
            return Err(Failure::Refused { why: "the guest is not configured yet".to_owned() });
        }
        let root = self.guest.open_root().map(RootDir::from_fd).map_err(|error| os("cannot open the root", &error))?;
        let place = Place {
            root: &root,
            is_hosted: self.guest.is_hosted(),
            is_systemd: self.tells.is_systemd(),
            is_quiet: self.is_quiet,
            parent: self.guest.config(),
        };
        let renewed = renew::renew(&place, &renewal)?;
        let Renewal { vm, boot, boot_uuid, config, .. } = renewal;
        self.is_quiet = false;
        self.name = Name { vm, boot };
        self.tells.renewed();
        self.guest.renew(config, boot_uuid);
        Ok(Reply::Renewed(renewed))
    }
}

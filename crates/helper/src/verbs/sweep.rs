//! Sweep: removes whatever is ours and belongs to no live VM. Our names are the proof that it is ours.

use std::io;
use std::path::Path;

use wire::helper::{Act, Failure, Live, Swept};
use wire::naming;

use super::{jail, tap, vmm};
use crate::policy::os;

/// Ends and removes every jail and tap but those of `live`. One that cannot be removed does not keep the others.
pub(crate) fn all_but(run: &Path, live: &[Live]) -> Result<Swept, Failure> {
    let mut swept = Swept { jails: 0, taps: 0 };
    let mut first = None;
    for boot in jail::all(run)? {
        if live.iter().all(|one| one.boot != boot) {
            match jail::destroy(run, &boot) {
                Ok(_) => swept.jails += 1,
                Err(failure) => first = first.or(Some(failure)),
            }
        }
    }
    for name in sys::tap::interfaces().map_err(os(Act::RemoveTap))? {
        let slot = naming::slot_of_tap(&name);
        if let Some(slot) = slot.filter(|slot| live.iter().all(|one| one.slot != *slot)) {
            match tap::delete(slot) {
                Ok(_) => swept.taps += 1,
                Err(failure) => first = first.or(Some(failure)),
            }
        }
    }
    first.map_or(Ok(swept), Err)
}

/// The same for a helper that has ended: what lives is what runs.
pub(crate) fn what_nobody_uses(run: &Path) -> io::Result<()> {
    let _lock = crate::serve::claim(run)?;
    let swept = running(run).and_then(|live| all_but(run, &live)).map_err(io::Error::other)?;
    crate::say(&format!("swept {} jails and {} taps", swept.jails, swept.taps));
    Ok(())
}

fn running(run: &Path) -> Result<Vec<Live>, Failure> {
    let mut live = Vec::new();
    for boot in jail::all(run)? {
        if vmm::running(run, &boot)?.is_some() {
            let slot = jail::read(run, &boot)?.slot;
            live.push(Live { boot, slot });
        }
    }
    Ok(live)
}

//! Ensure and delete a VM's tap. Its name follows from the slot, so no other interface can be meant.

use wire::helper::{Act, EnsureTap, Failure, Gone, TapReady};
use wire::naming::{self, Slot};

use crate::policy::os;

pub(crate) fn ensure(wanted: &EnsureTap) -> Result<TapReady, Failure> {
    let index =
        sys::tap::ensure(&naming::tap_name(wanted.slot), naming::vm_uid(wanted.slot)).map_err(os(Act::MakeTap))?;
    Ok(TapReady { index })
}

pub(crate) fn delete(slot: Slot) -> Result<Gone, Failure> {
    sys::tap::delete(&naming::tap_name(slot)).map_err(os(Act::RemoveTap))?;
    Ok(Gone {})
}

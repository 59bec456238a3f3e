//! What a boot is made of must be there before it begins: what is gone or cut is found here, by name, and not by a guest that
//! cannot mount it.

use std::path::{Path, PathBuf};

use wire::api::ErrorCode;

use super::failure::refused;
use super::world::Host;
use crate::model::image::LinkedFile;
use crate::saga::Cause;
use crate::store::records::{ImageRecord, VmRecord};

/// A VM whose disk is gone would boot with a new and empty one, as if nothing had ever been in it.
///
/// # Errors
/// When it is gone.
pub(super) fn check_disk(host: &Host, vm: &VmRecord) -> Result<(), Cause> {
    if host.storage.length_bytes(&vm.id) > 0 {
        return Ok(());
    }
    let message = format!("the disk of {} is missing: there is no {}", vm.name, host.storage.path(&vm.id).display());
    let hint = format!("put a copy of it there, or delete the VM: banger rm {}", vm.name);
    Err(refused(ErrorCode::WrongState, message).with_hint(hint))
}

/// Where an image's root filesystem is.
///
/// # Errors
/// When it is damaged, or a file of the user's that is not as it was registered.
pub(crate) fn check_image(host: &Host, image: &ImageRecord) -> Result<PathBuf, Cause> {
    let path = host.image_dir(&image.id).join("rootfs.ext4");
    if let Some(linked) = &image.manifest.linked
        && path.exists()
        && !is_unchanged(linked, &path)
    {
        let message = format!("image {} is your file {}, and that was changed since", image.name, linked.path);
        let hint = "VMs of it need it as it was: put it back with its time of change (cp -p), or register it under another name";
        return Err(refused(ErrorCode::WrongState, message).with_hint(hint));
    }
    check_file("image", &image.name, &path, image.manifest.bytes)?;
    Ok(path)
}

/// Whether the file `path` is the user's `linked`, and nobody has written to it.
pub(super) fn is_unchanged(linked: &LinkedFile, path: &Path) -> bool {
    std::fs::metadata(path).is_ok_and(|meta| linked.is_unchanged(&meta))
}

/// Looks at one file. One that is gone or cut is found here, not by a guest that cannot mount it.
///
/// # Errors
/// When it has not as many bytes as it should have.
pub(super) fn check_file(what: &str, name: &str, path: &Path, bytes: u64) -> Result<(), Cause> {
    let found = std::fs::metadata(path).map(|meta| meta.len());
    if found.as_ref().is_ok_and(|found| *found == bytes) {
        return Ok(());
    }
    let why = match found {
        Ok(found) => format!("has {found} bytes instead of {bytes}"),
        Err(error) if error.kind() == std::io::ErrorKind::NotFound => "is missing".to_owned(),
        Err(error) => format!("cannot be read ({})", error.kind()),
    };
    let message = format!("{what} {name} is damaged: {} {why}", path.display());
    let remedy = if what == "image" { "build" } else { "import" };
    let hint = format!("delete the VMs of it and itself (banger {what} delete {name}), then banger {what} {remedy}");
    Err(refused(ErrorCode::WrongState, message).with_hint(hint))
}

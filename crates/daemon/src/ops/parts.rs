//! What a boot is made of, looked at before anything begins: the files of images and kernels.

use std::path::{Path, PathBuf};

use wire::api::ErrorCode;

use super::failure::refused;
use super::world::Host;
use crate::saga::Cause;
use crate::store::records::ImageRecord;

/// Where an image's root filesystem is.
///
/// # Errors
/// When it is damaged.
pub(super) fn check_image(host: &Host, image: &ImageRecord) -> Result<PathBuf, Cause> {
    let path = host.image_dir(&image.id).join("rootfs.ext4");
    check_file("image", &image.name, &path, image.manifest.bytes)?;
    Ok(path)
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

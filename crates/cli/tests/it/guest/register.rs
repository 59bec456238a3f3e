//! Root filesystems that are files already: copied, or linked and watched.

use std::fs::File;
use std::os::unix::fs::FileExt;
use std::process::Command;

use super::host::Host;
use super::images::with_own_images;

/// The root filesystem of an image that is here, as a file of the user's.
fn users_file(host: &Host, image: &str) -> std::path::PathBuf {
    let shown: serde_json::Value =
        serde_json::from_str(&host.ok(&["image", "show", image, "--format", "json"])).unwrap();
    let file = host.state().join("mine.ext4");
    let own = host.state().join("images").join(shown["id"].as_str().unwrap()).join("rootfs.ext4");
    std::fs::copy(own, &file).unwrap();
    // Of another content than the image that is here: no guest looks at the volume's name.
    let named = Command::new("/usr/sbin/tune2fs").args(["-L", "users"]).arg(&file).output().unwrap();
    assert!(named.status.success(), "{}", String::from_utf8_lossy(&named.stderr));
    file
}

#[test]
fn a_file_becomes_an_image_linked_or_copied() {
    let host = with_own_images();
    let file = users_file(&host, "debian-bookworm");
    let path = file.to_str().unwrap();
    assert_eq!(host.ok(&["image", "register", "-q", path, "--name", "linked", "--link"]), "linked");
    assert_eq!(host.ok(&["run", "--rm", "--image", "linked", "--wait", "agent", "--", "echo", "booted"]), "booted");
    File::options().write(true).open(&file).unwrap().write_all_at(b"x", 1 << 20).unwrap();
    let refused = host.run(&["run", "--rm", "--image", "linked", "--wait", "agent", "--", "true"]).code(125);
    assert!(refused.stderr.contains("mine.ext4"), "{}", refused.stderr);
    let refused = host.run(&["image", "promote", "-q", "linked"]).code(1);
    assert!(refused.stderr.contains("linked"), "{}", refused.stderr);
    host.ok(&["image", "delete", "-q", "linked"]);
    assert!(file.exists(), "the user's file is the user's");

    File::options().write(true).open(&file).unwrap().write_all_at(b"damaged", 1024 + 0x38).unwrap();
    let refused = host.run(&["image", "register", "-q", path, "--name", "bad"]).code(1);
    assert!(refused.stderr.contains("format"), "{}", refused.stderr);
    host.ends_clean();
}

//! The QEMU that a test host runs in: one of the recipe's own, kept in the image, whatever this machine has.
//!
//! A host whose processor is emulated lives on changes to code that another processor runs: its kernel makes them, and
//! each guest in it does. QEMU before 8.2 loses some of those on a busy machine; guests then stand still, or the host's
//! kernel faults. Debian 12's own is 7.2, its backports have a newer one. The program is taken out of the host's tree
//! with the libraries it is linked to and the dynamic loader, so that nothing is installed on this machine.

use std::path::Path;
use std::process::Command;

/// Where it is in the image's directory.
const DIR: &str = "qemu";
/// The dynamic loader, as every x86-64 program names it.
const LOADER: &str = "ld-linux-x86-64.so.2";

/// Shell that copies it out of the tree `$root` into the image's directory `$image`, as one who may use chroot(1).
pub(super) const TAKE: &str = r#"
mkdir -p "$image/qemu/lib" "$image/qemu/share"
cp "$root/usr/bin/qemu-system-x86_64" "$image/qemu/"
chroot "$root" ldd /usr/bin/qemu-system-x86_64 >"$image/qemu/libraries"
sed -n 's/.*=> \(\/[^ ]*\) .*/\1/p; s/^[[:space:]]*\(\/[^ ]*\) (.*/\1/p' "$image/qemu/libraries" | while read -r library; do
    cp -L "$root$library" "$image/qemu/lib/"
done
cp -RL "$root/usr/share/qemu" "$root/usr/share/seabios" "$image/qemu/share/"
"#;

/// The program of this image, with its own libraries and firmware; the caller adds the machine.
pub(super) fn command(image: &Path) -> Command {
    let dir = image.join(DIR);
    let lib = dir.join("lib");
    let mut command = Command::new(lib.join(LOADER));
    command.arg("--library-path").arg(&lib).arg(dir.join("qemu-system-x86_64"));
    for share in ["qemu", "seabios"] {
        command.arg("-L").arg(dir.join("share").join(share));
    }
    command
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn nothing_of_it_is_this_machines() {
        let command = command(Path::new("/c/image-1"));
        let words: Vec<String> = command.get_args().map(|word| word.to_string_lossy().into_owned()).collect();
        assert_eq!(command.get_program(), "/c/image-1/qemu/lib/ld-linux-x86-64.so.2");
        assert_eq!(words[..3], ["--library-path", "/c/image-1/qemu/lib", "/c/image-1/qemu/qemu-system-x86_64"]);
        assert_eq!(words[3..], ["-L", "/c/image-1/qemu/share/qemu", "-L", "/c/image-1/qemu/share/seabios"]);
    }
}

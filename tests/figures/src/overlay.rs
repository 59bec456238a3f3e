//! An initramfs with another `/init`: what differs between a boot of the product and its floor.
//!
//! The kernel unpacks one archive after the other, and the last file of a name stays
//! (Documentation/driver-api/early-userspace/buffer-format.rst).

use std::fmt::Write as _;

/// `initramfs` followed by a newc archive that holds `init` as `/init`. An empty `initramfs` makes that archive alone.
#[must_use]
pub fn lay_over(initramfs: &[u8], init: &[u8]) -> Vec<u8> {
    let mut bytes = initramfs.to_vec();
    pad(&mut bytes);
    entry(&mut bytes, "init", 0o100_755, init);
    entry(&mut bytes, "TRAILER!!!", 0, &[]);
    bytes
}

fn entry(archive: &mut Vec<u8>, name: &str, mode: usize, content: &[u8]) {
    // magic; ino, mode, uid, gid, nlink, mtime, filesize, devmajor, devminor, rdevmajor, rdevminor, namesize, check
    let fields = [721, mode, 0, 0, 1, 0, content.len(), 0, 0, 0, 0, name.len() + 1, 0];
    let mut header = "070701".to_owned();
    for field in fields {
        write!(header, "{field:08x}").expect("writing to a string cannot fail");
    }
    archive.extend_from_slice(header.as_bytes());
    archive.extend_from_slice(name.as_bytes());
    archive.push(0);
    pad(archive);
    archive.extend_from_slice(content);
    pad(archive);
}

fn pad(archive: &mut Vec<u8>) {
    archive.resize(archive.len().next_multiple_of(4), 0);
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_archive_is_one_that_cpio_readers_know() {
        let archive = lay_over(b"", b"\x7fELF");
        assert_eq!(archive.len() % 4, 0);
        assert!(archive.starts_with(b"070701"));
        let trailer = archive.windows(10).position(|bytes| bytes == b"TRAILER!!!").unwrap();
        assert!(archive[trailer + 10..].iter().all(|byte| *byte == 0));
        // The name ends the first header; the content begins at the next multiple of four.
        assert_eq!(&archive[110..115], b"init\0");
        assert_eq!(&archive[116..120], b"\x7fELF");
    }

    #[test]
    fn it_follows_what_was_there_on_a_word() {
        let archive = lay_over(b"12345", b"i");
        assert!(archive.starts_with(b"12345\0\0\x00070701"));
    }
}

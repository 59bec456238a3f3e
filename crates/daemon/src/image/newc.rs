//! Writes a cpio archive in the "newc" format, which the kernel unpacks as its initramfs.
//!
//! The format is Documentation/driver-api/early-userspace/buffer-format.rst: a header of 6 bytes of magic and 13
//! fields of 8 hexadecimal digits, the name with its NUL, the content; name and content are padded to 4 bytes. Equal
//! entries give equal bytes: times are 0 and inode numbers count up. [`reader`] reads such archives from elsewhere.

pub(crate) mod reader;

/// Bytes of an entry's header.
const HEADER_BYTES: usize = 110;
const TRAILER: &str = "TRAILER!!!";
const S_IFDIR: u32 = 0o040_000;
const S_IFREG: u32 = 0o100_000;
const S_IFCHR: u32 = 0o020_000;

/// An archive being written in memory.
#[derive(Debug, Default)]
pub(crate) struct Archive {
    bytes: Vec<u8>,
    entries: u32,
}

impl Archive {
    /// An archive with room for `bytes` before it must grow.
    pub(crate) fn with_capacity(bytes: usize) -> Self {
        Self { bytes: Vec::with_capacity(bytes), entries: 0 }
    }

    fn entry(&mut self, path: &str, mode: u32, links: u32, device: (u32, u32), content: &[u8]) {
        self.entries += 1;
        let size = u32::try_from(content.len()).expect("callers bound what goes into an initramfs far below 4 GiB");
        let name_bytes = path.len() as u32 + 1;
        let (major, minor) = device;
        let fields = [self.entries, mode, 0, 0, links, 0, size, 0, 0, major, minor, name_bytes, 0];
        self.bytes.extend(b"070701");
        for field in fields {
            self.bytes.extend(format!("{field:08x}").bytes());
        }
        self.bytes.extend(path.as_bytes());
        self.bytes.push(0);
        self.pad();
        self.bytes.extend(content);
        self.pad();
    }

    fn pad(&mut self) {
        self.bytes.resize(self.bytes.len().next_multiple_of(4), 0);
    }

    /// Adds a directory; `path` has no leading slash.
    pub(crate) fn directory(&mut self, path: &str, permissions: u32) {
        self.entry(path, S_IFDIR | permissions, 2, (0, 0), &[]);
    }

    /// Adds a regular file.
    pub(crate) fn file(&mut self, path: &str, permissions: u32, content: &[u8]) {
        self.entry(path, S_IFREG | permissions, 1, (0, 0), content);
    }

    /// Adds a character device.
    pub(crate) fn device(&mut self, path: &str, permissions: u32, major: u32, minor: u32) {
        self.entry(path, S_IFCHR | permissions, 1, (major, minor), &[]);
    }

    /// The whole archive.
    pub(crate) fn finish(mut self) -> Vec<u8> {
        self.entry(TRAILER, 0, 1, (0, 0), &[]);
        self.bytes
    }
}

#[cfg(test)]
pub(crate) mod tests {
    use super::*;
    use proptest::prelude::*;

    /// One entry as the kernel's unpacker (init/initramfs.c) would see it.
    #[derive(Debug, Clone, PartialEq, Eq)]
    pub(crate) struct Entry {
        pub(crate) path: String,
        pub(crate) mode: u32,
        pub(crate) device: (u32, u32),
        pub(crate) content: Vec<u8>,
        inode: u32,
    }

    /// Reads an archive, panicking at anything the format does not allow.
    pub(crate) fn parse(mut bytes: &[u8]) -> Vec<Entry> {
        let whole = bytes.len();
        let mut entries = Vec::new();
        loop {
            assert_eq!((whole - bytes.len()) % 4, 0, "headers are aligned");
            assert_eq!(&bytes[..6], b"070701");
            let field = |n: usize| {
                let text = std::str::from_utf8(&bytes[6 + n * 8..14 + n * 8]).unwrap();
                u32::from_str_radix(text, 16).unwrap()
            };
            assert_eq!((field(2), field(3), field(5)), (0, 0, 0), "owner and time");
            let name_end = HEADER_BYTES + field(11) as usize;
            assert_eq!(bytes[name_end - 1], 0);
            let path = String::from_utf8(bytes[HEADER_BYTES..name_end - 1].to_vec()).unwrap();
            let start = name_end.next_multiple_of(4);
            let end = start + field(6) as usize;
            let entry = Entry {
                path,
                mode: field(1),
                device: (field(9), field(10)),
                content: bytes[start..end].to_vec(),
                inode: field(0),
            };
            bytes = &bytes[end.next_multiple_of(4)..];
            if entry.path == TRAILER {
                assert!(bytes.is_empty());
                return entries;
            }
            entries.push(entry);
        }
    }

    proptest! {
        #[test]
        fn what_is_written_reads_back(files in proptest::collection::vec(("[a-z]{1,9}(/[a-z]{1,9}){0,2}", 0u32..0o1000, proptest::collection::vec(any::<u8>(), 0..50)), 0..9)) {
            let mut archive = Archive::default();
            archive.directory("dev", 0o755);
            archive.device("dev/console", 0o600, 5, 1);
            for (path, mode, content) in &files {
                archive.file(path, *mode, content);
            }
            let read = parse(&archive.finish());
            prop_assert_eq!(read.len(), files.len() + 2);
            prop_assert_eq!((read[0].mode, read[1].mode, read[1].device), (0o040_755, 0o020_600, (5, 1)));
            for (at, (entry, (path, mode, content))) in read[2..].iter().zip(&files).enumerate() {
                prop_assert_eq!(&entry.path, path);
                prop_assert_eq!(entry.mode, 0o100_000 | mode);
                prop_assert_eq!(&entry.content, content);
                prop_assert_eq!(entry.inode as usize, at + 3);
            }
        }
    }
}

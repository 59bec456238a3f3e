//! What is mounted: `/proc/self/mountinfo`, proc(5).

use std::io;

/// One mount.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Mount {
    /// Where.
    pub point: String,
    /// Which kind of filesystem.
    pub kind: String,
}

/// Filesystems without anything to lose.
const MEMORY: [&str; 17] = [
    "proc",
    "sysfs",
    "devtmpfs",
    "devpts",
    "tmpfs",
    "ramfs",
    "cgroup",
    "cgroup2",
    "mqueue",
    "hugetlbfs",
    "debugfs",
    "tracefs",
    "configfs",
    "securityfs",
    "bpf",
    "pstore",
    "autofs",
];

impl Mount {
    /// Whether it is a filesystem in memory only.
    #[must_use]
    pub fn is_memory(&self) -> bool {
        MEMORY.contains(&self.kind.as_str())
    }
}

/// All mounts of this process's namespace, in the order of their making.
///
/// # Errors
/// When /proc is not there.
pub fn list() -> io::Result<Vec<Mount>> {
    Ok(parse(&std::fs::read_to_string("/proc/self/mountinfo")?))
}

fn parse(text: &str) -> Vec<Mount> {
    let mount = |line: &str| {
        let (before, after) = line.split_once(" - ")?;
        let point = unescaped(before.split(' ').nth(4)?);
        Some(Mount { point, kind: after.split(' ').next()?.to_owned() })
    };
    text.lines().filter_map(mount).collect()
}

/// A path as it is: blanks and backslashes are written as three octal digits.
fn unescaped(text: &str) -> String {
    let mut bytes = Vec::with_capacity(text.len());
    let mut rest = text.as_bytes();
    while let Some((byte, after)) = rest.split_first() {
        let octal = after.get(..3).filter(|_| *byte == b'\\').and_then(|digits| std::str::from_utf8(digits).ok());
        if let Some(value) = octal.and_then(|digits| u8::from_str_radix(digits, 8).ok()) {
            bytes.push(value);
            rest = &after[3..];
        } else {
            bytes.push(*byte);
            rest = after;
        }
    }
    String::from_utf8_lossy(&bytes).into_owned()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn mounts_are_read() {
        let text = "22 1 0:21 / /run rw,nosuid shared:5 - tmpfs tmpfs rw\n\
                    23 22 8:1 / /a\\040b\\134c rw - ext4 /dev/vda rw\nbroken\n";
        let mounts = parse(text);
        assert_eq!(mounts[0], Mount { point: "/run".into(), kind: "tmpfs".into() });
        assert_eq!(mounts[1].point, "/a b\\c");
        assert!(mounts[0].is_memory() && !mounts[1].is_memory());
        assert_eq!(mounts.len(), 2);
        assert!(list().unwrap().iter().any(|mount| mount.point == "/"));
    }
}

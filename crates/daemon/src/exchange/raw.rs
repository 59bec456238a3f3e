//! One line of git's `--raw` list of differences: `:mode mode object object status⇥path[⇥path]`, names quoted as C has it.

/// What a mode says of a symbolic link, as it is printed.
const LINK: &[u8] = b"120000";
/// What a mode says of a submodule.
const GITLINK: u32 = 0o160_000;

/// A difference.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Record {
    /// The mode it has now; 0 when it is gone.
    pub(super) mode: u32,
    /// `A`, `D`, `M`, `T`, or `R` with a number that was cut off.
    pub(super) status: u8,
    /// Where it is now.
    pub(super) path: Vec<u8>,
    /// It was a symbolic link.
    pub(super) was_link: bool,
}

impl Record {
    /// Whether it is a submodule, or was made one.
    pub(super) fn is_gitlink(&self) -> bool {
        self.mode == GITLINK
    }

    /// Whether it is a link that has another name now.
    pub(super) fn is_moved_link(&self) -> bool {
        self.was_link && self.status == b'R'
    }

    /// Reads a line, without its end; none when it is something else.
    pub(super) fn parse(line: &[u8]) -> Option<Record> {
        let line = line.strip_prefix(b":")?;
        let tab = line.iter().position(|byte| *byte == b'\t')?;
        let words: Vec<&[u8]> = line[..tab].split(|byte| *byte == b' ').collect();
        let [was, mode, _, _, status] = words[..] else { return None };
        let mode = u32::from_str_radix(std::str::from_utf8(mode).ok()?, 8).ok()?;
        // A tab within a name is quoted.
        let path = line[tab + 1..].rsplit(|byte| *byte == b'\t').next()?;
        Some(Record { mode, status: *status.first()?, path: unquoted(path)?, was_link: was == LINK })
    }
}

/// A name as git prints it.
fn unquoted(name: &[u8]) -> Option<Vec<u8>> {
    let Some(quoted) = name.strip_prefix(b"\"") else { return Some(name.to_vec()) };
    let mut letters = quoted.strip_suffix(b"\"")?.iter().copied();
    let mut plain = Vec::new();
    while let Some(letter) = letters.next() {
        if letter != b'\\' {
            plain.push(letter);
            continue;
        }
        plain.push(match letters.next()? {
            b'a' => 7,
            b'b' => 8,
            b't' => b'\t',
            b'n' => b'\n',
            b'v' => 11,
            b'f' => 12,
            b'r' => b'\r',
            octal @ b'0'..=b'3' => {
                let mut value = octal - b'0';
                for _ in 0..2 {
                    let digit = letters.next().filter(|digit| (b'0'..=b'7').contains(digit))?;
                    value = value << 3 | (digit - b'0');
                }
                value
            }
            other @ (b'"' | b'\\') => other,
            _ => return None,
        });
    }
    Some(plain)
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    proptest! {
        #[test]
        fn names_are_what_they_were(path in prop::collection::vec(1_u8.., 1..50)) {
            let quoted: String = path.iter().map(|byte| format!("\\{byte:03o}")).collect();
            let record = Record::parse(format!(":0 100644 0 0 A\t\"{quoted}\"").as_bytes());
            prop_assert_eq!(record.map(|record| record.path), Some(path));
        }

        #[test]
        fn anything_is_read(line in prop::collection::vec(any::<u8>(), 0..200)) {
            Record::parse(&[b":0 100644 0 0 A\t\"", line.as_slice()].concat());
            Record::parse(&line);
        }
    }

    #[test]
    fn lines_of_git() {
        let id = "0".repeat(40);
        let line = |rest: &[u8]| [format!(":000000 100755 {id} {id} ").as_bytes(), rest].concat();
        let record =
            |status, path: &[u8]| Some(Record { mode: 0o100_755, status, path: path.to_vec(), was_link: false });
        assert_eq!(Record::parse(&line(b"A\ta b")), record(b'A', b"a b"));
        assert_eq!(Record::parse(&line(b"R100\told\t\"n\\303\\244\\n\\\"\\\\\"")), record(b'R', b"n\xc3\xa4\n\"\\"));
        for bad in [&b"A"[..], b"A\t\"open", b"A\t\"\\x\"", b"A\t\"\\38\"", b"A\t\"\\\""] {
            assert_eq!(Record::parse(&line(bad)), None, "{bad:?}");
        }
        assert_eq!(Record::parse(b"diff --git a/a b/a"), None);
        assert!(Record::parse(b":120000 120000 a a R100\ta\tb").unwrap().is_moved_link());
        assert!(!Record::parse(b":120000 000000 a a D\ta").unwrap().is_moved_link());
        assert!(Record::parse(b":160000 160000 a b M\tsub").unwrap().is_gitlink());
    }
}

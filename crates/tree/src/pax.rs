//! PAX records: `LENGTH KEY=VALUE\n`, the length counting all of it. A value may hold any byte, line ends included, which
//! is why records are taken by their length.

use std::io;

use rustix::fs::Timespec;

use crate::malformed;
use crate::sparse::Run;

/// What records say of the entry behind them.
#[derive(Debug, Default)]
pub(crate) struct Records {
    pub(crate) path: Option<Vec<u8>>,
    pub(crate) link: Option<Vec<u8>>,
    pub(crate) size: Option<u64>,
    pub(crate) uid: Option<u32>,
    pub(crate) gid: Option<u32>,
    pub(crate) mtime: Option<Timespec>,
    pub(crate) xattrs: Vec<(String, Vec<u8>)>,
    pub(crate) sparse: Sparse,
    pub(crate) socket: Option<Vec<u8>>,
}

/// The key that names a socket, in a global header.
pub(crate) const SOCKET: &str = "BANGER.socket";

/// A sparse file of PAX. Its map is in records (versions 0.0 and 0.1) or at the head of the data (1.0).
#[derive(Debug, Default)]
pub(crate) struct Sparse {
    pub(crate) name: Option<Vec<u8>>,
    pub(crate) length: Option<u64>,
    pub(crate) map: Option<Vec<Run>>,
    pub(crate) major: Option<u64>,
}

impl Records {
    /// Reads the records in `bytes`.
    ///
    /// # Errors
    /// When they are malformed.
    pub(crate) fn read(&mut self, mut bytes: &[u8]) -> io::Result<()> {
        while !bytes.is_empty() {
            let wrong = || malformed("a malformed PAX record");
            let space = bytes.iter().position(|byte| *byte == b' ').ok_or_else(wrong)?;
            let length: usize = number(&bytes[..space]).and_then(|n| usize::try_from(n).ok()).ok_or_else(wrong)?;
            let record = bytes.get(space + 1..length).ok_or_else(wrong)?;
            let record = record.strip_suffix(b"\n").ok_or_else(wrong)?;
            let equals = record.iter().position(|byte| *byte == b'=').ok_or_else(wrong)?;
            // Keys are text wherever programs made them.
            if let Ok(key) = std::str::from_utf8(&record[..equals]) {
                self.take(key, &record[equals + 1..]);
            }
            bytes = &bytes[length..];
        }
        Ok(())
    }

    fn take(&mut self, key: &str, value: &[u8]) {
        let id = |old: Option<u32>| number(value).map(owner).or(old);
        match key {
            "path" => self.path = Some(value.to_vec()),
            "linkpath" => self.link = Some(value.to_vec()),
            "size" => self.size = number(value).or(self.size),
            "uid" => self.uid = id(self.uid),
            "gid" => self.gid = id(self.gid),
            "mtime" => self.mtime = std::str::from_utf8(value).ok().and_then(parse_time).or(self.mtime),
            "GNU.sparse.name" => self.sparse.name = Some(value.to_vec()),
            "GNU.sparse.realsize" | "GNU.sparse.size" => self.sparse.length = number(value),
            SOCKET => self.socket = Some(value.to_vec()),
            "GNU.sparse.major" => self.sparse.major = number(value),
            "GNU.sparse.map" => self.sparse.map = parse_map(value),
            "GNU.sparse.offset" => {
                let runs = self.sparse.map.get_or_insert_default();
                runs.extend(number(value).map(|offset| (offset, 0)));
            }
            "GNU.sparse.numbytes" => {
                if let (Some((_, bytes)), Some(count)) =
                    (self.sparse.map.as_mut().and_then(|runs| runs.last_mut()), number(value))
                {
                    *bytes = count;
                }
            }
            _ => {
                if let Some(name) = key.strip_prefix("SCHILY.xattr.") {
                    self.xattrs.push((name.to_owned(), value.to_vec()));
                }
            }
        }
    }
}

/// A record.
pub(crate) fn record(key: &str, value: &[u8]) -> Vec<u8> {
    // A space, an equals sign, a line end, and as many digits as the length has with them.
    let rest = key.len() + value.len() + 3;
    let mut length = rest;
    while length != rest + length.to_string().len() {
        length = rest + length.to_string().len();
    }
    [length.to_string().as_bytes(), b" ", key.as_bytes(), b"=", value, b"\n"].concat()
}

/// A user or group id. One that no file can have is nobody's: chown(2) would take the largest for "leave it as it is", which
/// is whoever unpacks.
pub(crate) fn owner(id: u64) -> u32 {
    u32::try_from(id).ok().filter(|id| *id != u32::MAX).unwrap_or(u32::MAX - 1)
}

/// A decimal number and nothing else.
pub(crate) fn number(text: &[u8]) -> Option<u64> {
    let is_number = !text.is_empty() && text.iter().all(u8::is_ascii_digit);
    std::str::from_utf8(text).ok().filter(|_| is_number)?.parse().ok()
}

/// `offset,length,offset,length…`
fn parse_map(text: &[u8]) -> Option<Vec<Run>> {
    let numbers: Vec<u64> = text.split(|byte| *byte == b',').map(number).collect::<Option<_>>()?;
    let (pairs, rest) = numbers.as_chunks::<2>();
    rest.is_empty().then(|| pairs.iter().map(|[offset, bytes]| (*offset, *bytes)).collect())
}

/// `seconds[.fraction]`, negative before 1970.
fn parse_time(text: &str) -> Option<Timespec> {
    let (whole, fraction) = text.split_once('.').unwrap_or((text, ""));
    let is_negative = whole.starts_with('-');
    let seconds: i64 = whole.parse().ok()?;
    if !fraction.bytes().all(|digit| digit.is_ascii_digit()) {
        return None;
    }
    let digits: String = fraction.chars().chain("000000000".chars()).take(9).collect();
    let nanoseconds: i64 = digits.parse().ok()?;
    Some(if is_negative && nanoseconds > 0 {
        Timespec { tv_sec: seconds.checked_sub(1)?, tv_nsec: 1_000_000_000 - nanoseconds }
    } else {
        Timespec { tv_sec: seconds, tv_nsec: nanoseconds }
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn times_have_fractions_and_signs() {
        for (text, seconds, nanoseconds) in
            [("1", 1, 0), ("1.5", 1, 500_000_000), ("-1.25", -2, 750_000_000), ("-0.1", -1, 900_000_000)]
        {
            let time = parse_time(text).unwrap();
            assert_eq!((time.tv_sec, time.tv_nsec), (seconds, nanoseconds), "{text}");
        }
        assert!(parse_time("x").is_none() && parse_time("1.x").is_none());
    }

    #[test]
    fn a_value_may_hold_line_ends() {
        let mut records = Records::default();
        records.read(b"24 SCHILY.xattr.u=a\nb=c\n12 path=p q\n").unwrap();
        assert_eq!(records.xattrs, [("u".to_owned(), b"a\nb=c".to_vec())]);
        assert_eq!(records.path.as_deref(), Some(&b"p q"[..]));
    }

    #[test]
    fn a_record_counts_itself() {
        for length in (0..120).chain(980..1000).chain(9970..10_000) {
            let value = vec![b'x'; length];
            let mut records = Records::default();
            records.read(&[record(SOCKET, &value), record("uid", b"7")].concat()).unwrap();
            assert_eq!((records.socket, records.uid), (Some(value), Some(7)), "{length}");
        }
    }

    #[test]
    fn an_owner_that_cannot_be_is_nobody() {
        let max = u64::from(u32::MAX);
        for (id, owned) in
            [(0, 0), (1000, 1000), (max - 1, u32::MAX - 1), (max, u32::MAX - 1), (u64::MAX, u32::MAX - 1)]
        {
            assert_eq!(owner(id), owned, "{id}");
            let mut records = Records::default();
            records.read(&record("gid", id.to_string().as_bytes())).unwrap();
            assert_eq!(records.gid, Some(owned), "{id}");
        }
    }

    #[test]
    fn what_is_no_record_is_refused() {
        for bad in ["x", "5 a=b", "99 a=b\n", "6 a=bc\n", "6 abc\n", "+6 a=b\n", "0 a=b\n", "2 "] {
            assert!(Records::default().read(bad.as_bytes()).is_err(), "{bad:?}");
        }
    }
}

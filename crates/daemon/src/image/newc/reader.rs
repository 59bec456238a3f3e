//! Reads a cpio archive in the "newc" format, entry by entry, from somebody who is not trusted.
//!
//! What a header claims is checked before anything is done by it: a field is eight hexadecimal digits, a name is bounded,
//! ends in its NUL and holds no other. An archive that ends before its trailer is cut.
//!
//! rpm has a form of its own for files of 4 GiB and more, which packages of its sixth format always use (`07070X`): a header
//! there is the number of a file, of which the package's header tells everything ([`Reader::with_files`]).

use std::io::{self, Read};

use super::{HEADER_BYTES, TRAILER};

/// Longest name with its NUL: PATH_MAX of Linux.
const NAME_MAX_BYTES: u32 = 4096;
/// What an entry begins with that says only which file it is.
const NUMBERED_MAGIC: &[u8] = b"07070X";
/// Bytes of such an entry's header: the magic and eight digits, padded to 4.
const NUMBERED_HEADER_BYTES: usize = 16;

/// What the header of an entry says.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Entry {
    /// The name as it stands.
    pub(crate) path: String,
    /// Kind and permissions, as in `st_mode`.
    pub(crate) mode: u32,
    /// Names this file has in the archive; the content stands with the last of them.
    pub(crate) links: u32,
    /// Bytes of content.
    pub(crate) size_bytes: u64,
}

impl Entry {
    /// Whether it is a regular file.
    pub(crate) fn is_file(&self) -> bool {
        self.mode & 0o170_000 == super::S_IFREG
    }
}

/// An archive being read. As a reader it gives the content of the entry that [`Reader::next_entry`] gave last.
pub(crate) struct Reader<R> {
    inner: R,
    /// Content of the current entry that is still to come.
    left_bytes: u64,
    padding_bytes: u64,
    is_over: bool,
    /// What entries that are only numbers stand for.
    files: Vec<Entry>,
}

fn invalid(why: impl Into<String>) -> io::Error {
    io::Error::new(io::ErrorKind::InvalidData, why.into())
}

/// The `n`th field of a header.
fn field(header: &[u8], n: usize) -> io::Result<u32> {
    let digits = &header[6 + n * 8..14 + n * 8];
    let text = std::str::from_utf8(digits).ok().filter(|text| text.bytes().all(|byte| byte.is_ascii_hexdigit()));
    let number = text.and_then(|text| u32::from_str_radix(text, 16).ok());
    number.ok_or_else(|| invalid(format!("field {n} of an entry's header is no hexadecimal number: {digits:02x?}")))
}

/// Bytes from `length` to the next multiple of four.
fn padding(length: u64) -> u64 {
    length.wrapping_neg() % 4
}

impl<R: Read> Reader<R> {
    #[cfg(test)]
    pub(crate) fn new(inner: R) -> Self {
        Self::with_files(inner, Vec::new())
    }

    /// Reads an archive whose entries may be numbers of these files.
    pub(crate) fn with_files(inner: R, files: Vec<Entry>) -> Self {
        Self { inner, left_bytes: 0, padding_bytes: 0, is_over: false, files }
    }

    /// The next entry, what is left of this one skipped; `None` at the trailer.
    ///
    /// # Errors
    /// When the archive is cut or not as the format has it.
    pub(crate) fn next_entry(&mut self) -> io::Result<Option<Entry>> {
        if self.is_over {
            return Ok(None);
        }
        self.skip(self.left_bytes + self.padding_bytes)?;
        (self.left_bytes, self.padding_bytes) = (0, 0);
        let mut header = [0; HEADER_BYTES];
        self.inner.read_exact(&mut header[..6])?;
        let entry = if header.starts_with(NUMBERED_MAGIC) {
            self.inner.read_exact(&mut header[6..NUMBERED_HEADER_BYTES])?;
            self.numbered(field(&header, 0)?)?
        } else if header.starts_with(b"070701") || header.starts_with(b"070702") {
            self.inner.read_exact(&mut header[6..])?;
            self.named(&header)?
        } else {
            return Err(invalid(format!("an entry begins with {:02x?}, not with 070701", &header[..6])));
        };
        if entry.path == TRAILER {
            self.is_over = true;
            return Ok(None);
        }
        self.left_bytes = entry.size_bytes;
        self.padding_bytes = padding(self.left_bytes);
        Ok(Some(entry))
    }

    /// An entry that says itself what it is.
    fn named(&mut self, header: &[u8]) -> io::Result<Entry> {
        let (mode, links, size_bytes, name_bytes) =
            (field(header, 1)?, field(header, 4)?, field(header, 6)?, field(header, 11)?);
        let path = self.name(name_bytes)?;
        self.skip(padding(HEADER_BYTES as u64 + u64::from(name_bytes)))?;
        Ok(Entry { path, mode, links, size_bytes: size_bytes.into() })
    }

    /// An entry that is the number of a file.
    fn numbered(&self, number: u32) -> io::Result<Entry> {
        let file = usize::try_from(number).ok().and_then(|number| self.files.get(number));
        let file =
            file.ok_or_else(|| invalid(format!("an entry is file {number}, and there are {}", self.files.len())))?;
        if file.links > 1 {
            // Which of them has the content is not said.
            return Err(invalid(format!("{} is one of several links to a file", file.path)));
        }
        Ok(file.clone())
    }

    fn name(&mut self, name_bytes: u32) -> io::Result<String> {
        if !(2..=NAME_MAX_BYTES).contains(&name_bytes) {
            return Err(invalid(format!("an entry's name has {name_bytes} bytes")));
        }
        let mut name = vec![0; name_bytes as usize];
        self.inner.read_exact(&mut name)?;
        if name.pop() != Some(0) || name.contains(&0) {
            return Err(invalid(format!(
                "an entry's name does not end in its NUL: {}",
                String::from_utf8_lossy(&name)
            )));
        }
        String::from_utf8(name).map_err(|err| {
            invalid(format!("an entry's name is not UTF-8: {}", String::from_utf8_lossy(err.as_bytes())))
        })
    }

    fn skip(&mut self, bytes: u64) -> io::Result<()> {
        match io::copy(&mut self.inner.by_ref().take(bytes), &mut io::sink())? {
            skipped if skipped == bytes => Ok(()),
            _ => Err(io::ErrorKind::UnexpectedEof.into()),
        }
    }

    /// What the archive is read from.
    pub(crate) fn into_inner(self) -> R {
        self.inner
    }
}

impl<R: Read> Read for Reader<R> {
    fn read(&mut self, buf: &mut [u8]) -> io::Result<usize> {
        let want = usize::try_from(self.left_bytes).map_or(buf.len(), |left| left.min(buf.len()));
        let got = self.inner.read(&mut buf[..want])?;
        if got == 0 && want > 0 {
            return Err(io::ErrorKind::UnexpectedEof.into());
        }
        self.left_bytes -= got as u64;
        Ok(got)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::image::newc::Archive;
    use proptest::prelude::*;

    fn sample() -> Vec<u8> {
        let mut archive = Archive::default();
        archive.directory("lib", 0o755);
        archive.file("lib/a", 0o644, b"content");
        archive.file("lib/empty", 0o644, b"");
        archive.file("lib/b", 0o600, b"more content");
        archive.finish()
    }

    fn read(bytes: &[u8], skip: bool) -> io::Result<Vec<(Entry, Vec<u8>)>> {
        let mut reader = Reader::new(bytes);
        let mut all = Vec::new();
        while let Some(entry) = reader.next_entry()? {
            let mut content = Vec::new();
            if !skip {
                reader.read_to_end(&mut content)?;
            }
            all.push((entry, content));
        }
        assert_eq!(reader.next_entry()?, None, "it stays at its end");
        Ok(all)
    }

    #[test]
    fn what_the_writer_writes_is_read_and_may_be_skipped() {
        let all = read(&sample(), false).unwrap();
        let names: Vec<_> = all.iter().map(|(entry, _)| (entry.path.as_str(), entry.is_file())).collect();
        assert_eq!(names, [("lib", false), ("lib/a", true), ("lib/empty", true), ("lib/b", true)]);
        assert_eq!((all[1].1.as_slice(), all[3].1.as_slice()), (b"content".as_slice(), b"more content".as_slice()));
        let skipped = read(&sample(), true).unwrap();
        assert!(skipped.iter().map(|(entry, _)| entry).eq(all.iter().map(|(entry, _)| entry)));
    }

    #[test]
    fn a_cut_archive_is_an_error_wherever_it_is_cut() {
        let whole = sample();
        // The last bytes pad the trailer's name, which is whole without them only at its NUL.
        for len in 0..whole.len() - 4 {
            for skip in [false, true] {
                assert!(read(&whole[..len], skip).is_err(), "{len}");
            }
        }
    }

    #[test]
    fn what_the_format_does_not_allow_is_named() {
        for (at, with, what) in [
            (0, b"07070X0000000700".as_slice(), "file 7, and there are 0"),
            (0, b"070707", "not with 070701"),
            (6 + 6 * 8, b"+0000007", "field 6"),
            (6 + 11 * 8, b"ffffffff", "4294967295 bytes"),
            (6 + 11 * 8, b"00000000", "0 bytes"),
            (110 + 3, b"x", "NUL"),
            (110, b"\xff", "UTF-8"),
        ] {
            let mut bytes = sample();
            bytes[at..at + with.len()].copy_from_slice(with);
            let err = read(&bytes, false).expect_err(what).to_string();
            assert!(err.contains(what), "{err}");
        }
    }

    #[test]
    fn entries_that_are_numbers_are_looked_up() {
        let file = |path: &str, links, size_bytes| Entry { path: path.to_owned(), mode: 0o100_644, links, size_bytes };
        let files = vec![file("./b", 1, 5), file("./linked", 2, 1), file("./a", 1, 0)];
        let mut bytes = b"07070X00000002\0\x0007070X00000000\0\0hello\0\0\0".to_vec();
        let linked = [bytes.as_slice(), b"07070X00000001\0\0"].concat();
        bytes.extend(Archive::default().finish());
        let mut reader = Reader::with_files(bytes.as_slice(), files.clone());
        assert_eq!(reader.next_entry().unwrap().as_ref(), Some(&files[2]));
        assert_eq!(reader.next_entry().unwrap().as_ref(), Some(&files[0]));
        let mut content = String::new();
        reader.read_to_string(&mut content).unwrap();
        assert_eq!((content.as_str(), reader.next_entry().unwrap()), ("hello", None));
        let mut reader = Reader::with_files(linked.as_slice(), files);
        let err = [0; 3].map(|_| reader.next_entry())[2].as_ref().unwrap_err().to_string();
        assert!(err.contains("./linked is one of several links"), "{err}");
    }

    proptest! {
        #[test]
        fn arbitrary_bytes_never_panic(at in 0usize..500, with in proptest::collection::vec(any::<u8>(), 1..9), tail in proptest::collection::vec(any::<u8>(), 0..300)) {
            let mut bytes = sample();
            let at = at.min(bytes.len() - with.len());
            bytes[at..at + with.len()].copy_from_slice(&with);
            let _outcome = read(&bytes, false);
            let _outcome = read(&[b"070701".as_slice(), &tail].concat(), true);
        }
    }
}

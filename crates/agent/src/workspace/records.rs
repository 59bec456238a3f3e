//! Lists from the host: records with a zero behind each.

use std::io::{self, BufRead, BufReader, Read};

use wire::agent::workspace::{RECORD_BYTES_MAX, is_path};

/// Records one after the other.
#[derive(Debug)]
pub struct Records<R> {
    from: BufReader<R>,
    record: Vec<u8>,
}

impl<R: Read> Records<R> {
    /// Those that come from `from`.
    pub fn new(from: R) -> Records<R> {
        Records { from: BufReader::new(from), record: Vec::new() }
    }

    /// The next record without its zero; none at the end.
    ///
    /// # Errors
    /// When it breaks off, or is longer than any record.
    pub fn record(&mut self) -> io::Result<Option<&[u8]>> {
        self.record.clear();
        let most = RECORD_BYTES_MAX as u64;
        (&mut self.from).take(most).read_until(0, &mut self.record)?;
        match self.record.pop() {
            None => Ok(None),
            Some(0) => Ok(Some(&self.record)),
            Some(_) if self.record.len() + 1 == RECORD_BYTES_MAX => Err(nonsense("a record is too long")),
            Some(_) => Err(io::Error::new(io::ErrorKind::UnexpectedEof, "the list breaks off")),
        }
    }

    /// The next record, which is a path.
    ///
    /// # Errors
    /// The same, and when it is none.
    pub fn path(&mut self) -> io::Result<Option<&[u8]>> {
        match self.record()? {
            Some(path) if !is_path(path) => Err(nonsense("a name in the list is no path beneath the workspace")),
            other => Ok(other),
        }
    }
}

/// The host said something that has no meaning.
#[must_use]
pub fn nonsense(what: &str) -> io::Error {
    io::Error::new(io::ErrorKind::InvalidData, what.to_owned())
}

//! The stream: markers first, then the files, each read once while it is hashed and sent, then the objects, and the small
//! files of each git directory last, so that nothing in the guest refers to what is not there.

use std::fs::File;
use std::io::{self, Write};

use rustix::fs::fstat;
use sha2::{Digest as _, Sha256};
use tree::TreeError;
use tree::writer::{Dress, Writer};
use wire::agent::workspace::{FileMode, How, SENDING, Settled, State};

use super::files::{COARSE_NS, Opened, Seen, Stamp, Tree};
use super::notes::{self, Name, Notes};
use super::pack::Pack;
use super::repository::WorkFile;
use super::{WorkspaceError, control, shown};
use crate::model::digest::Digest;
use crate::model::progress::Watcher;

/// Bytes written to the stream at once, and between reports.
const CHUNK_BYTES: usize = 256 * 1024;

/// What becomes of a file.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum Act {
    /// It is sent.
    Send,
    /// It is there already; what is remembered of it.
    Keep(notes::File),
}

/// A file, and what becomes of it.
#[derive(Debug)]
pub(super) struct Planned {
    pub(super) file: WorkFile,
    pub(super) act: Act,
    /// What was remembered of it before.
    pub(super) before: Option<notes::File>,
}

/// One repository of a transfer.
#[derive(Debug)]
pub(super) struct Part {
    /// Relative to the top; the top is empty.
    pub(super) path: Vec<u8>,
    /// Where its files are.
    pub(super) tree: Tree,
    /// The guest has none of it.
    pub(super) is_whole: bool,
    /// Something that was sent goes.
    pub(super) has_removals: bool,
    /// Small files of the git directory that are sent, in this order.
    pub(super) control: Vec<(Vec<u8>, Vec<u8>)>,
    pub(super) files: Vec<Planned>,
    pub(super) directories: Vec<Vec<u8>>,
    pub(super) pack: Option<Pack>,
    /// Objects may be missing, which the remote has.
    pub(super) is_promised: bool,
    /// What will be remembered, but for the files.
    pub(super) note: notes::Repo,
    /// What is remembered of the files.
    pub(super) done: Vec<notes::File>,
    /// What the guest is told of the files.
    pub(super) settled: Vec<Settled>,
}

impl Part {
    fn is_changed(&self) -> bool {
        let is_sent = |planned: &Planned| planned.act == Act::Send;
        self.is_whole
            || self.has_removals
            || self.pack.is_some()
            || !self.control.is_empty()
            || self.files.iter().any(is_sent)
    }
}

/// What is to be done in the guest, and the stream that does most of it.
#[derive(Debug)]
pub struct Transfer {
    parts: Vec<Part>,
    remove: Vec<Vec<u8>>,
    notes: Notes,
}

impl Transfer {
    /// Begins to make the first pack.
    ///
    /// # Errors
    /// When git cannot be run.
    pub(super) fn new(parts: Vec<Part>, remove: Vec<Vec<u8>>, notes: Notes) -> Result<Transfer, WorkspaceError> {
        let mut transfer = Transfer { parts, remove, notes };
        transfer.start_pack(0)?;
        Ok(transfer)
    }

    /// Whether the guest has everything already: there is nothing to remove, to stream or to settle.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.remove.is_empty() && !self.parts.iter().any(Part::is_changed)
    }

    /// Files that are to be removed before the stream, relative to the top of the workspace.
    #[must_use]
    pub fn remove(&self) -> Vec<Vec<u8>> {
        self.remove.clone()
    }

    /// How many files of work trees travel, and their bytes.
    #[must_use]
    pub fn totals(&self) -> (u64, u64) {
        let sent = self.parts.iter().flat_map(|part| &part.files).filter(|planned| planned.act == Act::Send);
        sent.fold((0, 0), |(files, bytes), planned| (files + 1, bytes + planned.file.seen.stamp.bytes()))
    }

    /// Writes the stream, once. Reports bytes of content, of the objects too as soon as it is known how many they are.
    ///
    /// # Errors
    /// When a file cannot be read, git fails, the stream cannot be written, or the watcher cancels.
    pub fn stream(&mut self, to: impl Write, watcher: Watcher<'_>) -> Result<(), WorkspaceError> {
        let (_, total) = self.totals();
        let to = io::BufWriter::with_capacity(CHUNK_BYTES, to);
        let meter = Meter { watcher, done: 0, told: 0, total };
        let mut stream = Stream { writer: Writer::new(to), meter };
        for part in self.parts.iter().filter(|part| part.is_changed()) {
            stream.bytes(&shown::below(&part.path, SENDING.as_bytes()), b"")?;
        }
        for number in 0..self.parts.len() {
            if !self.parts[number].is_changed() {
                self.parts[number].keep_all();
                continue;
            }
            self.start_pack(number)?;
            self.start_pack(number + 1)?;
            self.parts[number].stream(&mut stream)?;
        }
        stream.meter.tell();
        Ok(stream.writer.finish()?)
    }

    /// What the guest is to be told of the files of each repository that has changed, after the stream.
    #[must_use]
    pub fn settle(&self) -> Vec<(Vec<u8>, Vec<Settled>)> {
        let changed = self.parts.iter().filter(|part| part.is_changed());
        changed.map(|part| (part.path.clone(), part.settled.clone())).collect()
    }

    /// What the host is to remember, after the stream.
    #[must_use]
    pub fn notes(&self) -> Notes {
        let of = |part: &Part| notes::Repo { files: part.done.clone(), ..part.note.clone() };
        Notes { repositories: self.parts.iter().map(of).collect(), ..self.notes.clone() }
    }

    fn start_pack(&mut self, number: usize) -> Result<(), WorkspaceError> {
        match self.parts.get_mut(number).and_then(|part| part.pack.as_mut()) {
            Some(pack) => pack.start(),
            None => Ok(()),
        }
    }
}

/// Counts what was sent.
struct Meter<'a> {
    watcher: Watcher<'a>,
    done: u64,
    told: u64,
    total: u64,
}

impl Meter<'_> {
    fn add(&mut self, bytes: usize) -> io::Result<()> {
        self.watcher.check().map_err(io::Error::other)?;
        self.done += bytes as u64;
        if self.done - self.told >= CHUNK_BYTES as u64 {
            self.tell();
        }
        Ok(())
    }

    fn tell(&mut self) {
        self.told = self.done;
        self.watcher.bytes(self.done, Some(self.total.max(self.done)));
    }
}

struct Stream<'a, W: Write> {
    writer: Writer<W>,
    meter: Meter<'a>,
}

impl<W: Write> Stream<'_, W> {
    /// A small file of ours.
    fn bytes(&mut self, path: &[u8], content: &[u8]) -> Result<(), TreeError> {
        self.writer.bytes(Dress { path, mode: 0o644, mtime: now() }, content)
    }

    /// A large file of ours.
    fn file(&mut self, path: &[u8], from: &std::path::Path) -> Result<(), WorkspaceError> {
        let read = |source| WorkspaceError::Read { path: from.to_owned(), source };
        let file = File::open(from).map_err(read)?;
        let stat = fstat(&file).map_err(|errno| read(errno.into()))?;
        self.meter.total += u64::try_from(stat.st_size).unwrap_or(0);
        let meter = &mut self.meter;
        let dress = Dress { path, mode: 0o444, mtime: stat.st_mtime };
        Ok(self.writer.file(dress, &file, &stat, &mut |chunk| meter.add(chunk.len()))?)
    }
}

/// Seconds since 1970.
fn now() -> i64 {
    i64::try_from(sys::clock::unix_ms() / 1000).unwrap_or(i64::MAX)
}

impl Part {
    fn stream<W: Write>(&mut self, stream: &mut Stream<'_, W>) -> Result<(), WorkspaceError> {
        let top = self.path.clone();
        let at = |path: &[u8]| shown::below(&top, path);
        if self.is_whole {
            for directory in control::DIRECTORIES {
                let path = at(directory.as_bytes());
                stream.writer.directory(Dress { path: &path, mode: 0o755, mtime: now() })?;
            }
        }
        for directory in &self.directories {
            stream.writer.directory(Dress { path: &at(directory), mode: 0o755, mtime: now() })?;
        }
        for number in 0..self.files.len() {
            self.one(number, stream)?;
        }
        if let Some(made) = self.pack.as_mut().map(|pack| pack.wait(&stream.meter.watcher)).transpose()?.flatten() {
            let name = |end: &str| at(format!(".git/objects/pack/{}.{end}", made.name).as_bytes());
            // A pack counts once its index is there.
            if self.is_promised {
                stream.bytes(&name("promisor"), b"")?;
            }
            stream.file(&name("pack"), &made.pack)?;
            stream.file(&name("idx"), &made.index)?;
        }
        for (name, content) in &self.control {
            stream.bytes(&at(&shown::below(b".git", name)), content)?;
        }
        Ok(())
    }

    /// Sends one file, or notes that it stays.
    fn one<W: Write>(&mut self, number: usize, stream: &mut Stream<'_, W>) -> Result<(), WorkspaceError> {
        let planned = &self.files[number];
        if let Act::Keep(note) = &planned.act {
            let (note, state) = (note.clone(), planned.file.state_with(&note.digest));
            self.keep(note, state);
            return Ok(());
        }
        let path = shown::below(&self.path, &planned.file.path);
        let opened = self.tree.read(&planned.file.path)?;
        let Some((opened, seen)) = opened.and_then(|opened| opened.seen().map(|seen| (opened, seen))) else {
            // It is gone meanwhile. What was there before is still in the guest, until the next time.
            if let Some(note) = planned.before.clone() {
                self.keep(notes::File { stamp: None, ..note }, State::Modified);
            }
            return Ok(());
        };
        let (digest, after) = send(stream, &path, &opened, &seen)?;
        let is_same = after == seen.stamp;
        // git said so of the file as it was then.
        let state = match is_same {
            true if seen == planned.file.seen => planned.file.state_with(&digest),
            _ => planned.file.changed(),
        };
        let is_settled = is_same && seen.stamp.is_settled(sys::clock::unix_ns(), COARSE_NS);
        let path = planned.file.path.clone();
        self.settled.push(Settled { how: How::Sent, state, hash: *digest.as_bytes(), path: path.clone() });
        self.done.push(notes::File {
            path: Name(path),
            mode: seen.mode,
            digest,
            bytes: seen.stamp.bytes(),
            stamp: is_settled.then_some(seen.stamp),
            is_untracked: planned.file.is_untracked(),
        });
        Ok(())
    }

    fn keep(&mut self, note: notes::File, state: State) {
        let (hash, path) = (*note.digest.as_bytes(), note.path.0.clone());
        self.settled.push(Settled { how: How::Kept, state, hash, path });
        self.done.push(note);
    }

    fn keep_all(&mut self) {
        for number in 0..self.files.len() {
            if let Act::Keep(note) = &self.files[number].act {
                let note = note.clone();
                let state = self.files[number].file.state_with(&note.digest);
                self.keep(note, state);
            }
        }
    }
}

/// Sends a file or a link: what was in it, and its state when it had been read.
fn send<W: Write>(
    stream: &mut Stream<'_, W>,
    path: &[u8],
    opened: &Opened,
    seen: &Seen,
) -> Result<(Digest, Stamp), WorkspaceError> {
    match opened {
        Opened::Link(target, stat) => {
            stream.writer.link(Dress { path, mode: 0o777, mtime: stat.st_mtime }, target)?;
            Ok((Digest::of(target), seen.stamp))
        }
        Opened::File(file, stat) => {
            let mode = if seen.mode == FileMode::Executable { 0o755 } else { 0o644 };
            let mut hasher = Sha256::new();
            let meter = &mut stream.meter;
            let mut observe = |chunk: &[u8]| {
                hasher.update(chunk);
                meter.add(chunk.len())
            };
            stream.writer.file(Dress { path, mode, mtime: stat.st_mtime }, file, stat, &mut observe)?;
            let after = fstat(file).map_err(TreeError::during("look at", path))?;
            Ok((Digest::finish(hasher), Stamp::of(&after)))
        }
    }
}

//! What was sent is taken down, when all of it has arrived.
//!
//! 1. The list of files is read to its end; a list that breaks off is none.
//! 2. Each file that was sent is looked at; of those that were sent earlier the notes stay.
//! 3. The index's stat fields are filled in, if nobody else writes it.
//! 4. The notes take the old ones' place, and the mark of a transfer under way goes.
//!
//! git compares times by the second, and reads a file whose last change is of the second of the index itself, or later. The
//! index is given the time at which this began: whatever changes a file after it was looked at shows.

use std::fs::File;
use std::io::{self, Read, Write};
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};

use rustix::fs::{AtFlags, Gid, Mode, OFlags, RenameFlags, Stat, Timestamps, Uid};
use rustix::io::Errno;
use rustix::time::{ClockId, Timespec, clock_gettime};
use tree::TreeError;
use wire::agent::workspace::{FileMode, How, SENDING, Settled, State};

use super::directories::{Directories, mode_of, or_none};
use super::index::{self, INDEX};
use super::notes::{Note, Notes, SENT, Stats};
use super::records::{Records, nonsense};

/// Takes down what was sent to the workspace at `top`, as the records that come from `list` say. Gives how many entries of
/// the index were filled in.
///
/// # Errors
/// When the list is none or breaks off, or the notes cannot be written. The workspace is unfinished then.
pub fn settle(top: OwnedFd, list: impl Read) -> Result<u64, TreeError> {
    // The clock that files' times are taken from.
    let began = clock_gettime(ClockId::RealtimeCoarse);
    let records = read(list).map_err(TreeError::during("read the list of", b"files that were sent"))?;
    let mut directories = Directories::new(top);
    let git = Git::open(&mut directories).map_err(TreeError::during("open", b".git/banger"))?;
    let old = directories.read(SENT).map_err(TreeError::during("read", SENT))?;
    let old = old.and_then(Notes::parse).unwrap_or_default();
    let before = directories.look(INDEX).map_err(TreeError::during("look at", INDEX))?;
    let index = directories.read(INDEX).map_err(TreeError::during("read", INDEX))?;
    let mut notes = Notes::new(index::digest(index.as_deref()));
    let mut earlier = old.iter();
    for record in &records {
        let note = match record.how {
            How::Sent => {
                let stat = directories.look(&record.path).map_err(TreeError::during("look at", &record.path))?;
                sent(record, stat.as_ref(), began)
            }
            How::Kept => kept(record, earlier.of(&record.path)),
        };
        notes.push(&note);
    }
    let mut filled = 0;
    if let (Some(mut index), Some(before)) = (index, before)
        && let Some(count) = index::fill(&mut index, &notes, |note| is_believed(note, &records))
        && count > 0
        && git.replace_index(&index, &before, began).map_err(TreeError::during("replace", INDEX))?
    {
        filled = count;
    }
    git.write_notes(notes.bytes()).map_err(TreeError::during("write", SENT))?;
    or_none(rustix::fs::unlinkat(&git.own, "sending", AtFlags::empty()))
        .map_err(TreeError::during("remove", SENDING.as_bytes()))?;
    Ok(filled)
}

/// Reads the records up to the empty one, which says that there are no more: a stream that is given up just ends. In the
/// order of their paths.
fn read(list: impl Read) -> io::Result<Vec<Settled>> {
    let mut list = Records::new(list);
    let mut records = Vec::new();
    loop {
        match list.record()? {
            Some([]) => break,
            Some(record) => records.push(Settled::parse(record).map_err(|error| nonsense(&error.to_string()))?),
            None => return Err(io::Error::new(io::ErrorKind::UnexpectedEof, "the list breaks off")),
        }
    }
    records.sort_unstable_by(|a, b| a.path.cmp(&b.path));
    if records.windows(2).any(|pair| pair[0].path == pair[1].path) {
        return Err(nonsense("the list names a file twice"));
    }
    Ok(records)
}

/// The note about a file that was sent just now.
fn sent<'a>(record: &'a Settled, stat: Option<&Stat>, began: Timespec) -> Note<'a> {
    match stat {
        Some(stat) => Note {
            path: &record.path,
            mode: mode_of(stat),
            state: record.state,
            is_young: stat.st_mtime >= began.tv_sec,
            hash: record.hash,
            stats: Stats::of(stat),
        },
        // The guest removed it meanwhile.
        None => Note { hash: record.hash, ..unknown(&record.path) },
    }
}

/// The note about a file that was sent earlier.
fn kept<'a>(record: &'a Settled, earlier: Option<Note<'_>>) -> Note<'a> {
    match earlier {
        Some(Note { mode, is_young, hash, stats, .. }) => {
            Note { path: &record.path, mode, state: record.state, is_young, hash, stats }
        }
        None => unknown(&record.path),
    }
}

/// The note about a file that nobody knows anything of: whatever is there is not as it was sent.
fn unknown(path: &[u8]) -> Note<'_> {
    let (mode, state) = (FileMode::Other, State::Modified);
    Note { path, mode, state, is_young: false, hash: [0; 32], stats: Stats::default() }
}

/// Whether git may take a file for unchanged when it is as noted. Of a file that was sent just now and is young, git sees by
/// the index's time that it has to be read; the index would be too new for one that was young when it was sent earlier.
fn is_believed(note: &Note<'_>, records: &[Settled]) -> bool {
    let record = || records.binary_search_by(|record| record.path.as_slice().cmp(note.path)).map(|at| &records[at]);
    !note.is_young || record().is_ok_and(|record| record.how == How::Sent)
}

/// The git directory of a workspace.
struct Git {
    directory: OwnedFd,
    /// Ours in it.
    own: OwnedFd,
}

impl Git {
    /// Opens it; made when it is missing.
    fn open(directories: &mut Directories) -> io::Result<Git> {
        let Some(top) = directories.directory(b"")? else {
            return Err(io::ErrorKind::NotFound.into());
        };
        let directory = ensured(top, ".git")?;
        let own = ensured(directory.as_fd(), "banger")?;
        Ok(Git { directory, own })
    }

    fn write_notes(&self, bytes: &[u8]) -> io::Result<()> {
        drop(write_new(&self.own, "sent.new", bytes)?);
        Ok(rustix::fs::renameat(&self.own, "sent.new", &self.own, "sent")?)
    }

    /// Puts an index in place of the one that was like `before`; false when somebody else writes it, or has written it.
    fn replace_index(&self, bytes: &[u8], before: &Stat, began: Timespec) -> io::Result<bool> {
        let file = write_new(&self.own, "index.new", bytes)?;
        rustix::fs::fchown(&file, Some(Uid::from_raw(before.st_uid)), Some(Gid::from_raw(before.st_gid)))?;
        rustix::fs::fchmod(&file, Mode::from_raw_mode(before.st_mode & 0o7777))?;
        rustix::fs::futimens(&file, &Timestamps { last_access: began, last_modification: began })?;
        // As git locks it. The lock is not held while the index is written: one that a power cut leaves is in git's way.
        match rustix::fs::renameat_with(&self.own, "index.new", &self.directory, "index.lock", RenameFlags::NOREPLACE) {
            Err(Errno::EXIST) => {
                rustix::fs::unlinkat(&self.own, "index.new", AtFlags::empty())?;
                return Ok(false);
            }
            other => other?,
        }
        let now = or_none(rustix::fs::statat(&self.directory, "index", AtFlags::SYMLINK_NOFOLLOW))?;
        if !now.is_some_and(|now| Stats::of(&now).is_same_file(&Stats::of(before))) {
            rustix::fs::unlinkat(&self.directory, "index.lock", AtFlags::empty())?;
            return Ok(false);
        }
        rustix::fs::renameat(&self.directory, "index.lock", &self.directory, "index")?;
        Ok(true)
    }
}

/// Opens a directory, which is made when it is missing.
fn ensured(parent: BorrowedFd<'_>, name: &str) -> io::Result<OwnedFd> {
    match rustix::fs::mkdirat(parent, name, Mode::from_raw_mode(0o755)) {
        Ok(()) | Err(Errno::EXIST) => {}
        Err(errno) => return Err(errno.into()),
    }
    let flags = OFlags::PATH | OFlags::DIRECTORY | OFlags::NOFOLLOW | OFlags::CLOEXEC;
    Ok(rustix::fs::openat(parent, name, flags, Mode::empty())?)
}

/// Makes a file, in place of what an earlier try left.
fn write_new(directory: &OwnedFd, name: &str, bytes: &[u8]) -> io::Result<File> {
    or_none(rustix::fs::unlinkat(directory, name, AtFlags::empty()))?;
    let flags = OFlags::WRONLY | OFlags::CREATE | OFlags::EXCL | OFlags::NOFOLLOW | OFlags::CLOEXEC;
    let mut file = File::from(rustix::fs::openat(directory, name, flags, Mode::from_raw_mode(0o600))?);
    file.write_all(bytes)?;
    Ok(file)
}

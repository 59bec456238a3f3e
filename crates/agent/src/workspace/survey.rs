//! What of a workspace is not as it was sent.
//!
//! A file is compared by what lstat(2) says, and read only when that differs from the notes, or proves nothing. Files that
//! were not sent are found by walking the tree in the order of the paths, which is the notes' own: known ones are passed
//! over without looking at them. Differences are told as they are found, so little is kept of a large tree.

use std::io::{self, Write};
use std::os::fd::OwnedFd;

use rustix::fs::{Dir, FileType, Mode, OFlags};
use tree::TreeError;
use wire::agent::workspace::{Added, Difference, FileMode, Found, PATH_BYTES_MAX, SENDING, Surveyable, Surveyed};

use super::directories::{Directories, Place, is_directory, mode_of};
use super::index::{self, INDEX};
use super::notes::{Iter, Note, Notes, SENT, Stats};

/// The name of a git directory.
const GIT: &[u8] = b".git";
/// How a directory is opened to be listed.
const LIST: OFlags = OFlags::RDONLY.union(OFlags::DIRECTORY).union(OFlags::CLOEXEC);

/// Writes how the workspace at `top` differs from what was sent to `to`; of files that were not sent as
/// much as `added` says.
///
/// # Errors
/// When it cannot be read, or the differences not written.
pub fn survey(top: OwnedFd, added: Added, to: impl Write) -> Result<Surveyed, TreeError> {
    let mut directories = Directories::new(top);
    let (found, notes) = find(&mut directories)?;
    let Some(notes) = notes else {
        return Ok(Surveyed { found, index_changed: false });
    };
    let index = directories.read(INDEX).map_err(TreeError::during("read", INDEX))?;
    let index_changed = index::digest(index.as_deref()) != notes.index();
    drop(index);
    let mut survey = Survey { directories, to, record: Vec::new() };
    for note in notes.iter() {
        if let Some(difference) = survey.compare(&note).map_err(TreeError::during("compare", note.path))? {
            survey.tell(&difference)?;
        }
    }
    if added != Added::Not {
        survey.walk(notes.iter(), added)?;
    }
    survey.to.flush().map_err(TreeError::during("tell of", b"the workspace"))?;
    Ok(Surveyed { found, index_changed })
}

/// What is there, and the notes about it.
fn find(directories: &mut Directories) -> Result<(Found, Option<Notes>), TreeError> {
    let mut changed = |path: &[u8]| {
        let stat = directories.look(path).map_err(TreeError::during("look at", path))?;
        Ok(stat.map(|stat| Stats::of(&stat).ctime))
    };
    let (sending, sent) = (changed(SENDING.as_bytes())?, changed(SENT)?);
    let bytes = directories.read(SENT).map_err(TreeError::during("read", SENT))?;
    let notes = bytes.and_then(Notes::parse);
    let found = match (&notes, sending) {
        // Notes that are newer than the mark were written when all had arrived.
        (Some(_), Some(_)) if sending >= sent => Found::Unfinished,
        (Some(_), _) => Found::Workspace,
        (None, Some(_)) => Found::Unfinished,
        (None, None) if sent.is_some() => Found::Unfinished,
        (None, None) => {
            let listed = list(directories, b"").map_err(TreeError::during("list", b"the workspace"))?;
            if listed.is_empty() { Found::Nothing } else { Found::Foreign }
        }
    };
    Ok((found, notes))
}

struct Survey<W> {
    directories: Directories,
    to: W,
    record: Vec<u8>,
}

impl<W: Write> Survey<W> {
    fn tell(&mut self, difference: &Surveyable) -> Result<(), TreeError> {
        self.record.clear();
        difference.write(&mut self.record);
        self.to.write_all(&self.record).map_err(TreeError::during("tell of", &difference.path))
    }

    /// How a file differs from the note about it, if it does.
    fn compare(&mut self, note: &Note<'_>) -> io::Result<Option<Surveyable>> {
        let path = note.path.to_vec();
        let deleted =
            || Surveyable { path: path.clone(), difference: Difference::Deleted, mode: FileMode::Other, hash: [0; 32] };
        let Some(place) = self.directories.place(note.path)? else {
            return Ok(Some(deleted()));
        };
        let Some(stat) = place.look()?.filter(|stat| !is_directory(stat)) else {
            return Ok(Some(deleted()));
        };
        let mode = mode_of(&stat);
        if !note.is_young && mode == note.mode && Stats::of(&stat).is_same_file(&note.stats) {
            return Ok(None);
        }
        let Some(hash) = place.hash(mode)? else {
            return Ok(Some(deleted()));
        };
        if mode == note.mode && mode != FileMode::Other && hash == note.hash {
            return Ok(None);
        }
        Ok(Some(Surveyable { path, difference: Difference::Modified, mode, hash }))
    }

    /// Tells of the files that there are no notes about; paths that no program could open whole, git as little as others,
    /// are passed over.
    fn walk(&mut self, mut notes: Iter<'_>, told: Added) -> Result<(), TreeError> {
        // The next one last. Directories end in a slash.
        let mut waiting: Vec<Vec<u8>> = vec![Vec::new()];
        while let Some(path) = waiting.pop() {
            let is_top = path.is_empty();
            if let Some(directory) = path.strip_suffix(b"/").or(is_top.then_some(&[])) {
                let mut names = list(&mut self.directories, directory).map_err(TreeError::during("list", directory))?;
                let is_git = |name: &[u8]| name.strip_suffix(b"/").unwrap_or(name) == GIT;
                if is_top {
                    names.retain(|name| !is_git(name));
                } else if names.iter().any(|name| is_git(name)) {
                    continue;
                }
                names.sort_unstable_by(|a, b| b.cmp(a));
                waiting.extend(names.iter().map(|name| [&path, name.as_slice()].concat()));
            } else if path.len() <= PATH_BYTES_MAX
                && notes.of(&path).is_none()
                && let Some(added) = self.added(path.clone(), told).map_err(TreeError::during("read", &path))?
            {
                self.tell(&added)?;
            }
        }
        Ok(())
    }

    /// A file that was not sent; none when it is gone.
    fn added(&mut self, path: Vec<u8>, told: Added) -> io::Result<Option<Surveyable>> {
        let Some(place) = self.directories.place(&path)? else {
            return Ok(None);
        };
        let Some(stat) = place.look()?.filter(|stat| !is_directory(stat)) else {
            return Ok(None);
        };
        let mode = mode_of(&stat);
        let hash = if told == Added::Hashed { place.hash(mode)? } else { Some([0; 32]) };
        Ok(hash.map(|hash| Surveyable { path, difference: Difference::Added, mode, hash }))
    }
}

/// The names in a directory, those of directories with a slash behind them: by that, they sort as the paths of what is in
/// them do. None when the directory is gone.
fn list(directories: &mut Directories, path: &[u8]) -> io::Result<Vec<Vec<u8>>> {
    let Some(directory) = directories.directory(path)? else {
        return Ok(Vec::new());
    };
    let listed = rustix::fs::openat(directory, ".", LIST, Mode::empty())?;
    let mut names = Vec::new();
    for entry in Dir::new(listed)? {
        let entry = entry?;
        let mut name = entry.file_name().to_bytes().to_vec();
        if name == b"." || name == b".." {
            continue;
        }
        let kind = match entry.file_type() {
            // A filesystem that does not tell.
            FileType::Unknown => {
                let stat = Place { directory, name: &name }.look()?;
                stat.map_or(FileType::Unknown, |stat| FileType::from_raw_mode(stat.st_mode))
            }
            told => told,
        };
        if kind == FileType::Directory {
            name.push(b'/');
        }
        names.push(name);
    }
    Ok(names)
}

//! First use of a directory that the VM's disk keeps: it begins as the image has it.

use std::fs::File;
use std::io;
use std::os::fd::OwnedFd;
use std::path::Path;

use rustix::fs::{OFlags, RenameFlags};
use rustix::pipe::{PipeFlags, pipe_with};

use tree::pack::{Fidelity, What, pack};
use tree::unpack::{Policy, unpack};

use crate::root_dir::{RootDir, path_of};

/// Makes `name` on the disk, a copy of `path` of the image; empty when the image has no such directory. It appears whole or
/// not at all, so a boot cut short seeds again.
///
/// # Errors
/// When it cannot be copied: the disk is full, say.
pub fn first_use(image: &RootDir, path: &str, disk: &RootDir, name: &str, mode: u32) -> io::Result<()> {
    if image.open_at(path, OFlags::PATH | OFlags::DIRECTORY).is_err() {
        disk.ensure_dir(name, mode)?;
        return Ok(());
    }
    let staging = "/seeding";
    let leftover = format!("{}{staging}", path_of(&disk.as_fd()));
    sys::fs::remove_tree(Path::new(&leftover)).map_err(|error| error.source)?;
    let from = disk.ensure_dir(staging, 0o700)?;
    copy(image, path, from.try_clone()?)?;
    let last = path.rsplit('/').next().unwrap_or(path);
    if let Some((parent, _)) = name.rsplit_once('/') {
        disk.ensure_dir(&format!("/{parent}"), 0o700)?;
    }
    rustix::fs::renameat_with(from, last, disk.as_fd(), name, RenameFlags::NOREPLACE)?;
    Ok(())
}

fn whole(path: &str) -> What<'_> {
    What { path: path.as_bytes(), follow: false, called: None, fidelity: Fidelity::Whole }
}

/// Copies what is small through memory, and the rest through a pipe.
fn copy(image: &RootDir, path: &str, to: OwnedFd) -> io::Result<()> {
    let mut packed = Capped(Vec::new());
    match pack(&image.as_fd().try_clone_to_owned()?, &whole(path), &mut packed) {
        Ok(_) => unpack(to, Policy::inside(false), packed.0.as_slice()).map(drop).map_err(|error| error.source),
        Err(error) if error.source.kind() == io::ErrorKind::StorageFull => copy_piped(image, path, to),
        Err(error) => Err(error.source),
    }
}

/// Bytes of a tree that is copied through memory.
const SMALL_BYTES: usize = 256 << 10;

/// A buffer that takes [`SMALL_BYTES`] and then is full.
struct Capped(Vec<u8>);

impl io::Write for Capped {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        if self.0.len() + bytes.len() > SMALL_BYTES {
            return Err(io::ErrorKind::StorageFull.into());
        }
        self.0.extend_from_slice(bytes);
        Ok(bytes.len())
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

/// Copies through a pipe: one thread packs, this one unpacks.
fn copy_piped(image: &RootDir, path: &str, to: OwnedFd) -> io::Result<()> {
    let (reader, writer) = pipe_with(PipeFlags::CLOEXEC)?;
    let root = image.as_fd().try_clone_to_owned()?;
    std::thread::scope(|scope| {
        let packed = std::thread::Builder::new().spawn_scoped(scope, move || {
            let to = io::BufWriter::with_capacity(1 << 16, File::from(writer));
            pack(&root, &whole(path), to).map(drop)
        })?;
        let unpacked = unpack(to, Policy::inside(false), File::from(reader)).map_err(|error| error.source);
        let packed = packed.join().map_err(|_| io::Error::other("the thread that reads the image's directory died"))?;
        match packed.map_err(|error| error.source) {
            // The pipe broke because the other end gave up: that end knows why.
            Err(error) if error.kind() != io::ErrorKind::BrokenPipe => Err(error),
            _ => unpacked.map(drop),
        }
    })
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::fs;

    #[test]
    fn a_directory_begins_as_the_image_has_it_or_empty() {
        let (image, disk) = (tempfile::tempdir().unwrap(), tempfile::tempdir().unwrap());
        fs::create_dir_all(image.path().join("home/user")).unwrap();
        fs::write(image.path().join("home/user/file"), "text").unwrap();
        let large = sys::rand::bytes::<4096>().repeat(100);
        fs::create_dir(image.path().join("large")).unwrap();
        fs::write(image.path().join("large/file"), &large).unwrap();
        let open = |dir: &tempfile::TempDir| RootDir::open(dir.path().to_str().unwrap()).unwrap();
        for (path, name) in [("/home", "direct/home"), ("/large", "direct/large"), ("/var/lib/none", "direct/none")] {
            first_use(&open(&image), path, &open(&disk), name, 0o755).unwrap();
        }
        assert_eq!(fs::read_to_string(disk.path().join("direct/home/user/file")).unwrap(), "text");
        assert!(fs::read(disk.path().join("direct/large/file")).unwrap() == large);
        assert_eq!(fs::read_dir(disk.path().join("direct/none")).unwrap().count(), 0);
        fs::write(image.path().join("file"), "").unwrap();
        assert!(first_use(&open(&image), "/home", &open(&disk), "direct/home", 0o755).is_err(), "it is there already");
    }
}

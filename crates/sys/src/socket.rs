//! What a socket knows that `std` does not tell, and one that whoever sees it can connect to.

use std::io;
use std::os::fd::{AsFd, AsRawFd, OwnedFd};
use std::os::unix::net::{UnixListener, UnixStream};
use std::path::{Path, PathBuf};

use rustix::fs::{FileType, Mode, OFlags};

use crate::fs;

/// Listens on a Unix socket at `path`, which appears when connections are taken: bind(2) alone makes a file that still
/// refuses them until listen(2). Until then it is called `path` with the extension `new`; one left under that name by a
/// process that died is replaced.
///
/// # Errors
/// When it cannot be made. A file that `path` names already is replaced.
pub fn listen_at(path: &Path) -> io::Result<UnixListener> {
    listen_with(path, |_unready| Ok(()))
}

/// As [`listen_at`], for whoever gets as far as its directory, where another user may make links: only what this process has
/// made itself is opened to others.
///
/// # Errors
/// As [`listen_at`], and when something else is in its place.
pub fn listen_for_all(path: &Path) -> io::Result<UnixListener> {
    listen_with(path, |unready| {
        let place = place_of(unready)?;
        if rustix::fs::fstat(&place)?.st_uid != rustix::process::geteuid().as_raw() {
            return Err(io::Error::new(io::ErrorKind::PermissionDenied, "somebody else's socket is in its place"));
        }
        fs::set_mode(&path_of(&place), 0o666).map_err(|error| error.source)
    })
}

fn listen_with(path: &Path, prepare: impl FnOnce(&Path) -> io::Result<()>) -> io::Result<UnixListener> {
    let unready = path.with_extension("new");
    fs::remove_file(&unready).map_err(|error| error.source)?;
    let listener = UnixListener::bind(&unready)?;
    prepare(&unready)?;
    fs::rename(&unready, path).map_err(|error| error.source)?;
    Ok(listener)
}

/// Connects to the Unix socket at `path`, which is one itself: whoever may write to its directory could have put a link to
/// another one there, which would be spoken to with the caller's rights.
///
/// # Errors
/// When it is no socket, or nobody listens.
pub fn connect_itself(path: &Path) -> io::Result<UnixStream> {
    UnixStream::connect(path_of(&place_of(path)?))
}

/// The Unix socket at `path`, which is one itself, to be connected to by [`path_of`]: as [`connect_itself`], for whoever connects
/// without waiting.
///
/// # Errors
/// When it is no socket.
pub fn place_of(path: &Path) -> io::Result<OwnedFd> {
    let place = rustix::fs::open(path, OFlags::PATH | OFlags::NOFOLLOW | OFlags::CLOEXEC, Mode::empty())?;
    if FileType::from_raw_mode(rustix::fs::fstat(&place)?.st_mode) != FileType::Socket {
        return Err(io::Error::new(io::ErrorKind::InvalidInput, "it is not a socket"));
    }
    Ok(place)
}

/// A path to what `place` is open at, for this process, while it is open.
#[must_use]
pub fn path_of(place: &OwnedFd) -> PathBuf {
    format!("/proc/self/fd/{}", place.as_raw_fd()).into()
}

/// Bytes written to a Unix stream socket that the peer has not read, as the kernel accounts for them (0 means none):
/// SIOCOUTQ, unix(7).
///
/// # Errors
/// When `socket` is none.
pub fn unread_by_peer(socket: &impl AsFd) -> io::Result<usize> {
    let mut bytes: libc::c_int = 0;
    // SAFETY: TIOCOUTQ (the same number as SIOCOUTQ) writes one int through the pointer, which is valid for that long.
    let answer = unsafe { libc::ioctl(socket.as_fd().as_raw_fd(), libc::TIOCOUTQ, &raw mut bytes) };
    if answer < 0 { Err(io::Error::last_os_error()) } else { Ok(usize::try_from(bytes).unwrap_or(0)) }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::io::{Read, Write};

    #[test]
    fn a_socket_that_is_seen_takes_connections() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("a.sock");
        std::thread::scope(|scope| {
            let calls = scope.spawn(|| {
                for _ in 0..2000 {
                    while let Err(error) = UnixStream::connect(&path) {
                        assert_eq!(error.kind(), io::ErrorKind::NotFound);
                    }
                    std::fs::remove_file(&path).unwrap();
                }
            });
            for _ in 0..2000 {
                let listener = listen_at(&path).unwrap();
                listener.accept().unwrap();
                while path.exists() && !calls.is_finished() {
                    std::hint::spin_loop();
                }
            }
            calls.join().unwrap();
        });
        drop(UnixListener::bind(dir.path().join("a.new")).unwrap());
        listen_at(&path).expect("what a process that died left behind is no hindrance");
        assert_eq!(std::fs::read_dir(dir.path()).unwrap().count(), 1);
    }

    #[test]
    fn no_link_is_followed_to_a_socket() {
        let dir = tempfile::tempdir().unwrap();
        let at = |name: &str| dir.path().join(name);
        let _listener = UnixListener::bind(at("real")).unwrap();
        connect_itself(&at("real")).unwrap();
        std::os::unix::fs::symlink("real", at("link")).unwrap();
        assert!(UnixStream::connect(at("link")).is_ok());
        assert_eq!(connect_itself(&at("link")).unwrap_err().kind(), io::ErrorKind::InvalidInput);
        std::fs::write(at("file"), "").unwrap();
        assert!(connect_itself(&at("file")).is_err());
        assert_eq!(connect_itself(&at("none")).unwrap_err().kind(), io::ErrorKind::NotFound);
    }

    #[test]
    fn a_socket_for_all_is_ones_own() {
        use std::os::unix::fs::PermissionsExt;

        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("a.sock");
        let _listener = listen_for_all(&path).unwrap();
        assert_eq!(std::fs::metadata(&path).unwrap().permissions().mode() & 0o777, 0o666);
        connect_itself(&path).unwrap();
        let (file, link) = (dir.path().join("file"), dir.path().join("b.new"));
        std::fs::write(&file, "").unwrap();
        let mode = std::fs::metadata(&file).unwrap().permissions().mode();
        let swapped = listen_with(&dir.path().join("b.sock"), |unready| {
            std::fs::remove_file(unready).unwrap();
            std::os::unix::fs::symlink(&file, unready).unwrap();
            place_of(unready).map(drop)
        });
        assert_eq!(swapped.unwrap_err().kind(), io::ErrorKind::InvalidInput);
        assert!(link.is_symlink());
        assert_eq!(std::fs::metadata(&file).unwrap().permissions().mode(), mode);
    }

    #[test]
    fn it_falls_to_zero_when_the_peer_has_read() {
        let (mut ours, mut theirs) = UnixStream::pair().unwrap();
        assert_eq!(unread_by_peer(&ours).unwrap(), 0);
        ours.write_all(b"hello").unwrap();
        assert!(unread_by_peer(&ours).unwrap() > 0);
        theirs.read_exact(&mut [0; 3]).unwrap();
        assert!(unread_by_peer(&ours).unwrap() > 0, "some is left");
        theirs.read_exact(&mut [0; 2]).unwrap();
        assert_eq!(unread_by_peer(&ours).unwrap(), 0);
    }
}

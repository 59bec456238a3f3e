//! One daemon a user: a lock on a file, held as long as the process lives.

use std::fs::File;
use std::os::unix::net::UnixStream;
use std::path::Path;
use std::time::Duration;

use rustix::fs::{FlockOperation, flock};

/// How long a daemon that is ending may take to let go.
const LET_GO_WITHIN: Duration = Duration::from_secs(20);
/// When it is asked again, the first time.
const ASK_AGAIN: Duration = Duration::from_millis(20);
/// The same in the end: of many that wait, none may keep the first from beginning.
const ASK_AGAIN_MAX: Duration = Duration::from_millis(320);

/// What became of an attempt to be the daemon.
pub(crate) enum Claim {
    /// This process is it, while it holds the file.
    Ours(File),
    /// Another one is, and answers.
    Theirs,
}

/// Claims to be this user's daemon. One that holds the lock without answering is about to end, or has just begun: it is
/// waited for.
///
/// # Errors
/// When the file cannot be locked, or another daemon neither answers nor ends.
pub(crate) fn claim(lock: &Path, socket: &Path) -> Result<Claim, std::io::Error> {
    let file = File::options().create(true).truncate(false).write(true).open(lock)?;
    let deadline = sys::clock::monotonic() + LET_GO_WITHIN;
    let mut wait = ASK_AGAIN;
    loop {
        match flock(&file, FlockOperation::NonBlockingLockExclusive) {
            Ok(()) => return Ok(Claim::Ours(file)),
            Err(rustix::io::Errno::WOULDBLOCK) => {}
            Err(errno) => return Err(errno.into()),
        }
        if UnixStream::connect(socket).is_ok() {
            return Ok(Claim::Theirs);
        }
        if sys::clock::monotonic() > deadline {
            let why = "another bangerd holds it and does not answer";
            return Err(std::io::Error::new(std::io::ErrorKind::TimedOut, why));
        }
        std::thread::sleep(wait);
        wait = ASK_AGAIN_MAX.min(wait * 2);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_second_waits_for_the_first_and_yields_to_one_that_answers() {
        let dir = tempfile::tempdir().unwrap();
        let (lock, socket) = (dir.path().join("lock"), dir.path().join("socket"));
        let Claim::Ours(held) = claim(&lock, &socket).unwrap() else { panic!("nobody else claims it") };
        let listener = std::os::unix::net::UnixListener::bind(&socket).unwrap();
        assert!(matches!(claim(&lock, &socket).unwrap(), Claim::Theirs));
        drop(listener);
        std::fs::remove_file(&socket).unwrap();
        let waiting = std::thread::scope(|scope| {
            let second = scope.spawn(|| claim(&lock, &socket));
            drop(held);
            second.join().unwrap()
        });
        assert!(matches!(waiting.unwrap(), Claim::Ours(_)));
    }
}

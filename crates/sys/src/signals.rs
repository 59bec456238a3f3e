//! Waiting for signals instead of being interrupted by them: sigtimedwait(2).

use std::io;
use std::time::Duration;

/// Blocks `signals` in this thread, for [`wait`].
///
/// # Errors
/// When one of them is no signal.
pub fn block(signals: &[i32]) -> io::Result<()> {
    let set = set_of(signals)?;
    // SAFETY: reads the set; the old mask is not asked for.
    match unsafe { libc::pthread_sigmask(libc::SIG_BLOCK, &raw const set, std::ptr::null_mut()) } {
        0 => Ok(()),
        errno => Err(io::Error::from_raw_os_error(errno)),
    }
}

/// The next of `signals`, which must be blocked; none when nothing came in time.
///
/// # Errors
/// When one of them is no signal.
pub fn wait(signals: &[i32], longest: Option<Duration>) -> io::Result<Option<i32>> {
    let set = set_of(signals)?;
    let time = longest.map(|longest| libc::timespec {
        tv_sec: libc::time_t::try_from(longest.as_secs()).unwrap_or(libc::time_t::MAX),
        tv_nsec: libc::c_long::from(longest.subsec_nanos()),
    });
    let time = time.as_ref().map_or(std::ptr::null(), std::ptr::from_ref);
    // SAFETY: reads the set and, where there is one, the time; what the signal carried is not asked for.
    let signal = unsafe { libc::sigtimedwait(&raw const set, std::ptr::null_mut(), time) };
    if signal > 0 {
        return Ok(Some(signal));
    }
    match io::Error::last_os_error() {
        error if matches!(error.raw_os_error(), Some(libc::EAGAIN | libc::EINTR)) => Ok(None),
        error => Err(error),
    }
}

/// Sends a signal to process 1, by number: real-time signals have no name.
///
/// # Errors
/// When this process may not.
pub fn send_to_init(signal: i32) -> io::Result<()> {
    // SAFETY: kill(2) touches no memory.
    if unsafe { libc::kill(1, signal) } == 0 { Ok(()) } else { Err(io::Error::last_os_error()) }
}

fn set_of(signals: &[i32]) -> io::Result<libc::sigset_t> {
    // SAFETY: a signal set is plain bits, which sigemptyset(3) sets.
    let mut set = unsafe { std::mem::zeroed::<libc::sigset_t>() };
    // SAFETY: writes the set.
    unsafe { libc::sigemptyset(&raw mut set) };
    for signal in signals {
        // SAFETY: changes a bit of the set, or refuses.
        if unsafe { libc::sigaddset(&raw mut set, *signal) } != 0 {
            return Err(io::Error::last_os_error());
        }
    }
    Ok(set)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_blocked_signal_is_waited_for() {
        let signals = [libc::SIGURG];
        block(&signals).unwrap();
        assert_eq!(wait(&signals, Some(Duration::ZERO)).unwrap(), None);
        // SAFETY: sends a signal to this thread, which blocks it.
        unsafe { libc::pthread_kill(libc::pthread_self(), libc::SIGURG) };
        assert_eq!(wait(&signals, None).unwrap(), Some(libc::SIGURG));
        assert!(block(&[4711]).is_err());
    }
}

//! A process written down, so that it is known again: "<pid> <start ticks> <host boot>".

use std::io;
use std::os::fd::RawFd;
use std::path::Path;

use super::Identity;

/// `/proc/sys/kernel/random/boot_id` of random(4): 36 characters.
pub(super) fn host_boot_id() -> io::Result<[u8; 36]> {
    let text = std::fs::read("/proc/sys/kernel/random/boot_id")?;
    text.first_chunk::<36>().copied().ok_or_else(|| io::ErrorKind::InvalidData.into())
}

/// Writes "<pid> <start ticks> <host boot>\n" to `fd`. Runs between fork and exec: no allocation, no lock.
pub(super) fn record_self(fd: RawFd, host_boot: &[u8; 36]) -> io::Result<()> {
    let mut stat = [0_u8; 1024];
    // SAFETY: the path is a terminated string, the buffer is as long as said; all calls are async-signal-safe.
    let length = unsafe {
        let own = libc::open(c"/proc/self/stat".as_ptr(), libc::O_RDONLY | libc::O_CLOEXEC);
        if own < 0 {
            return Err(io::Error::last_os_error());
        }
        let length = libc::read(own, stat.as_mut_ptr().cast(), stat.len());
        libc::close(own);
        length
    };
    let stat = usize::try_from(length).ok().and_then(|length| stat.get(..length));
    let invalid = io::Error::from_raw_os_error(libc::EINVAL);
    let Some(stat) = stat else { return Err(invalid) };
    let Some(pid) = stat.split(|b| *b == b' ').next() else { return Err(invalid) };
    let after_name = stat.iter().rposition(|b| *b == b')').and_then(|at| stat.get(at + 2..));
    let Some(start) = after_name.and_then(|rest| rest.split(|b| *b == b' ').nth(19)) else { return Err(invalid) };
    let mut line = [b' '; 128];
    let mut used = 0;
    for part in [pid, b" ", start, b" ", host_boot, b"\n"] {
        let Some(place) = line.get_mut(used..used + part.len()) else { return Err(invalid) };
        place.copy_from_slice(part);
        used += part.len();
    }
    // SAFETY: the buffer holds `used` bytes and the descriptor is open.
    let written = unsafe { libc::write(fd, line.as_ptr().cast(), used) };
    if usize::try_from(written) == Ok(used) { Ok(()) } else { Err(io::Error::from_raw_os_error(libc::EIO)) }
}

impl Identity {
    /// Writes it down in a new file, as [`super::spawn_recorded`] does.
    ///
    /// # Errors
    /// When the file cannot be written.
    pub fn record(&self, pid_file: &Path) -> io::Result<()> {
        let boot = host_boot_id()?;
        let line = format!("{} {} {}\n", self.pid, self.start_ticks, String::from_utf8_lossy(&boot));
        crate::fs::write_atomic(pid_file, line.as_bytes(), 0o600).map_err(|error| error.source)
    }

    /// What [`super::spawn_recorded`] wrote to `pid_file`; none when there is no such file, nothing was recorded (the program
    /// never began), or it was recorded before the host booted.
    ///
    /// # Errors
    /// When the file is there and cannot be read, or says something else.
    pub fn recorded(pid_file: &Path) -> io::Result<Option<Identity>> {
        let text = match std::fs::read_to_string(pid_file) {
            Ok(text) => text,
            Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(None),
            Err(error) => return Err(error),
        };
        if text.is_empty() {
            return Ok(None);
        }
        let invalid = || io::Error::new(io::ErrorKind::InvalidData, "it names no process");
        let mut words = text.split_ascii_whitespace();
        let (Some(pid), Some(start), Some(boot), None) = (words.next(), words.next(), words.next(), words.next())
        else {
            return Err(invalid());
        };
        let pid = pid.parse().map_err(|_| invalid())?;
        let start_ticks = start.parse().map_err(|_| invalid())?;
        Ok((boot.as_bytes() == host_boot_id()?).then_some(Identity { pid, start_ticks }))
    }
}

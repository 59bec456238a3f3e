//! Random bytes from the kernel: getrandom(2).

use rustix::rand::{GetRandomFlags, getrandom};

/// Fills `buffer`; blocks only before the kernel's pool is first ready.
///
/// # Panics
/// When the kernel has no getrandom(2): Linux before 3.17.
pub fn fill(buffer: &mut [u8]) {
    let mut filled = 0;
    while filled < buffer.len() {
        match getrandom(&mut buffer[filled..], GetRandomFlags::empty()) {
            Ok(count) => filled += count,
            Err(rustix::io::Errno::INTR) => {}
            Err(errno) => panic!("getrandom(2) failed: {errno}"),
        }
    }
}

/// `N` random bytes.
#[must_use]
pub fn bytes<const N: usize>() -> [u8; N] {
    let mut buffer = [0; N];
    fill(&mut buffer);
    buffer
}

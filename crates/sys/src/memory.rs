//! Memory: what the host has left (`/proc/meminfo`, proc(5)), and what this process gives back.

/// Bytes of memory that can be used without swapping; none when the kernel does not say.
#[must_use]
pub fn available_bytes() -> Option<u64> {
    field(&std::fs::read_to_string("/proc/meminfo").ok()?, "MemAvailable:")
}

/// Above this, a block of memory is the kernel's own mapping and returned when freed, bytes.
const MAPPED_BYTES: libc::c_int = 256 * 1024;
/// Heaps that threads share; by itself glibc makes eight for each processor.
const HEAPS: libc::c_int = 2;

/// Has the allocator keep little: what was needed once, for an initramfs say, is given back instead of kept for the next
/// time. Called once, before there are threads: mallopt(3).
pub fn keep_little() {
    // SAFETY: sets parameters of the allocator; no other thread allocates yet.
    #[cfg(target_env = "gnu")]
    unsafe {
        libc::mallopt(libc::M_ARENA_MAX, HEAPS);
        libc::mallopt(libc::M_MMAP_THRESHOLD, MAPPED_BYTES);
        libc::mallopt(libc::M_TRIM_THRESHOLD, MAPPED_BYTES);
    }
}

fn field(meminfo: &str, name: &str) -> Option<u64> {
    let line = meminfo.lines().find_map(|line| line.strip_prefix(name))?;
    line.split_ascii_whitespace().next()?.parse::<u64>().ok()?.checked_mul(1024)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_kernel_says_it_in_kib() {
        assert_eq!(field("MemTotal: 9 kB\nMemAvailable:   5 kB\n", "MemAvailable:"), Some(5 * 1024));
        assert_eq!(field("MemTotal: 9 kB\n", "MemAvailable:"), None);
        assert!(available_bytes().unwrap() > 0);
    }
}

//! The host's memory: `/proc/meminfo`, proc(5).

/// Bytes of memory that can be used without swapping; none when the kernel does not say.
#[must_use]
pub fn available_bytes() -> Option<u64> {
    field(&std::fs::read_to_string("/proc/meminfo").ok()?, "MemAvailable:")
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

//! How big a VM may be.

/// Virtual processors a VM may have.
pub const VCPUS: std::ops::RangeInclusive<u16> = 1..=64;
/// Least guest memory: a kernel, its initramfs and a small init.
pub const MEMORY_MIB_MIN: u64 = 128;
/// Most guest memory.
pub const MEMORY_MIB_MAX: u64 = 1 << 20;
/// Least disk: an empty filesystem with room for a journal.
pub const DISK_BYTES_MIN: u64 = 512 << 20;
/// Most disk: what ext4 without the `64bit` feature holds is 16 TiB; the disk's template decides below this.
pub const DISK_BYTES_MAX: u64 = 64 << 40;
/// How long a VM may be idle before it is stopped, milliseconds: from a second to a month.
pub const STOP_AFTER_MS: std::ops::RangeInclusive<u64> = 1000..=31 * 24 * 3_600_000;
/// Ports a VM may publish.
pub const PUBLISH_MAX: usize = 64;

/// A size out of bounds.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum LimitError {
    /// Processors.
    #[error("the number of vCPUs must be between {} and {}, not {found}", VCPUS.start(), VCPUS.end())]
    Vcpus {
        /// Asked.
        found: u16,
    },
    /// Memory.
    #[error("memory must be between {MEMORY_MIB_MIN} MiB and {}, not {}", mib(MEMORY_MIB_MAX), mib(*found))]
    Memory {
        /// Asked, in MiB.
        found: u64,
    },
    /// Disk.
    #[error(
        "the disk must be between {} and {}, not {}",
        wire::size::human(DISK_BYTES_MIN),
        wire::size::human(DISK_BYTES_MAX),
        wire::size::human(*found)
    )]
    Disk {
        /// Asked, in bytes.
        found: u64,
    },
    /// The time after which an idle VM is stopped.
    #[error("an idle VM can be stopped after {} to {}, not {}", span(*STOP_AFTER_MS.start()), span(*STOP_AFTER_MS.end()), span(*found))]
    StopAfter {
        /// Asked, in milliseconds.
        found: u64,
    },
    /// Port 0.
    #[error("a published port must be between 1 and 65535, not 0")]
    PortZero,
    /// The same host port twice.
    #[error("host port {port} must be published once only")]
    PortTwice {
        /// The port.
        port: u16,
    },
    /// Too many.
    #[error("the number of published ports must be at most {PUBLISH_MAX}, not {found}")]
    PortCount {
        /// Asked.
        found: usize,
    },
}

fn span(ms: u64) -> String {
    wire::duration::human(ms)
}

fn mib(mib: u64) -> String {
    wire::size::human(mib.saturating_mul(1 << 20))
}

/// Checks the sizes of a VM.
///
/// # Errors
/// The first size out of bounds.
pub fn check(vcpus: u16, memory_mib: u64, disk_bytes: u64) -> Result<(), LimitError> {
    if !VCPUS.contains(&vcpus) {
        return Err(LimitError::Vcpus { found: vcpus });
    }
    if !(MEMORY_MIB_MIN..=MEMORY_MIB_MAX).contains(&memory_mib) {
        return Err(LimitError::Memory { found: memory_mib });
    }
    if !(DISK_BYTES_MIN..=DISK_BYTES_MAX).contains(&disk_bytes) {
        return Err(LimitError::Disk { found: disk_bytes });
    }
    Ok(())
}

/// Checks the time after which an idle VM is stopped.
///
/// # Errors
/// When it is out of bounds.
pub fn check_stop_after(ms: u64) -> Result<(), LimitError> {
    if STOP_AFTER_MS.contains(&ms) { Ok(()) } else { Err(LimitError::StopAfter { found: ms }) }
}

/// Checks published ports.
///
/// # Errors
/// The first port that cannot be, or the count.
pub fn check_publish(publish: &[wire::api::Publish]) -> Result<(), LimitError> {
    if publish.len() > PUBLISH_MAX {
        return Err(LimitError::PortCount { found: publish.len() });
    }
    for (index, port) in publish.iter().enumerate() {
        if port.host_port == 0 || port.guest_port == 0 {
            return Err(LimitError::PortZero);
        }
        if publish[..index].iter().any(|before| before.host_port == port.host_port) {
            return Err(LimitError::PortTwice { port: port.host_port });
        }
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;
    use wire::api::Publish;

    #[test]
    fn bounds_are_named() {
        assert_eq!(check(1, 128, 512 << 20), Ok(()));
        assert_eq!(check(64, 1 << 20, 64 << 40), Ok(()));
        for (vcpus, memory, disk, text) in [
            (0, 512, 1 << 30, "the number of vCPUs must be between 1 and 64, not 0"),
            (65, 512, 1 << 30, "the number of vCPUs must be between 1 and 64, not 65"),
            (1, 0, 1 << 30, "memory must be between 128 MiB and 1 TiB, not 0 B"),
            (1, u64::MAX, 1 << 30, "memory must be between 128 MiB and 1 TiB, not 16384 PiB"),
            (1, 512, 1, "the disk must be between 512 MiB and 64 TiB, not 1 B"),
        ] {
            assert_eq!(check(vcpus, memory, disk).unwrap_err().to_string(), text);
        }
    }

    #[test]
    fn idle_times() {
        assert_eq!((check_stop_after(1000), check_stop_after(1_800_000)), (Ok(()), Ok(())));
        let error = check_stop_after(1).unwrap_err().to_string();
        assert_eq!(error, "an idle VM can be stopped after 1 s to 31 d, not 1 ms");
    }

    #[test]
    fn ports() {
        let port = |host_port, guest_port| Publish { host_port, guest_port };
        assert_eq!(check_publish(&[port(8080, 80), port(8081, 80)]), Ok(()));
        assert_eq!(check_publish(&[port(0, 80)]), Err(LimitError::PortZero));
        assert_eq!(check_publish(&[port(8080, 80), port(8080, 81)]), Err(LimitError::PortTwice { port: 8080 }));
        assert_eq!(check_publish(&vec![port(1, 1); 65]), Err(LimitError::PortCount { found: 65 }));
    }
}

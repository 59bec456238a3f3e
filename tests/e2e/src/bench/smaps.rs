//! What memory processes take: their proportional share (`Pss` of smaps, proc(5)), so that a page that several map counts once
//! in their sum.

use std::fs;

use anyhow::{Context, Result, ensure};

use crate::processes::Process;

/// One process's, in KiB.
#[derive(Debug, Default, PartialEq, Eq)]
pub(super) struct Taken {
    /// Its whole share.
    pub(super) all: u64,
    /// That of its largest mapping.
    largest: u64,
    /// The size of that mapping.
    largest_size: u64,
}

impl Taken {
    pub(super) fn by(process: &Process) -> Result<Taken> {
        let path = format!("/proc/{}/smaps", process.pid);
        let text = fs::read_to_string(&path).with_context(|| format!("cannot read {path}"))?;
        let taken = read(&text);
        ensure!(taken.all > 0, "{process:?} maps nothing");
        Ok(taken)
    }

    /// Without the guest's memory, which is one mapping of that size.
    pub(super) fn beside_guest(&self, memory_mib: u64) -> Result<u64> {
        ensure!(self.largest_size == memory_mib << 10, "no mapping is the guest's {memory_mib} MiB: {self:?}");
        Ok(self.all - self.largest)
    }
}

fn read(smaps: &str) -> Taken {
    let mut taken = Taken::default();
    let mut size = 0;
    for line in smaps.lines() {
        let Some((name, value)) = line.split_once(':') else { continue };
        let Some(kib) = value.trim().strip_suffix(" kB").and_then(|kib| kib.parse().ok()) else { continue };
        match name {
            "Size" => size = kib,
            "Pss" => {
                taken.all += kib;
                if size > taken.largest_size {
                    (taken.largest, taken.largest_size) = (kib, size);
                }
            }
            _ => {}
        }
    }
    taken
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_largest_mapping_is_told_from_the_others() {
        let mapping = |size: u64, pss: u64| {
            format!(
                "7f00-7f01 rw-p 00000000 fe:00 12 /memory\nSize: {size} kB\nRss: 9 kB\nPss: {pss} kB\nPss_Dirty: 1 kB\n"
            )
        };
        let taken = read(&(mapping(4, 3) + &mapping(2048, 70) + &mapping(100, 20)));
        assert_eq!(taken, Taken { all: 93, largest: 70, largest_size: 2048 });
        assert_eq!(taken.beside_guest(2).unwrap(), 23);
        assert!(taken.beside_guest(3).is_err());
    }
}

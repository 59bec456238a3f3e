//! A guest whose kernel has halted. Firecracker has nothing that switches a machine off: a guest that asks its kernel to
//! (`poweroff --force`, sysrq `o`) stands still for ever, and its VMM with it. An orderly power-off is a reset, at which a
//! Firecracker ends, and needs none of this.
//!
//! The kernel's last words on the console tell (`kernel_halt`, `kernel_power_off` in Linux's kernel/reboot.c). A guest that only
//! prints them ends nothing but itself.

use std::fs::File;
use std::io::{self, Read, Seek, SeekFrom};
use std::path::{Path, PathBuf};
use std::time::Duration;

use async_trait::async_trait;
use sys::process::Identity;
use tokio::time::{Interval, MissedTickBehavior, interval};

use crate::model::machine::ExitReason;
use crate::vmm::{Launch, Vmm, VmmError};

/// How often the console is looked at: one system call where nothing was printed.
const LOOK_EVERY: Duration = Duration::from_secs(3);
/// How much of its end is read. Firecracker may print after the kernel.
const TAIL_BYTES: u64 = 4096;
/// What a kernel says last, behind the time.
const LAST_WORDS: [&str; 2] = ["reboot: Power down", "reboot: System halted"];

/// A VMM that ends when its guest has halted.
pub(super) struct EndsHalted<V> {
    vmm: V,
    console: PathBuf,
    looks: Interval,
    /// The console's length when it was looked at last.
    seen_bytes: u64,
    /// Whether the guest has: whoever waits may have been cut short in the middle of ending the VMM.
    is_over: bool,
}

impl<V: Vmm> EndsHalted<V> {
    pub(super) fn new(vmm: V, launch: &Launch) -> EndsHalted<V> {
        let mut looks = interval(LOOK_EVERY);
        looks.set_missed_tick_behavior(MissedTickBehavior::Delay);
        EndsHalted { vmm, console: launch.console_log.clone(), looks, seen_bytes: 0, is_over: false }
    }
}

#[async_trait]
impl<V: Vmm> Vmm for EndsHalted<V> {
    fn identity(&self) -> Identity {
        self.vmm.identity()
    }

    async fn kill(&mut self) -> Result<(), VmmError> {
        self.vmm.kill().await
    }

    async fn wait(&mut self) -> ExitReason {
        loop {
            if self.is_over {
                match self.vmm.kill().await {
                    Ok(()) => return ExitReason::Ended { code: Some(0) },
                    Err(error) => tracing::warn!(error = %wire::api::chain(&error), "a VMM outlives its guest"),
                }
            }
            tokio::select! {
                reason = self.vmm.wait() => return reason,
                _ = self.looks.tick() => {}
            }
            match has_halted(&self.console, &mut self.seen_bytes) {
                Ok(is_over) => self.is_over |= is_over,
                Err(error) => tracing::debug!(%error, console = %self.console.display(), "cannot look at a console"),
            }
        }
    }
}

/// Whether the kernel's last words are at the end of `console`, which was `seen_bytes` long the last time.
fn has_halted(console: &Path, seen_bytes: &mut u64) -> io::Result<bool> {
    let length = std::fs::metadata(console)?.len();
    if std::mem::replace(seen_bytes, length) == length {
        return Ok(false);
    }
    let mut file = File::open(console)?;
    file.seek(SeekFrom::Start(length.saturating_sub(TAIL_BYTES)))?;
    let mut tail = Vec::new();
    file.take(TAIL_BYTES).read_to_end(&mut tail)?;
    Ok(are_last_words(&tail))
}

fn are_last_words(tail: &[u8]) -> bool {
    // The kernel is the last one in a guest to say anything.
    let mut kernels =
        String::from_utf8_lossy(tail).lines().filter_map(after_time).map(str::to_owned).collect::<Vec<_>>();
    kernels.pop().is_some_and(|said| LAST_WORDS.contains(&said.as_str()))
}

/// What a kernel says in this line: `[   12.345678] words`.
fn after_time(line: &str) -> Option<&str> {
    let (time, said) = line.trim_start().strip_prefix('[')?.split_once("] ")?;
    let is_time = !time.is_empty() && time.bytes().all(|b| b.is_ascii_digit() || matches!(b, b' ' | b'.'));
    is_time.then(|| said.trim_end())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn last_words_are_the_kernels_and_the_last() {
        for (console, is_over) in [
            ("[    9.1] x\r\n[   96.708665] reboot: System halted\r\n", true),
            ("[   96.708665] reboot: Power down\n2026-11-23T02:03:41 [42dffd51:fc_vcpu 0:WARN] skipped\n", true),
            ("[   96.708665] reboot: Restarting system\n", false),
            ("[   96.708665] reboot: Power down\n[   97.000000] it goes on\n", false),
            ("echo reboot: Power down\n", false),
            ("[2026] [x] reboot: Power down", false),
            ("", false),
        ] {
            assert_eq!(are_last_words(console.as_bytes()), is_over, "{console}");
        }
    }

    #[test]
    fn a_console_is_read_once_for_what_is_new() {
        let dir = tempfile::tempdir().unwrap();
        let console = dir.path().join("console.log");
        let mut seen_bytes = 0;
        assert!(has_halted(&console, &mut seen_bytes).is_err());
        std::fs::write(&console, vec![b'.'; 3 * usize::try_from(TAIL_BYTES).unwrap()]).unwrap();
        assert!(!has_halted(&console, &mut seen_bytes).unwrap());
        let more = std::fs::read_to_string(&console).unwrap() + "\n[    1.2] reboot: Power down\n";
        std::fs::write(&console, more).unwrap();
        assert!(has_halted(&console, &mut seen_bytes).unwrap());
        assert!(!has_halted(&console, &mut seen_bytes).unwrap(), "nothing is new");
    }

    #[tokio::test]
    async fn a_guest_that_has_halted_ends_its_vmm() {
        struct Endless(Identity, bool);

        #[async_trait]
        impl Vmm for Endless {
            fn identity(&self) -> Identity {
                self.0
            }

            async fn kill(&mut self) -> Result<(), VmmError> {
                if std::mem::replace(&mut self.1, true) { Ok(()) } else { std::future::pending().await }
            }

            async fn wait(&mut self) -> ExitReason {
                if self.1 { ExitReason::Killed } else { std::future::pending().await }
            }
        }

        let dir = tempfile::tempdir().unwrap();
        let console = dir.path().join("console.log");
        let looks = interval(Duration::from_millis(5));
        let vmm = Endless(Identity::of(std::process::id()).unwrap(), false);
        let mut vmm = EndsHalted { vmm, console: console.clone(), looks, seen_bytes: 0, is_over: false };
        let early = tokio::time::timeout(Duration::from_millis(100), vmm.wait()).await;
        assert!(early.is_err() && !vmm.vmm.1, "no console yet");
        std::fs::write(&console, "[    1.2] reboot: System halted\n").unwrap();
        let cut_short = tokio::time::timeout(Duration::from_millis(100), vmm.wait()).await;
        assert!(cut_short.is_err() && vmm.vmm.1, "its end takes longer");
        assert!(matches!(vmm.wait().await, ExitReason::Ended { code: Some(0) }));
    }
}

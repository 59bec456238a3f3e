//! The frequency of the processor's time stamp counter, measured against CLOCK_MONOTONIC.
//!
//! A guest whose machine has no other clock to calibrate by (QEMU's `microvm` has neither HPET nor PM timer) is told the
//! frequency instead: on a busy host its own calibration fails, and the kernel then waits for ever.

use std::time::{Duration, Instant};

use crate::clock::monotonic;

/// Shortest time to measure over; with reads taken to about a microsecond the error is below 0.01 %.
const SPAN: Duration = Duration::from_millis(20);
/// Reads at each end, of which the tightest counts: one that was interrupted is wide.
const READS: usize = 16;

/// A measurement that has begun. It ends at [`Measurement::khz`], best a while later.
#[derive(Debug, Clone, Copy)]
pub struct Measurement {
    began: Sample,
}

/// The counter and the clock at one moment.
#[derive(Debug, Clone, Copy)]
struct Sample {
    ticks: u64,
    at: Instant,
}

impl Measurement {
    /// Begins.
    #[must_use]
    pub fn begin() -> Measurement {
        Measurement { began: sample() }
    }

    /// The frequency in kHz; sleeps for what is left of 20 ms since the measurement began. None when the counter stands
    /// still or there is none.
    #[must_use]
    pub fn khz(&self) -> Option<u64> {
        let elapsed = monotonic().saturating_duration_since(self.began.at);
        std::thread::sleep(SPAN.saturating_sub(elapsed));
        let end = sample();
        let ticks = u128::from(end.ticks.checked_sub(self.began.ticks)?);
        let nanos = end.at.saturating_duration_since(self.began.at).as_nanos();
        let khz = u64::try_from(ticks * 1_000_000 / nanos.max(1)).ok()?;
        (khz > 0).then_some(khz)
    }
}

fn sample() -> Sample {
    let mut tightest: Option<(Duration, Sample)> = None;
    for _ in 0..READS {
        let before = monotonic();
        let ticks = read();
        let width = monotonic().saturating_duration_since(before);
        if tightest.is_none_or(|(best, _)| width < best) {
            tightest = Some((width, Sample { ticks, at: before + width / 2 }));
        }
    }
    tightest.map_or_else(|| Sample { ticks: read(), at: monotonic() }, |(_, sample)| sample)
}

#[cfg(target_arch = "x86_64")]
fn read() -> u64 {
    // SAFETY: rdtsc exists on every x86-64 processor and touches nothing but registers.
    unsafe { core::arch::x86_64::_rdtsc() }
}

#[cfg(not(target_arch = "x86_64"))]
fn read() -> u64 {
    0
}

#[cfg(all(test, target_arch = "x86_64"))]
mod tests {
    use super::*;

    #[test]
    fn two_measurements_agree() {
        let (one, two) = (Measurement::begin().khz().unwrap(), Measurement::begin().khz().unwrap());
        assert!(one.abs_diff(two) * 1000 < one, "{one} and {two} kHz differ by 0.1 %");
    }

    #[test]
    fn the_kernel_has_the_same_figure() {
        let cpuinfo = std::fs::read_to_string("/proc/cpuinfo").unwrap();
        let flag = |name: &str| cpuinfo.lines().find(|l| l.starts_with("flags")).is_some_and(|l| l.contains(name));
        let mhz = cpuinfo.lines().find_map(|l| l.strip_prefix("cpu MHz")?.rsplit(' ').next()?.parse::<f64>().ok());
        // On real hardware the figure follows the core's momentary clock; only a guest's kernel shows the counter's.
        let (Some(mhz), true) = (mhz, flag("hypervisor") && flag("constant_tsc")) else { return };
        let khz = Measurement::begin().khz().unwrap() as f64;
        assert!((khz / 1000.0 / mhz - 1.0).abs() < 0.01, "{khz} kHz measured, {mhz} MHz in /proc/cpuinfo");
    }
}

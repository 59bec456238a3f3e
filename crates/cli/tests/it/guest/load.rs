//! Boots and clocks while every core is busy: where software emulation used to hang and to run slow.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread::JoinHandle;

use super::host::{Host, eventually, soak};

/// One busy thread a core, until dropped.
struct Busy {
    stop: Arc<AtomicBool>,
    threads: Vec<JoinHandle<()>>,
}

impl Busy {
    fn every_core() -> Busy {
        let stop = Arc::new(AtomicBool::new(false));
        let cores = std::thread::available_parallelism().unwrap().get();
        let threads = (0..cores)
            .map(|_| {
                let stop = Arc::clone(&stop);
                std::thread::spawn(move || {
                    while !stop.load(Ordering::Relaxed) {
                        std::hint::spin_loop();
                    }
                })
            })
            .collect();
        Busy { stop, threads }
    }
}

impl Drop for Busy {
    fn drop(&mut self) {
        self.stop.store(true, Ordering::Relaxed);
        for thread in self.threads.drain(..) {
            thread.join().unwrap();
        }
    }
}

/// Six boots in a sample, fifty in a soak.
fn boots() -> usize {
    if soak().is_some() { 50 } else { 6 }
}

#[test]
fn no_boot_hangs_while_every_core_is_busy() {
    let host = Host::new();
    let busy = Busy::every_core();
    for boot in 0..boots() {
        let out = host.ok(&["run", "--rm", "--wait", "agent", "--", "echo", "up"]);
        assert_eq!(out, "up", "boot {boot}");
    }
    drop(busy);
    host.ends_clean();
}

#[test]
fn the_clock_is_the_tsc_and_keeps_time_under_load() {
    let host = Host::new();
    host.ok(&["run", "--name", "clock", "-d", "--wait", "agent"]);
    // A kernel begins with `tsc-early` and settles on its clock source a moment later.
    let mut source = String::new();
    eventually("the clock source has settled", || {
        source = host.ok(&[
            "exec",
            "clock",
            "--",
            "cat",
            "/sys/devices/system/clocksource/clocksource0/current_clocksource",
        ]);
        source != "tsc-early"
    });
    assert_eq!(source, "tsc");
    let busy = Busy::every_core();
    // Each reading is taken in the guest between two readings of the host's clock; the tightest of several is kept.
    let reading = || {
        (0..8)
            .map(|_| {
                let before = std::time::Instant::now();
                let guest: f64 =
                    host.ok(&["exec", "clock", "--", "cut", "-d ", "-f1", "/proc/uptime"]).parse().unwrap();
                (before, before.elapsed(), guest)
            })
            .min_by_key(|(_, took, _)| *took)
            .unwrap()
    };
    let (first, first_took, first_guest) = reading();
    std::thread::sleep(std::time::Duration::from_secs(10));
    let (last, last_took, last_guest) = reading();
    drop(busy);
    let host_seconds = (last + last_took / 2 - (first + first_took / 2)).as_secs_f64();
    let drift = ((last_guest - first_guest) - host_seconds).abs();
    // A reading is uncertain by half of what it took, and /proc/uptime by a hundredth of a second.
    let uncertain = (first_took + last_took).as_secs_f64() / 2.0 + 0.01;
    assert!(
        drift <= 0.001 * host_seconds + uncertain,
        "{drift:.3} s in {host_seconds:.3} s, uncertain by {uncertain:.3} s"
    );
    host.leaves_nothing();
}

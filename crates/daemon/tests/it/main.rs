//! The daemon's drivers against real processes.

mod vmm;

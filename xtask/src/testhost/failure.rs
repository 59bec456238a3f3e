//! What goes wrong with the test host itself, apart from whatever runs in it.

use std::error::Error;
use std::fmt;

/// The status of a run that this machine cannot do, by the convention of test runners.
pub(crate) const STATUS_SKIPPED: u8 = 77;

/// The test host failed: nothing is said about what ran in it.
#[derive(Debug, Clone, Copy)]
pub(crate) struct HostFailed;

impl fmt::Display for HostFailed {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("the test host failed, which says nothing about the scenarios")
    }
}

/// This machine lacks something that a test host needs: nothing was tried, and nothing is wrong with the product.
#[derive(Debug)]
pub(crate) struct Unavailable {
    /// What is missing.
    pub(crate) what: String,
    /// What would help.
    pub(crate) hint: String,
}

impl fmt::Display for Unavailable {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "this machine cannot run the test host: {}\nhint: {}", self.what, self.hint)
    }
}

impl Error for Unavailable {}

impl Unavailable {
    pub(crate) fn new(what: impl Into<String>, hint: impl Into<String>) -> Self {
        Unavailable { what: what.into(), hint: hint.into() }
    }
}

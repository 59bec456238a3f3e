//! What a scenario is.

use anyhow::Result;

use crate::home::Home;

/// One story about the product, told with its programs.
pub(crate) struct Scenario {
    /// `suite.name`, unique.
    pub(crate) name: &'static str,
    /// One line.
    pub(crate) about: &'static str,
    /// Words that choose it besides its name.
    pub(crate) tags: &'static [&'static str],
    /// When it runs, and what it does.
    pub(crate) class: Class,
}

/// When a scenario runs, beside which others, and on what.
pub(crate) enum Class {
    /// Side by side with others. What it makes is its own: below its home, or named after it.
    Parallel(fn() -> Result<()>),
    /// After the others of its fixture, in the order of the list, on what they left. Fixtures run side by side.
    InOrder(&'static Fixture, fn(&Home) -> Result<()>),
    /// While nothing else runs: it changes the host itself.
    Alone(fn() -> Result<()>),
}

/// What several scenarios share, made once and taken down after the last of them.
pub(crate) struct Fixture {
    /// Unique among fixtures.
    pub(crate) name: &'static str,
    /// Makes it.
    pub(crate) make: fn() -> Result<Home>,
}

impl Class {
    /// What a list says of it.
    pub(crate) fn describe(&self) -> String {
        match self {
            Class::Parallel(_) => "parallel".to_owned(),
            Class::InOrder(fixture, _) => format!("in order: {}", fixture.name),
            Class::Alone(_) => "alone".to_owned(),
        }
    }
}

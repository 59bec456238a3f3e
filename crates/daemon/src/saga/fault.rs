//! Faults on purpose, by the name of a step: how crash tests reach every edge.
//!
//! `vm.start/spawn_vmm:before` fails the step before its effect, `:after` after it, `:undo` fails its undo;
//! `:kill-before` and `:kill-after` end this process on the spot, as `kill -9` would. Several are separated by commas.
//! Release builds carry none: [`Faults::parse`] refuses there.

use std::str::FromStr;

use super::Cause;

/// Where in a step a fault sits.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Point {
    /// Before its effect.
    Before,
    /// After its effect, before that is journalled.
    After,
    /// In place of its undo.
    Undo,
}

/// What happens there.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Act {
    Fail,
    Kill,
}

#[derive(Debug, Clone, PartialEq, Eq)]
struct Fault {
    /// `vm.start/spawn_vmm`
    step: String,
    point: Point,
    act: Act,
}

/// The faults of this process; usually none.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Faults(Vec<Fault>);

/// Text that names no faults.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum FaultError {
    /// Not `<saga>/<step>:<point>`.
    #[error("{0:?} is not a fault: expected <operation>/<step>:before, after, undo, kill-before or kill-after")]
    Form(String),
    /// A release build.
    #[error("this build injects no faults")]
    Release,
}

impl FromStr for Faults {
    type Err = FaultError;

    fn from_str(text: &str) -> Result<Faults, FaultError> {
        if text.is_empty() {
            return Ok(Faults::default());
        }
        if !cfg!(debug_assertions) {
            return Err(FaultError::Release);
        }
        let one = |item: &str| {
            let form = || FaultError::Form(item.chars().take(80).collect());
            let (step, how) = item.rsplit_once(':').ok_or_else(form)?;
            let (point, act) = match how {
                "before" => (Point::Before, Act::Fail),
                "after" => (Point::After, Act::Fail),
                "undo" => (Point::Undo, Act::Fail),
                "kill-before" => (Point::Before, Act::Kill),
                "kill-after" => (Point::After, Act::Kill),
                _ => return Err(form()),
            };
            if !step.contains('/') {
                return Err(form());
            }
            Ok(Fault { step: step.to_owned(), point, act })
        };
        text.split(',').map(|item| one(item.trim())).collect::<Result<_, _>>().map(Faults)
    }
}

impl Faults {
    /// Fails, or ends the process, when a fault sits at this point.
    ///
    /// # Errors
    /// The injected failure.
    pub fn hit(&self, saga: &str, step: &str, point: Point) -> Result<(), Cause> {
        let here = |fault: &&Fault| {
            fault.point == point && fault.step.split_once('/').is_some_and(|(s, t)| s == saga && t == step)
        };
        match self.0.iter().find(here).map(|fault| fault.act) {
            None => Ok(()),
            Some(Act::Fail) => Err(Cause::new("injected", format!("injected fault in {saga}/{step}"))),
            Some(Act::Kill) => std::process::abort(),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn forms() {
        let faults: Faults = "vm.start/spawn_vmm:before, vm.stop/kill:undo".parse().unwrap();
        assert!(faults.hit("vm.start", "spawn_vmm", Point::Before).is_err());
        assert!(faults.hit("vm.start", "spawn_vmm", Point::After).is_ok());
        assert!(faults.hit("vm.create", "spawn_vmm", Point::Before).is_ok());
        assert!(faults.hit("vm.stop", "kill", Point::Undo).is_err());
        assert_eq!("".parse(), Ok(Faults::default()));
        for bad in ["x", "a/b", "a:before", "a/b:sometimes"] {
            assert!(bad.parse::<Faults>().is_err(), "{bad}");
        }
    }
}

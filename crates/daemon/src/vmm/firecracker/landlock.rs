//! Landlock around a VMM: a second wall behind its mount namespace, made of the same files.
//!
//! What a kernel knows of it is used, and its lack is no hindrance: the namespaces hold without it. A kernel from 6.12 on also
//! keeps signals and abstract sockets inside.

use std::io;

use landlock::{
    ABI, Access, AccessFs, AccessNet, BitFlags, CompatLevel, Compatible, PathBeneath, PathFd, Ruleset, RulesetAttr,
    RulesetCreatedAttr, RulesetError, Scope,
};

/// The newest set of rules that is asked for.
const NEWEST: ABI = ABI::V6;

/// Lets this process, and every program it becomes, read and run what there is, write to `writable` and use `devices`, and
/// nothing else.
///
/// # Errors
/// When the kernel knows Landlock and refuses.
pub(super) fn restrict(writable: &[String], devices: &[&str]) -> io::Result<()> {
    let reads = AccessFs::from_read(NEWEST);
    let rules = [("/", reads)];
    let changes = AccessFs::from_all(NEWEST) & !AccessFs::Execute & !AccessFs::MakeBlock & !AccessFs::MakeChar;
    let uses = AccessFs::ReadFile | AccessFs::WriteFile | AccessFs::IoctlDev;
    let rules = rules
        .into_iter()
        .chain(writable.iter().map(|path| (path.as_str(), changes)))
        .chain(devices.iter().map(|path| (*path, uses)));
    enforce(rules).map_err(|error| io::Error::other(error.to_string()))
}

fn enforce<'a>(rules: impl Iterator<Item = (&'a str, BitFlags<AccessFs>)>) -> Result<(), RulesetError> {
    let mut ruleset = Ruleset::default()
        .set_compatibility(CompatLevel::BestEffort)
        .handle_access(AccessFs::from_all(NEWEST))?
        .handle_access(AccessNet::from_all(NEWEST))?
        .scope(Scope::from_all(NEWEST))?
        .create()?;
    for (path, access) in rules {
        // Of a path that is not there nothing can be used.
        if let Ok(place) = PathFd::new(path) {
            ruleset = ruleset.add_rule(PathBeneath::new(place, access))?;
        }
    }
    ruleset.restrict_self().map(|_status| ())
}

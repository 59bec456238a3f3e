//! The command line: the only place where the helper is told paths, by its unit, which root wrote.

use std::ffi::OsString;
use std::path::{Component, PathBuf};

/// What `--help` would say.
pub(crate) const USAGE: &str = "\
usage: banger-helper serve --owner UID:GID --state DIR --cache DIR --firecracker FILE --jailer FILE [--run DIR] [--scopes]
       banger-helper sweep [--run DIR]
       banger-helper --version";

const RUN: &str = "/run/banger";

/// What to do.
#[derive(Debug, PartialEq, Eq)]
pub(crate) enum Command {
    Version,
    Serve(Config),
    Sweep { run: PathBuf },
}

/// What the unit decided. Every path is absolute and has no `..`.
#[derive(Debug, PartialEq, Eq)]
pub(crate) struct Config {
    /// May ask, besides root. Owns the files that jails are given.
    pub(crate) owner_uid: u32,
    /// A group with nobody but the owner in it, which reaches the jails' sockets.
    pub(crate) owner_gid: u32,
    /// The daemon's state directory.
    pub(crate) state: PathBuf,
    /// The daemon's cache directory.
    pub(crate) cache: PathBuf,
    /// Jails are below it.
    pub(crate) run: PathBuf,
    pub(crate) firecracker: PathBuf,
    pub(crate) jailer: PathBuf,
    /// Each VMM gets a systemd scope, which holds its limits.
    pub(crate) has_scopes: bool,
}

/// Reads the arguments behind the program's name.
pub(crate) fn parse(arguments: &[OsString]) -> Result<Command, String> {
    let mut words = arguments.iter();
    let verb = words.next().and_then(|word| word.to_str()).unwrap_or_default();
    let mut found = Found::default();
    while let Some(word) = words.next() {
        let name = word.to_str().unwrap_or_default();
        if name == "--scopes" {
            found.has_scopes = true;
            continue;
        }
        let value = words.next().ok_or_else(|| format!("{} needs a value", word.display()))?;
        let slot = match name {
            "--owner" => &mut found.owner,
            "--state" => &mut found.state,
            "--cache" => &mut found.cache,
            "--run" => &mut found.run,
            "--firecracker" => &mut found.firecracker,
            "--jailer" => &mut found.jailer,
            _ => return Err(format!("there is no {}", word.display())),
        };
        if slot.replace(value.clone()).is_some() {
            return Err(format!("{name} is given twice"));
        }
    }
    match verb {
        "--version" if found == Found::default() => Ok(Command::Version),
        "serve" => found.config().map(Command::Serve),
        "sweep" => {
            let run = path("--run", found.run.take().or_else(|| Some(RUN.into())))?;
            if found == Found::default() {
                Ok(Command::Sweep { run })
            } else {
                Err("sweep takes only --run".to_owned())
            }
        }
        _ => Err("there is no such command".to_owned()),
    }
}

#[derive(Debug, Default, PartialEq, Eq)]
struct Found {
    owner: Option<OsString>,
    state: Option<OsString>,
    cache: Option<OsString>,
    run: Option<OsString>,
    firecracker: Option<OsString>,
    jailer: Option<OsString>,
    has_scopes: bool,
}

impl Found {
    fn config(self) -> Result<Config, String> {
        let owner = self.owner.as_ref().and_then(|owner| owner.to_str()?.split_once(':'));
        let number = |text: &str| text.parse::<u32>().map_err(|_| format!("--owner: {text} is no number"));
        let (uid, gid) = owner.ok_or_else(|| "--owner UID:GID is missing".to_owned())?;
        Ok(Config {
            owner_uid: number(uid)?,
            owner_gid: number(gid)?,
            state: path("--state", self.state)?,
            cache: path("--cache", self.cache)?,
            run: path("--run", self.run.or_else(|| Some(RUN.into())))?,
            firecracker: path("--firecracker", self.firecracker)?,
            jailer: path("--jailer", self.jailer)?,
            has_scopes: self.has_scopes,
        })
    }
}

fn path(name: &str, value: Option<OsString>) -> Result<PathBuf, String> {
    let path = PathBuf::from(value.ok_or_else(|| format!("{name} is missing"))?);
    let mut parts = path.components();
    let is_plain = parts.next() == Some(Component::RootDir) && parts.all(|part| matches!(part, Component::Normal(_)));
    if is_plain && path.file_name().is_some() {
        return Ok(path);
    }
    Err(format!("{name} must be an absolute path without .., not {}", path.display()))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn of(line: &str) -> Result<Command, String> {
        parse(&line.split_ascii_whitespace().map(OsString::from).collect::<Vec<_>>())
    }

    const SERVE: &str = "serve --owner 7:8 --state /s --cache /c --firecracker /f --jailer /j";

    #[test]
    fn what_a_unit_says_is_understood() {
        assert_eq!(of("--version"), Ok(Command::Version));
        assert_eq!(of("sweep"), Ok(Command::Sweep { run: RUN.into() }));
        assert_eq!(of("sweep --run /x"), Ok(Command::Sweep { run: "/x".into() }));
        let Ok(Command::Serve(config)) = of(&format!("{SERVE} --scopes")) else { panic!("refused") };
        assert_eq!((config.owner_uid, config.owner_gid, config.has_scopes), (7, 8, true));
        assert_eq!(config.run, PathBuf::from(RUN));
    }

    #[test]
    fn what_it_must_not_say_is_refused() {
        for line in [
            "",
            "serve",
            "--version --scopes",
            "sweep --owner 1:1",
            "sweep --run",
            "sweep --run relative",
            "shell",
            "serve --owner 7 --state /s --cache /c --firecracker /f --jailer /j",
            "serve --owner -1:8 --state /s --cache /c --firecracker /f --jailer /j",
            "serve --owner 7:8 --state /s/../x --cache /c --firecracker /f --jailer /j",
            "serve --owner 7:8 --state / --cache /c --firecracker /f --jailer /j",
        ] {
            assert!(of(line).is_err(), "{line}");
        }
        assert!(of(&format!("{SERVE} --state /t")).is_err(), "twice");
        assert!(of(&format!("{SERVE} --shell /t")).is_err());
    }
}

//! What the product runs for a VM, read from what runs: a floor is made of the same parts and not of a copy of their list.

use std::path::PathBuf;
use std::time::Duration;

use anyhow::{Context, Result};
use serde_json::Value;

use crate::home::Home;
use crate::processes::{self, Process};
use crate::wait;

/// How long Firecracker may take to be seen under its own name.
const SEEN_MAX: Duration = Duration::from_secs(20);

/// A VM's Firecracker.
pub(super) struct Launch {
    /// What it was to become: the launcher's argument.
    jail: Value,
    /// The process beside it.
    pub(super) launcher: Process,
    pub(super) vmm: Process,
}

impl Launch {
    /// That of a VM, which runs.
    pub(super) fn of(home: &Home, name: &str) -> Result<Launch> {
        let id = home.show(name)?["id"].as_str().context("a VM has an id")?.to_owned();
        let launcher = home.vmm(name)?;
        let jail = launcher.arguments.get(2).context("the launcher is told of its jail")?;
        let jail = serde_json::from_str(jail).context("cannot read what the launcher was told")?;
        let vmm = wait::until("Firecracker is seen", SEEN_MAX, || firecracker(&id))?;
        Ok(Launch { jail, launcher, vmm })
    }

    /// The file of the host that is at this place in the jail.
    pub(super) fn file(&self, at: &str) -> Result<PathBuf> {
        let found = self.files()?.into_iter().find(|(place, _)| place == at);
        Ok(found.with_context(|| format!("the jail has no {at}"))?.1)
    }

    /// The files in the jail: where they are there, and on the host.
    pub(super) fn files(&self) -> Result<Vec<(String, PathBuf)>> {
        let files = self.jail["files"].as_array().context("a jail has files")?;
        let text = |file: &Value, key: &str| file[key].as_str().map(str::to_owned);
        let file = |file| Some((text(file, "at")?, PathBuf::from(text(file, "path")?)));
        files.iter().map(|one| file(one).context("a file has a place")).collect()
    }

    /// Firecracker's configuration; none of a VM that goes on from what was saved.
    pub(super) fn config(&self) -> Result<Value> {
        Some(self.jail["config"].clone()).filter(|config| !config.is_null()).context("the VM has not booted")
    }

    /// The socket of Firecracker's API.
    pub(super) fn api(&self) -> Result<PathBuf> {
        Ok(self.boot_dir()?.join("vmm/api.sock"))
    }

    /// Where Firecracker may leave what it saves, on the host; `/saves` in the jail.
    pub(super) fn saves(&self) -> Result<PathBuf> {
        Ok(self.jail["saves"].as_str().context("the jail has room for what is saved")?.into())
    }

    fn boot_dir(&self) -> Result<PathBuf> {
        Ok(self.jail["boot_dir"].as_str().context("a boot has a directory")?.into())
    }
}

fn firecracker(id: &str) -> Result<Process> {
    let is_it = |process: &Process| process.arguments.windows(2).any(|words| words[0] == "--id" && words[1] == id);
    let mut all = processes::all()?.into_iter();
    all.find(|process| process.program() == "firecracker" && is_it(process)).context("it is not there")
}

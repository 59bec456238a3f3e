//! Firecracker without the product: the same kernel, initramfs, drives, tap and size, and nothing around it.
//!
//! A saved machine knows its drives by the paths of its jail. The test host is thrown away after this, so they are made to lead
//! there at its own root for as long as this is used.

use std::fs;
use std::os::unix::fs::symlink;
use std::os::unix::net::{UnixListener, UnixStream};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

use anyhow::{Context, Result, ensure};
use serde_json::{Value, json};
use tempfile::TempDir;

use super::launch::Launch;
use super::user::{self, User};
use super::{Bench, api, tell};
use crate::command;
use crate::home::{USER, as_user_thread};
use crate::init;

/// Where the guest's agent connects to: its port on the vsock whose socket is called `vsock`.
const AGENT_SOCKET: &str = "vsock_1024";
/// What Firecracker makes, which must not be there when the next one begins.
const SOCKETS: [&str; 3] = ["vsock", AGENT_SOCKET, "api.sock"];
/// How long a saved machine may take to be alive again.
const ALIVE_MAX: Duration = Duration::from_secs(60);

/// The parts of one VM, for Firecracker alone.
pub(super) struct Bare {
    dir: TempDir,
    /// Links at the host's root, and what they lead to.
    links: Vec<PathBuf>,
}

impl Bare {
    /// Of a VM's parts, which runs and has booted.
    pub(super) fn of(launch: &Launch) -> Result<Bare> {
        let dir = tempfile::Builder::new().prefix("b").tempdir_in(format!("/home/{USER}"));
        let mut bare = Bare { dir: dir.context("cannot make a directory")?, links: Vec::new() };
        command::shell(&format!("ip tuntap add dev tap0 mode tap user {USER}"))?;
        let mut config = launch.config()?;
        let says = bare.initramfs(launch, "says", init::SAYS)?;
        let silent = bare.initramfs(launch, "silent", "")?;
        let disk = bare.path("disk.ext4");
        bare.copy(&launch.file("/disk")?, &disk)?;
        fs::write(bare.path("metrics"), "").context("cannot make a file")?;
        config["metrics"]["metrics_path"] = json!(bare.path("metrics"));
        config["boot-source"]["kernel_image_path"] = json!(launch.file("/kernel")?);
        for drive in config["drives"].as_array_mut().context("a VM has drives")? {
            let at = drive["path_on_host"].as_str().context("a drive has a place")?.to_owned();
            let path = if at == "/disk" { disk.clone() } else { launch.file(&at)? };
            drive["path_on_host"] = json!(path);
            bare.link(Path::new(&at), &path)?;
        }
        for (name, initramfs) in [("says.json", says), ("silent.json", silent)] {
            config["boot-source"]["initrd_path"] = json!(initramfs);
            fs::write(bare.path(name), config.to_string()).context("cannot write a configuration")?;
        }
        command::shell(&format!("chown -R {USER}: {}", bare.dir.path().display()))?;
        Ok(bare)
    }

    fn path(&self, name: &str) -> PathBuf {
        self.dir.path().join(name)
    }

    /// The VM's initramfs, with an init that says this and ends the machine.
    fn initramfs(&self, launch: &Launch, name: &str, says: &str) -> Result<PathBuf> {
        let (from, to) = (launch.file("/initramfs")?, self.path(&format!("{name}.initramfs")));
        let ours = fs::read(&from).with_context(|| format!("cannot read {}", from.display()))?;
        fs::write(&to, figures::lay_over(&ours, &init::program(says))).context("cannot write an initramfs")?;
        Ok(to)
    }

    fn copy(&self, from: &Path, to: &Path) -> Result<()> {
        let mut copy = Command::new("cp");
        copy.arg("--sparse=always").arg(from).arg(to);
        command::run(&mut copy, Duration::from_secs(60))?.ok().map(drop)
    }

    fn link(&mut self, at: &Path, to: &Path) -> Result<()> {
        symlink(to, at).with_context(|| format!("cannot make {}", at.display()))?;
        self.links.push(at.to_owned());
        Ok(())
    }

    fn firecracker(&self, arguments: &[&str]) -> Command {
        let mut command = as_user_thread("firecracker", arguments);
        command.args(["--level", "Warning"]).current_dir(self.dir.path());
        command
    }

    /// A guest that says its line shows that the other one, which is silent, gets as far.
    pub(super) fn check(&self, user: &User) -> Result<()> {
        let said = user.does(|| {
            self.clear()?;
            let mut command = self.firecracker(&["--no-api", "--config-file", "says.json"]);
            command::run(&mut command, Duration::from_secs(180))?.ok().map(str::to_owned)
        })?;
        ensure!(said.contains(init::SAYS.trim_end()), "the floor's init did not run: {said}");
        Ok(())
    }

    /// How long a boot takes to the end of an init that does nothing, Firecracker's own end included.
    pub(super) fn boot(&self, bench: &Bench) -> Result<Duration> {
        bench
            .user
            .does(|| {
                self.clear()?;
                user::time(&mut self.firecracker(&["--no-api", "--config-file", "silent.json"]))
            })
            .inspect(|took| tell(*took, "firecracker, a bare boot"))
    }

    /// How long the saved machine in `template` takes to be alive: to connect to its host again.
    pub(super) fn load(&self, bench: &Bench, template: &Path) -> Result<Duration> {
        bench
            .user
            .does(|| {
                self.clear()?;
                self.copy(&template.join("disk.ext4"), &self.path("disk.ext4"))?;
                let listener = UnixListener::bind(self.path(AGENT_SOCKET)).context("cannot listen for the agent")?;
                let console = fs::File::create(self.path("console")).context("cannot make a console")?;
                let mut command = self.firecracker(&["--api-sock", "api.sock"]);
                command.stdin(Stdio::null()).stdout(console).stderr(Stdio::null());
                let begun = Instant::now();
                let mut child = command.spawn().context("cannot start firecracker")?;
                let alive = self.load_in(&mut child, template, &listener).map(|()| begun.elapsed());
                child.kill().context("cannot kill")?;
                child.wait().context("cannot wait")?;
                alive
            })
            .inspect(|took| tell(*took, "firecracker, a bare load"))
    }

    fn load_in(&self, child: &mut Child, template: &Path, listener: &UnixListener) -> Result<()> {
        let body = json!({
            "snapshot_path": template.join("devices"),
            "mem_backend": {"backend_type": "File", "backend_path": template.join("memory")},
            "resume_vm": true,
        });
        api::ask_over(self.connect(child)?, "PUT", "/snapshot/load", &body)?;
        ensure!(user::readable(listener, ALIVE_MAX)?, "the restored guest's agent did not connect");
        Ok(())
    }

    fn connect(&self, child: &mut Child) -> Result<UnixStream> {
        let deadline = Instant::now() + ALIVE_MAX;
        loop {
            match UnixStream::connect(self.path("api.sock")) {
                Ok(stream) => return Ok(stream),
                Err(error) => {
                    ensure!(Instant::now() < deadline && child.try_wait()?.is_none(), "firecracker has no API: {error}")
                }
            }
            std::thread::sleep(Duration::from_micros(200));
        }
    }

    /// What an earlier Firecracker left is in the way of the next.
    fn clear(&self) -> Result<()> {
        for socket in SOCKETS {
            match fs::remove_file(self.path(socket)) {
                Err(error) if error.kind() != std::io::ErrorKind::NotFound => return Err(error.into()),
                _ => {}
            }
        }
        Ok(())
    }
}

impl Drop for Bare {
    fn drop(&mut self) {
        for link in &self.links {
            if let Err(error) = fs::remove_file(link) {
                eprintln!("e2e: {} stays: {error}", link.display());
            }
        }
        if let Err(error) = command::shell("ip link delete tap0") {
            eprintln!("e2e: {error:#}");
        }
    }
}

/// How long a running VM stands still while Firecracker saves all of it: what a fork's source would, without the product.
pub(super) fn full_snapshot(launch: &Launch) -> Result<Duration> {
    let (socket, saves) = (launch.api()?, launch.saves()?);
    let body = json!({
        "snapshot_type": "Full",
        "snapshot_path": "/saves/bare-devices",
        "mem_file_path": "/saves/bare-memory",
    });
    let state = |state: &str| -> Value { json!({ "state": state }) };
    let begun = Instant::now();
    api::ask(&socket, "PATCH", "/vm", &state("Paused"))?;
    api::ask(&socket, "PUT", "/snapshot/create", &body)?;
    api::ask(&socket, "PATCH", "/vm", &state("Resumed"))?;
    let took = begun.elapsed();
    for file in ["bare-devices", "bare-memory"] {
        let path = saves.join(file);
        ensure!(path.metadata().is_ok_and(|meta| meta.len() > 0), "{} was not written", path.display());
        fs::remove_file(&path).with_context(|| format!("cannot remove {}", path.display()))?;
    }
    tell(took, "firecracker, a bare full snapshot");
    Ok(took)
}

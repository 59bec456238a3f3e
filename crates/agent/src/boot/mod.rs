//! Process 1: from the kernel's first program to the image's init.
//!
//! ```text
//! devices      pseudo filesystems, modules, the port to the host       devices.rs
//! configure    the host says what this boot is                         serve
//!   layers       beside both: drives found, image and disk mounted     root.rs disk.rs
//!   warm         until handover: what the first command needs is read  root.rs
//! root         overlay of image and disk                               root.rs
//!   extend       until handover: homes, direct paths, modules, /tmp    root.rs
//! machine      names, host keys, network                               identity.rs network.rs
//! drop-ins     settings for the image's init, below /run               dropins.rs
//! person       home, keys, git identity, files                         identity.rs
//! handover     root switched, the agent forked off, the init executed  handover.rs
//! ```
//! What is indented runs in a thread of its own, ended before the agent forks.
//!
//! What can be left undone becomes a warning for the host. What cannot is told to the host, and the machine ends.

pub mod devices;
pub mod disk;
pub mod dropins;
pub mod handover;
pub mod identity;
pub mod network;
pub mod root;

use std::io::{self, Write};
use std::sync::{Arc, mpsc};
use std::thread::JoinHandle;

use wire::agent::message::{BootConfig, Configured, Failure, Reply, Stage};

use crate::ending;
use crate::serve::cgroup::Cgroups;
use crate::serve::guest::Guest;
use crate::serve::port::Port;
use crate::serve::requests::uptime_ms;
use crate::serve::{Name, Server};

/// Why a boot cannot go on.
#[derive(Debug, thiserror::Error)]
#[error("cannot {act}")]
pub struct BootError {
    /// What was being done to what.
    pub act: String,
    /// Why it failed.
    #[source]
    pub source: io::Error,
}

impl BootError {
    /// For `map_err`.
    pub fn during<E: Into<io::Error>>(act: impl Into<String>) -> impl FnOnce(E) -> BootError {
        let act = act.into();
        move |source| BootError { act, source: source.into() }
    }

    fn failure(&self) -> Failure {
        Failure::Os { act: format!("cannot {}", self.act), why: plain(&self.source) }
    }
}

/// An error in words, without its number.
#[must_use]
pub fn plain(error: &io::Error) -> String {
    let text = error.to_string();
    text.split(" (os error").next().unwrap_or_default().to_owned()
}

/// What a boot gathers on its way for the host.
#[derive(Debug, Default)]
pub struct Report {
    timeline: Vec<(String, u64)>,
    warnings: Vec<String>,
    is_unlogged: bool,
}

/// Warnings told to the host; more are a broken image's, and all alike.
const WARNINGS_MAX: usize = 50;

impl Report {
    /// One of a process outside a VM: the kernel's log is not its own.
    #[must_use]
    pub fn unlogged() -> Report {
        Report { is_unlogged: true, ..Report::default() }
    }

    /// What was gathered: the timeline, the warnings.
    #[must_use]
    pub fn into_parts(self) -> (Vec<(String, u64)>, Vec<String>) {
        (self.timeline, self.warnings)
    }

    /// A stage was reached.
    pub fn reached(&mut self, stage: &str) {
        self.timeline.push((stage.to_owned(), uptime_ms()));
    }

    /// Adds what was gathered elsewhere at the same time.
    pub fn merge(&mut self, other: Report) {
        self.timeline.extend(other.timeline);
        self.timeline.sort_by_key(|(_, at)| *at);
        self.warnings.extend(other.warnings);
        self.warnings.truncate(WARNINGS_MAX);
    }

    /// Something was left undone.
    pub fn warn(&mut self, text: impl Into<String>) {
        if self.warnings.len() < WARNINGS_MAX {
            let text: String = text.into();
            if !self.is_unlogged {
                log(&text);
            }
            self.warnings.push(text.chars().take(500).collect());
        }
    }

    /// Notes a failure that need not stop the boot.
    pub fn note<E: Into<io::Error>>(&mut self, act: &str, result: Result<(), E>) {
        if let Err(error) = result {
            self.warn(format!("cannot {act}: {}", plain(&error.into())));
        }
    }
}

/// Writes a line to the kernel's log, at a level that reaches a quiet console. Nothing can be done when that fails.
pub fn log(text: &str) {
    if let Ok(mut log) = std::fs::OpenOptions::new().write(true).open("/dev/kmsg") {
        let line: String = text.chars().map(|c| if c.is_control() { ' ' } else { c }).take(800).collect();
        let _: io::Result<()> = log.write_all(format!("<3>banger-agent: {line}\n").as_bytes());
    }
}

/// Boots. Returns only when that failed.
pub fn boot() -> BootError {
    let mut report = Report::default();
    report.reached("agent");
    if let Err(error) = devices::mount_pseudo() {
        return error;
    }
    let mut modules = devices::modules();
    let (filesystems, drives) = (std::mem::take(&mut modules.filesystems), std::mem::take(&mut modules.drives));
    let (up, transport) = mpsc::channel();
    let layers = Beside::begin("layers", move |report| root::layers(&filesystems, &drives, &transport, report));
    devices::load(&modules.transport, &mut report);
    report.reached("transport");
    // Nobody waits only where the thread could not be started, which its end tells.
    let _: Result<(), mpsc::SendError<()>> = up.send(());
    devices::mount_optional(&mut report);
    let (name, port) = match devices::channel(&modules, &mut report) {
        Ok(found) => found,
        Err(error) => return error,
    };
    let guest = Guest::new(None, BootConfig::default(), Cgroups::default());
    let mut server = Server::new(name, Stage::Unconfigured, port, guest);
    let (stream, config) = match server.await_configuration() {
        Ok(asked) => asked,
        Err(source) => return BootError { act: "talk to the host".to_owned(), source },
    };
    report.reached("configuration");
    match build(&config, &modules.others, layers, &mut report) {
        Ok(built) => {
            let configured = summary(&built, &mut report);
            server.configured(stream, *config, configured);
            // The host may go on while the root is switched.
            server.flush();
            handover::hand_over(server, built)
        }
        Err(error) => {
            server.reply_and_flush(stream, &Reply::Failed(error.failure()));
            error
        }
    }
}

/// Everything between the host's configuration and the image's init.
fn build(
    config: &BootConfig,
    modules: &[String],
    layers: Beside<Result<(root::Layers, Beside<()>), BootError>>,
    report: &mut Report,
) -> Result<handover::Built, BootError> {
    identity::set_clock_and_entropy(config, report);
    devices::load(modules, report);
    // While the layers are waited for; without systemd it is removed again.
    report.note("install the shutdown hook", ending::install_hook());
    let (layers, warm) = layers.end(report)??;
    if config.reset_system {
        disk::reset_system(&layers.disk, report)?;
    }
    let layers = Arc::new(layers);
    let ((home, home_is_kept), (standing, stands)) = (mpsc::channel(), mpsc::channel());
    let (same, meanwhile) = (Arc::clone(&layers), root::Meanwhile { home, root: stands });
    let extended = Beside::begin("extend", move |report| root::extend(&same, &meanwhile, report));
    let root = root::assemble()?;
    report.reached("root");
    let same = root.try_clone().map_err(BootError::during("share the new root"))?;
    // Nobody waits only where the thread could not be started, which its end tells.
    let _: Result<(), mpsc::SendError<_>> = standing.send(same);
    identity::apply(&root, config, report);
    if let Some(network) = &config.network {
        network::configure(network, report);
    }
    let init = handover::find_init(&root);
    dropins::write(&root, config, init.as_ref(), report);
    report.reached("drop-ins");
    let kept = home_is_kept.recv().unwrap_or_else(|gone| Err(io::Error::other(gone)));
    kept.map_err(BootError::during("copy the image's /root"))?;
    root::bind_home(&root, &layers)?;
    identity::apply_personal(&root, config, report);
    report.reached("identity");
    extended.end(report)?;
    identity::make_workdir(&root, config, report);
    warm.end(report)?;
    Ok(handover::Built { root, init })
}

/// Work in a thread of its own, with its own report.
#[derive(Debug)]
pub struct Beside<T> {
    name: &'static str,
    thread: io::Result<JoinHandle<(T, Report)>>,
}

impl<T: Send + 'static> Beside<T> {
    fn begin(name: &'static str, work: impl FnOnce(&mut Report) -> T + Send + 'static) -> Beside<T> {
        let thread = std::thread::Builder::new().name(name.to_owned()).spawn(move || {
            let mut report = Report::default();
            (work(&mut report), report)
        });
        Beside { name, thread }
    }

    /// Waits for it.
    fn end(self, report: &mut Report) -> Result<T, BootError> {
        let act = || format!("run the thread {:?} of the boot", self.name);
        let thread = self.thread.map_err(BootError::during(act()))?;
        let (done, beside) = thread.join().map_err(|_| BootError::during(act())(io::Error::other("it panicked")))?;
        report.merge(beside);
        Ok(done)
    }
}

/// What the host is told.
#[must_use]
pub fn summary(built: &handover::Built, report: &mut Report) -> Configured {
    Configured {
        init: built.init.as_ref().map(|init| init.path.clone()),
        timeline: std::mem::take(&mut report.timeline),
        warnings: std::mem::take(&mut report.warnings),
    }
}

/// The channel, named by what the kernel command line says of this VM.
pub type Found = (Name, Port);

//! The driver `sim`: a guest without a machine.
//!
//! It runs `banger-agent` itself as a process on the host, serving below a directory of the boot. Processes, sockets,
//! identity and the agent protocol are the real ones; only the machine is missing. Tests use it for breadth.

use std::path::PathBuf;
use std::time::Duration;

use async_trait::async_trait;

use super::{AgentChannel, Launch, Vmm, VmmDriver, VmmError, process};
use crate::model::machine::{MachineSpec, NicAttachment};

/// How long the agent may take to make its socket.
const UP_WITHIN: Duration = Duration::from_secs(30);

/// Runs agents.
#[derive(Debug, Clone)]
pub struct Sim {
    agent: PathBuf,
}

impl Sim {
    /// The name of this driver.
    pub const NAME: &'static str = "sim";

    /// A driver that runs the agent at `agent`.
    #[must_use]
    pub fn new(agent: PathBuf) -> Sim {
        Sim { agent }
    }
}

#[async_trait]
impl VmmDriver for Sim {
    fn name(&self) -> &'static str {
        Sim::NAME
    }

    fn plan(&self, spec: &MachineSpec, _nic: &NicAttachment) -> Result<Launch, VmmError> {
        super::check_size(Sim::NAME, spec)?;
        let launch = Launch {
            driver: Sim::NAME.to_owned(),
            argv: Vec::new(),
            boot_dir: spec.boot_dir.clone(),
            vmm_log: spec.vmm_log.clone(),
            console_log: spec.console_log.clone(),
            saved: spec.saved.clone(),
            agent: AgentChannel::Dial,
        };
        super::check_socket(Sim::NAME, &launch.agent_socket())?;
        let text = |path: PathBuf| path.to_string_lossy().into_owned();
        let argv = vec![
            text(self.agent.clone()),
            "--serve".to_owned(),
            format!("unix:{}", launch.agent_socket().display()),
            "--root".to_owned(),
            text(spec.boot_dir.join("root")),
        ];
        Ok(Launch { argv, ..launch })
    }

    async fn spawn(&self, launch: &Launch) -> Result<Box<dyn Vmm>, VmmError> {
        sys::fs::create_private_dir(&launch.boot_dir.join("root"))?;
        sys::fs::append(&launch.console_log, 0o600)?;
        let mut held = process::spawn(launch)?;
        let socket = launch.agent_socket();
        process::wait_until_up(&mut held, launch, UP_WITHIN, || std::future::ready(socket.exists())).await?;
        Ok(Box::new(held))
    }

    async fn adopt(&self, launch: &Launch) -> Result<Option<Box<dyn Vmm>>, VmmError> {
        Ok(process::adopt(launch)?.map(|held| Box::new(held) as Box<dyn Vmm>))
    }

    async fn ensure_gone(&self, launch: &Launch) -> Result<(), VmmError> {
        process::ensure_gone(launch).await
    }
}

//! Any operation, decided: what is stored as its row and what is driven.

use serde::{Deserialize, Serialize};

use super::create::CreatePlan;
use super::delete::DeletePlan;
use super::fork::ForkPlan;
use super::give_up::GiveUpPlan;
use super::image_delete::ImageDeletePlan;
use super::image_make::ImagePlan;
use super::image_promote::ImagePromotePlan;
use super::kernel_delete::KernelDeletePlan;
use super::kernel_import::KernelImportPlan;
use super::kill::KillPlan;
use super::pause::PausePlan;
use super::prepare::PreparePlan;
use super::reset::ResetPlan;
use super::restart::RestartPlan;
use super::set::SetPlan;
use super::snapshot_create::SnapshotPlan;
use super::start::StartPlan;
use super::stop::StopPlan;
use super::suspend::SuspendPlan;
use super::template_make::TemplatePlan;
use super::world::Host;
use super::{
    create, delete, fork, give_up, image_build, image_commit, image_delete, image_promote, image_pull, image_register,
    kernel_delete, kernel_import, kill,
};
use super::{pause, prepare, reset, restart, resume, set, snapshot_create, start, stop, suspend, template_make};
use crate::saga::{DriveError, Driven, Outcome, Undo, drive};
use wire::id::{BootId, VmId};

/// Any operation, decided.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(tag = "kind")]
pub enum Plan {
    /// `vm.create`
    #[serde(rename = "vm.create")]
    Create(Box<CreatePlan>),
    /// `vm.start`
    #[serde(rename = "vm.start")]
    Start(Box<StartPlan>),
    /// `vm.stop`
    #[serde(rename = "vm.stop")]
    Stop(Box<StopPlan>),
    /// `vm.restart`
    #[serde(rename = "vm.restart")]
    Restart(Box<RestartPlan>),
    /// `vm.kill`
    #[serde(rename = "vm.kill")]
    Kill(Box<KillPlan>),
    /// `vm.pause`
    #[serde(rename = "vm.pause")]
    Pause(Box<PausePlan>),
    /// `vm.resume`
    #[serde(rename = "vm.resume")]
    Resume(Box<PausePlan>),
    /// `vm.suspend`
    #[serde(rename = "vm.suspend")]
    Suspend(Box<SuspendPlan>),
    /// `vm.snapshot`
    #[serde(rename = "vm.snapshot")]
    Snapshot(Box<SnapshotPlan>),
    /// `vm.give_up`
    #[serde(rename = "vm.give_up")]
    GiveUp(Box<GiveUpPlan>),
    /// `vm.fork`
    #[serde(rename = "vm.fork")]
    Fork(Box<ForkPlan>),
    /// `vm.set`
    #[serde(rename = "vm.set")]
    Set(Box<SetPlan>),
    /// `vm.reset`
    #[serde(rename = "vm.reset")]
    Reset(Box<ResetPlan>),
    /// `vm.prepare`
    #[serde(rename = "vm.prepare")]
    Prepare(Box<PreparePlan>),
    /// `vm.delete`
    #[serde(rename = "vm.delete")]
    Delete(Box<DeletePlan>),
    /// `image.build`
    #[serde(rename = "image.build")]
    ImageBuild(Box<ImagePlan>),
    /// `image.pull`
    #[serde(rename = "image.pull")]
    ImagePull(Box<ImagePlan>),
    /// `image.commit`
    #[serde(rename = "image.commit")]
    ImageCommit(Box<ImagePlan>),
    /// `image.register`
    #[serde(rename = "image.register")]
    ImageRegister(Box<ImagePlan>),
    /// `image.promote`
    #[serde(rename = "image.promote")]
    ImagePromote(Box<ImagePromotePlan>),
    /// `image.delete`
    #[serde(rename = "image.delete")]
    ImageDelete(Box<ImageDeletePlan>),
    /// `kernel.import`
    #[serde(rename = "kernel.import")]
    KernelImport(Box<KernelImportPlan>),
    /// `kernel.delete`
    #[serde(rename = "kernel.delete")]
    KernelDelete(Box<KernelDeletePlan>),
    /// `template.make`
    #[serde(rename = "template.make")]
    TemplateMake(Box<TemplatePlan>),
}

/// Does `$act` with the saga and the plan of whatever operation `$plan` is.
macro_rules! with_saga {
    ($plan:expr, |$saga:ident, $inner:ident| $act:expr) => {
        match $plan {
            Plan::Create($inner) => {
                let $saga = if $inner.start.is_some() { create::create_started() } else { create::create() };
                $act
            }
            Plan::Start($inner) => {
                let $saga = start::start();
                $act
            }
            Plan::Stop($inner) => {
                let $saga = stop::stop();
                $act
            }
            Plan::Restart($inner) => {
                let $saga = restart::restart();
                $act
            }
            Plan::Kill($inner) => {
                let $saga = kill::kill();
                $act
            }
            Plan::Pause($inner) => {
                let $saga = pause::pause();
                $act
            }
            Plan::Resume($inner) => {
                let $saga = resume::resume();
                $act
            }
            Plan::Suspend($inner) => {
                let $saga = suspend::suspend();
                $act
            }
            Plan::Snapshot($inner) => {
                let $saga = snapshot_create::snapshot_create();
                $act
            }
            Plan::GiveUp($inner) => {
                let $saga = give_up::give_up();
                $act
            }
            Plan::Fork($inner) => {
                let $saga = fork::fork();
                $act
            }
            Plan::Set($inner) => {
                let $saga = set::set();
                $act
            }
            Plan::Reset($inner) => {
                let $saga = if $inner.restart.is_some() { reset::reset_running() } else { reset::reset() };
                $act
            }
            Plan::Prepare($inner) => {
                let $saga = prepare::prepare();
                $act
            }
            Plan::Delete($inner) => {
                let $saga = delete::delete();
                $act
            }
            Plan::ImageBuild($inner) => {
                let $saga = image_build::image_build();
                $act
            }
            Plan::ImagePull($inner) => {
                let $saga = image_pull::image_pull();
                $act
            }
            Plan::ImageCommit($inner) => {
                let $saga = image_commit::image_commit();
                $act
            }
            Plan::ImageRegister($inner) => {
                let $saga = image_register::image_register();
                $act
            }
            Plan::ImagePromote($inner) => {
                let $saga = image_promote::image_promote();
                $act
            }
            Plan::ImageDelete($inner) => {
                let $saga = image_delete::image_delete();
                $act
            }
            Plan::KernelImport($inner) => {
                let $saga = kernel_import::kernel_import();
                $act
            }
            Plan::KernelDelete($inner) => {
                let $saga = kernel_delete::kernel_delete();
                $act
            }
            Plan::TemplateMake($inner) => {
                let $saga = template_make::template_make();
                $act
            }
        }
    };
}

impl Plan {
    /// What it does: `vm.start`.
    #[must_use]
    pub fn kind(&self) -> &'static str {
        with_saga!(self, |saga, _plan| saga.name())
    }

    /// The names of its steps, in order.
    #[must_use]
    pub fn step_names(&self) -> Vec<&'static str> {
        with_saga!(self, |saga, _plan| saga.step_names())
    }

    /// Its steps and how each is taken back.
    #[must_use]
    pub fn undo_policies(&self) -> Vec<(&'static str, Undo)> {
        with_saga!(self, |saga, _plan| saga.undo_policies())
    }

    /// Takes its steps from wherever its journal stands.
    ///
    /// # Errors
    /// When the journal cannot be read or was written by other steps.
    pub async fn drive(&self, host: &Host, with: &Driven<'_>) -> Result<Outcome, DriveError> {
        with_saga!(self, |saga, plan| drive(&saga, plan.as_ref(), host, with).await)
    }

    /// The name of what it is about.
    #[must_use]
    pub fn subject(&self) -> String {
        match self {
            Plan::Create(plan) => plan.vm.name.to_string(),
            Plan::Start(plan) => plan.name.to_string(),
            Plan::Stop(plan) => plan.name.to_string(),
            Plan::Restart(plan) => plan.start.name.to_string(),
            Plan::Kill(plan) => plan.stop.name.to_string(),
            Plan::Pause(plan) | Plan::Resume(plan) => plan.name.to_string(),
            Plan::Suspend(plan) => plan.stop.name.to_string(),
            Plan::Snapshot(plan) => plan.name.to_string(),
            Plan::GiveUp(plan) => plan.name.to_string(),
            Plan::Fork(plan) => plan.name.to_string(),
            Plan::Set(plan) => plan.name.to_string(),
            Plan::Reset(plan) => plan.name.to_string(),
            Plan::Prepare(plan) => plan.name.to_string(),
            Plan::Delete(plan) => plan.name.to_string(),
            Plan::ImageBuild(plan) | Plan::ImagePull(plan) | Plan::ImageCommit(plan) | Plan::ImageRegister(plan) => {
                plan.name.clone()
            }
            Plan::ImagePromote(plan) => plan.record.name.clone(),
            Plan::ImageDelete(plan) => plan.only.clone().unwrap_or_else(|| plan.record.name.clone()),
            Plan::KernelImport(plan) => plan.subject(),
            Plan::KernelDelete(plan) => plan.record.name.clone(),
            Plan::TemplateMake(plan) => plan.key(),
        }
    }

    /// The VM it is about.
    #[must_use]
    pub fn vm(&self) -> Option<&VmId> {
        match self {
            Plan::Create(plan) => Some(&plan.vm.id),
            Plan::Start(plan) => Some(&plan.vm),
            Plan::Stop(plan) => Some(&plan.vm),
            Plan::Restart(plan) => Some(&plan.start.vm),
            Plan::Kill(plan) => Some(&plan.stop.vm),
            Plan::Pause(plan) | Plan::Resume(plan) => Some(&plan.vm),
            Plan::Suspend(plan) => Some(&plan.stop.vm),
            Plan::Snapshot(plan) => Some(&plan.save.vm),
            Plan::GiveUp(plan) => Some(&plan.vm),
            Plan::Fork(plan) => Some(&plan.save.vm),
            Plan::Set(plan) => Some(&plan.vm),
            Plan::Reset(plan) => Some(&plan.vm),
            Plan::Prepare(plan) => Some(&plan.vm),
            Plan::Delete(plan) => Some(&plan.vm),
            Plan::ImageCommit(plan) => plan.vm(),
            Plan::ImageBuild(_)
            | Plan::ImagePull(_)
            | Plan::ImageRegister(_)
            | Plan::ImagePromote(_)
            | Plan::ImageDelete(_)
            | Plan::KernelImport(_)
            | Plan::KernelDelete(_)
            | Plan::TemplateMake(_) => None,
        }
    }

    /// Why the daemon began it; none when somebody asked for it.
    #[must_use]
    pub fn reason(&self) -> Option<&str> {
        match self {
            Plan::Start(plan) => plan.reason.as_deref(),
            Plan::Stop(plan) => plan.reason.as_deref(),
            Plan::Create(_)
            | Plan::Restart(_)
            | Plan::Kill(_)
            | Plan::Pause(_)
            | Plan::Resume(_)
            | Plan::Suspend(_)
            | Plan::GiveUp(_)
            | Plan::Fork(_)
            | Plan::Snapshot(_)
            | Plan::Set(_)
            | Plan::Reset(_)
            | Plan::Prepare(_)
            | Plan::Delete(_)
            | Plan::ImageBuild(_)
            | Plan::ImagePull(_)
            | Plan::ImageCommit(_)
            | Plan::ImageRegister(_)
            | Plan::ImagePromote(_)
            | Plan::ImageDelete(_)
            | Plan::KernelImport(_)
            | Plan::KernelDelete(_)
            | Plan::TemplateMake(_) => None,
        }
    }

    /// The run of a machine that it makes and ends itself, and that is on no record.
    #[must_use]
    pub fn private_boot(&self) -> Option<&BootId> {
        match self {
            Plan::TemplateMake(plan) => Some(&plan.machine.boot),
            _ => None,
        }
    }

    /// The machine that it makes and ends itself, and that is no VM on record.
    #[must_use]
    pub fn private_vm(&self) -> Option<&VmId> {
        match self {
            Plan::TemplateMake(plan) => Some(&plan.machine.vm),
            _ => None,
        }
    }

    /// The start in it.
    #[must_use]
    pub fn starting(&self) -> Option<&StartPlan> {
        match self {
            Plan::Create(plan) => plan.start.as_ref(),
            Plan::Start(plan) => Some(plan),
            _ => None,
        }
    }

    /// The id of the image or kernel whose row it takes away before the files: until it has succeeded both may be wanted
    /// back.
    #[must_use]
    pub fn deletes(&self) -> Option<String> {
        match self {
            Plan::ImageDelete(plan) => Some(plan.record.id.to_string()),
            Plan::KernelDelete(plan) => Some(plan.record.id.to_string()),
            Plan::Create(_)
            | Plan::Start(_)
            | Plan::Stop(_)
            | Plan::Restart(_)
            | Plan::Kill(_)
            | Plan::Pause(_)
            | Plan::Resume(_)
            | Plan::Suspend(_)
            | Plan::GiveUp(_)
            | Plan::Fork(_)
            | Plan::Snapshot(_)
            | Plan::Set(_)
            | Plan::Reset(_)
            | Plan::Prepare(_)
            | Plan::Delete(_)
            | Plan::ImageBuild(_)
            | Plan::ImagePull(_)
            | Plan::ImageCommit(_)
            | Plan::ImageRegister(_)
            | Plan::ImagePromote(_)
            | Plan::KernelImport(_)
            | Plan::TemplateMake(_) => None,
        }
    }

    /// What no other open operation may hold.
    #[must_use]
    pub fn holds(&self) -> String {
        match self.vm() {
            Some(vm) => vm.to_string(),
            None => {
                let noun = self.kind().split('.').next().unwrap_or_default();
                format!("{noun}:{}", self.subject())
            }
        }
    }

    /// Whether it makes room on the disk or needs none; the others are refused on a full one.
    #[must_use]
    pub fn makes_room(&self) -> bool {
        match self {
            Plan::Stop(_)
            | Plan::GiveUp(_)
            | Plan::Kill(_)
            | Plan::Pause(_)
            | Plan::Resume(_)
            | Plan::Delete(_)
            | Plan::ImageDelete(_)
            | Plan::KernelDelete(_) => true,
            Plan::Create(_)
            | Plan::Start(_)
            | Plan::Restart(_)
            | Plan::Reset(_)
            | Plan::Suspend(_)
            | Plan::Fork(_)
            | Plan::Snapshot(_)
            | Plan::Set(_)
            | Plan::Prepare(_)
            | Plan::ImageBuild(_)
            | Plan::ImagePull(_)
            | Plan::ImageCommit(_)
            | Plan::ImageRegister(_)
            | Plan::ImagePromote(_)
            | Plan::KernelImport(_)
            | Plan::TemplateMake(_) => false,
        }
    }

    /// What it does, for sentences: `start web`.
    #[must_use]
    pub fn act(&self) -> String {
        let subject = self.subject();
        match self {
            Plan::Create(_) => format!("create {subject}"),
            Plan::Start(_) => format!("start {subject}"),
            Plan::Stop(_) => format!("stop {subject}"),
            Plan::Restart(_) => format!("restart {subject}"),
            Plan::Kill(_) => format!("kill {subject}"),
            Plan::Pause(_) => format!("pause {subject}"),
            Plan::Resume(_) => format!("resume {subject}"),
            Plan::Suspend(_) => format!("suspend {subject}"),
            Plan::Snapshot(_) => format!("take a snapshot of {subject}"),
            Plan::GiveUp(_) => format!("give up the memory of {subject}"),
            Plan::Fork(_) => format!("fork {subject}"),
            Plan::Set(_) => format!("change {subject}"),
            Plan::Reset(_) => format!("reset {subject}"),
            Plan::Prepare(_) => format!("prepare the workspace of {subject}"),
            Plan::Delete(_) => format!("delete {subject}"),
            Plan::ImageBuild(_) => format!("build image {subject}"),
            Plan::ImagePull(_) => format!("pull image {subject}"),
            Plan::ImageCommit(_) => format!("make image {subject} of a VM"),
            Plan::ImageRegister(_) => format!("register image {subject}"),
            Plan::ImagePromote(_) => format!("promote image {subject}"),
            Plan::ImageDelete(_) => format!("delete image {subject}"),
            Plan::KernelImport(_) => format!("import kernel {subject}"),
            Plan::KernelDelete(_) => format!("delete kernel {subject}"),
            Plan::TemplateMake(_) => format!("make template {subject}"),
        }
    }
}

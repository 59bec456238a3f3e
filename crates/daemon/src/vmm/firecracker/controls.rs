//! Power over a Firecracker that runs, through its API.

use std::path::Path;

use async_trait::async_trait;
use serde_json::json;

use super::api::{self, ApiError};
use super::{Firecracker, api_socket, jail, jail_of};
use crate::model::machine::DriveRole;
use crate::vmm::{Controls, Launch, VmmError};

pub(super) fn failed(act: &'static str) -> impl FnOnce(ApiError) -> VmmError {
    move |error| VmmError::Control { act, why: error.to_string() }
}

async fn ask_state(launch: &Launch, state: &str, act: &'static str) -> Result<(), VmmError> {
    let asked = api::patch(&api_socket(&launch.boot_dir), "/vm", &json!({"state": state})).await;
    asked.map_err(failed(act))
}

pub(super) async fn pause(launch: &Launch) -> Result<(), VmmError> {
    ask_state(launch, "Paused", "stop the machine's processors").await
}

pub(super) async fn resume(launch: &Launch) -> Result<(), VmmError> {
    ask_state(launch, "Resumed", "let the machine's processors run again").await
}

/// Grows the machine's disk, which is `disk` on the host and `at` in the jail.
pub(super) async fn grow_disk(launch: &Launch, disk: Option<&Path>, at: &str, bytes: u64) -> Result<(), VmmError> {
    const ACT: &str = "grow the machine's disk";
    let disk = disk.ok_or_else(|| VmmError::Control { act: ACT, why: "the machine has none".to_owned() })?;
    if std::fs::metadata(disk).is_ok_and(|meta| meta.len() < bytes) {
        sys::fs::set_len(disk, bytes)?;
    }
    // Told of the same file again, Firecracker looks how large it is, and tells the guest.
    let id = DriveRole::Disk.serial();
    let body = json!({"drive_id": id, "path_on_host": at});
    api::patch(&api_socket(&launch.boot_dir), &format!("/drives/{id}"), &body).await.map_err(failed(ACT))
}

#[async_trait]
impl Controls for Firecracker {
    async fn pause(&self, launch: &Launch) -> Result<(), VmmError> {
        pause(launch).await
    }

    async fn resume(&self, launch: &Launch) -> Result<(), VmmError> {
        resume(launch).await
    }

    async fn grow_disk(&self, launch: &Launch, bytes: u64) -> Result<(), VmmError> {
        let (jail, at) = (jail_of(launch), jail::drive(DriveRole::Disk));
        grow_disk(launch, jail.as_ref().and_then(|jail| jail.shown(&at)), &at, bytes).await
    }
}

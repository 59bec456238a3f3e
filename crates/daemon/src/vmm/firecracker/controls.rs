//! Power over a Firecracker that runs, through its API.

use async_trait::async_trait;
use serde_json::json;

use super::api::{self, ApiError};
use super::{Firecracker, api_socket, jail, jail_of};
use crate::model::machine::DriveRole;
use crate::vmm::{Controls, Launch, VmmError};

fn failed(act: &'static str) -> impl FnOnce(ApiError) -> VmmError {
    move |error| VmmError::Control { act, why: error.to_string() }
}

#[async_trait]
impl Controls for Firecracker {
    async fn pause(&self, launch: &Launch) -> Result<(), VmmError> {
        let asked = api::patch(&api_socket(&launch.boot_dir), "/vm", &json!({"state": "Paused"})).await;
        asked.map_err(failed("stop the machine's processors"))
    }

    async fn resume(&self, launch: &Launch) -> Result<(), VmmError> {
        let asked = api::patch(&api_socket(&launch.boot_dir), "/vm", &json!({"state": "Resumed"})).await;
        asked.map_err(failed("let the machine's processors run again"))
    }

    async fn grow_disk(&self, launch: &Launch, bytes: u64) -> Result<(), VmmError> {
        const ACT: &str = "grow the machine's disk";
        let path = jail::drive(DriveRole::Disk);
        let disk = jail_of(launch).and_then(|jail| jail.files.into_iter().find(|shown| shown.at == path));
        let disk = disk.ok_or_else(|| VmmError::Control { act: ACT, why: "the machine has none".to_owned() })?;
        if std::fs::metadata(&disk.path).is_ok_and(|meta| meta.len() < bytes) {
            sys::fs::set_len(&disk.path, bytes)?;
        }
        // Told of the same file again, Firecracker looks how large it is, and tells the guest.
        let id = DriveRole::Disk.serial();
        let body = json!({"drive_id": id, "path_on_host": path});
        api::patch(&api_socket(&launch.boot_dir), &format!("/drives/{id}"), &body).await.map_err(failed(ACT))
    }
}

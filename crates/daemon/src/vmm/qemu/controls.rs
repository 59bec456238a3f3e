//! Power over a QEMU that runs, through its own protocol.

use async_trait::async_trait;
use serde_json::json;

use super::{Qemu, qmp};
use crate::model::machine::DriveRole;
use crate::vmm::{Controls, Launch, VmmError, qmp_socket};

async fn tell(launch: &Launch, act: &'static str, command: &serde_json::Value) -> Result<(), VmmError> {
    let told = qmp::execute(&qmp_socket(&launch.boot_dir), command).await;
    told.map_err(|why| VmmError::Control { act, why })
}

#[async_trait]
impl Controls for Qemu {
    async fn pause(&self, launch: &Launch) -> Result<(), VmmError> {
        tell(launch, "stop the machine's processors", &json!({"execute": "stop"})).await
    }

    async fn resume(&self, launch: &Launch) -> Result<(), VmmError> {
        tell(launch, "let the machine's processors run again", &json!({"execute": "cont"})).await
    }

    async fn grow_disk(&self, launch: &Launch, bytes: u64) -> Result<(), VmmError> {
        let arguments = json!({"device": DriveRole::Disk.serial(), "size": bytes});
        tell(launch, "grow the machine's disk", &json!({"execute": "block_resize", "arguments": arguments})).await
    }
}

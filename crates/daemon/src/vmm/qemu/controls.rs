//! Power over a QEMU that runs, through its own protocol.

use async_trait::async_trait;
use serde_json::json;

use super::{Qemu, qmp};
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
}

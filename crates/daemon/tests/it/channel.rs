//! The channel to a guest breaks while it is started.

use std::sync::atomic::Ordering;

use daemon::guest::secret::Secret;
use wire::api::{ErrorCode, OperationState, VmState};

use crate::fake::guest::Behaviour;
use crate::fake::{Daemon, World};
use crate::slate::assert_clean_slate;

#[tokio::test]
async fn a_guest_whose_channel_breaks_while_it_is_configured_is_asked_again() {
    let world = World::new();
    let daemon = Daemon::start(&world, "").await.with_artifacts().await;
    world.behave(Behaviour::LosesChannel);
    let created = daemon.create("web", true).await;
    assert_eq!(created.state, OperationState::Succeeded, "{created:?}");
    assert_eq!(daemon.state("web").await, VmState::Running);
    assert_eq!(world.only().asked.load(Ordering::SeqCst), 3, "unheard, unanswered, answered");
    let vm = daemon.host.store.find_vm("web").await.unwrap();
    let boot = daemon.host.store.last_boot(&vm.id).await.unwrap().unwrap();
    assert_eq!(boot.init.as_deref(), Some("/sbin/init"), "what it found is known all the same");
    assert_eq!(boot.warnings, ["no /etc/ssh in the image"]);
    let deleted = daemon.ended(daemon.engine.delete("web").await.unwrap()).await;
    assert_eq!(deleted.state, OperationState::Succeeded, "{deleted:?}");
    assert_clean_slate(&daemon).await;
}

#[tokio::test]
async fn every_boot_has_a_secret_that_its_guest_and_its_daemons_know() {
    let world = World::new();
    let daemon = Daemon::start(&world, "").await.with_artifacts().await;
    let told = || world.only().config.lock().unwrap().clone().unwrap().channel_secret.unwrap();
    let mut secrets = Vec::new();
    for _ in 0..2 {
        let begun = if secrets.is_empty() {
            daemon.create("web", true).await
        } else {
            daemon.ended(daemon.engine.restart("web", None).await.unwrap()).await
        };
        assert_eq!(begun.state, OperationState::Succeeded, "{begun:?}");
        let vm = daemon.host.store.find_vm("web").await.unwrap();
        let boot = daemon.host.store.last_boot(&vm.id).await.unwrap().unwrap();
        let kept = Secret::kept(&wire::naming::boot_dir(&daemon.host.dirs.run, &boot.id)).unwrap().unwrap();
        assert_eq!(kept.text(), told());
        secrets.push(told());
    }
    assert_ne!(secrets[0], secrets[1]);
    let deleted = daemon.ended(daemon.engine.delete("web").await.unwrap()).await;
    assert_eq!(deleted.state, OperationState::Succeeded, "{deleted:?}");
    assert_clean_slate(&daemon).await;
}

#[tokio::test]
async fn a_machine_that_ends_while_it_is_configured_is_told_from_a_channel_that_breaks() {
    let world = World::new();
    let daemon = Daemon::start(&world, "").await.with_artifacts().await;
    world.behave(Behaviour::DiesConfigured);
    let created = daemon.create("web", true).await;
    let error = created.error.unwrap();
    assert_eq!(error.code, ErrorCode::OperationFailed);
    assert!(error.message.contains("the VM ended before its guest answered"), "{}", error.message);
    assert_clean_slate(&daemon).await;
}

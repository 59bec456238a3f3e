//! The relay of a command whose guest says nothing.

use std::time::Duration;

use tokio::io::duplex;
use wire::agent::message::{ExecRequest, ExitStatus, Reply};

use super::*;
use crate::guest::tests::{Peer, pair};

const STUCK: GuestError = GuestError::Stuck { waited: Duration::from_secs(60) };

async fn exec() -> (ExecStream, Peer) {
    let (guest, mut peer) = pair().await;
    let stream = guest.exec(ExecRequest { argv: vec!["true".into()], ..ExecRequest::default() }).await.unwrap();
    peer.next().await;
    (stream, peer)
}

#[tokio::test]
async fn a_command_that_never_begins_is_given_up_with_the_reason() {
    let (stream, _peer) = exec().await;
    let (client, mut server) = duplex(1 << 16);
    let (_grant, granted) = mpsc::channel(1);
    let ended = output(&mut server, &stream, granted, std::future::ready(Err(STUCK))).await.unwrap();
    let Ended::Failed { error } = ended else { panic!("{ended:?}") };
    assert!(error.message.contains("stands still"), "{error:?}");
    drop(client);
}

#[tokio::test]
async fn a_command_that_began_is_waited_for() {
    let (stream, mut peer) = exec().await;
    let (client, mut server) = duplex(1 << 16);
    let (_grant, granted) = mpsc::channel(1);
    let script = async {
        peer.reply(1, &Reply::Started { pid: 42 }).await;
        peer.reply(1, &Reply::Exited(ExitStatus::Code { code: 3 })).await;
    };
    let (ended, ()) = tokio::join!(output(&mut server, &stream, granted, stream.started()), script);
    assert!(matches!(ended.unwrap(), Ended::Exited { status: ExitStatus::Code { code: 3 } }));
    drop(client);
}

#[tokio::test]
async fn what_does_not_run_says_why_by_its_end() {
    let (stream, mut peer) = exec().await;
    let (client, mut server) = duplex(1 << 16);
    let (_grant, granted) = mpsc::channel(1);
    let script = async { peer.reply(1, &Reply::Failed(wire::agent::message::Failure::Unsupported)).await };
    let (ended, ()) = tokio::join!(output(&mut server, &stream, granted, stream.started()), script);
    let ended = ended.unwrap();
    let Ended::Failed { error } = ended else { panic!("{ended:?}") };
    assert!(!error.message.contains("stands still"), "{error:?}");
    drop(client);
}

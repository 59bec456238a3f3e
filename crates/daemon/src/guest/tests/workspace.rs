//! Workspaces: what the client says and takes.

use wire::agent::workspace::{Added, Difference, FileMode, Found, How, Settled, State, Surveyable, Surveyed};

use super::*;

/// Takes a stream's input to its end, granting what comes.
async fn input(peer: &mut Peer, stream: u32) -> Vec<u8> {
    let mut all = Vec::new();
    loop {
        let frame = peer.next().await;
        assert_eq!(frame.head.stream, stream);
        match frame.head.kind {
            Kind::Data => {
                all.extend_from_slice(&frame.payload);
                let bytes = u32::try_from(frame.payload.len()).unwrap().to_le_bytes();
                peer.send(Kind::Credit, Channel::Input, stream, &bytes).await;
            }
            Kind::Eof => return all,
            other => panic!("{other:?}"),
        }
    }
}

fn settled(path: String) -> Settled {
    Settled { how: How::Sent, state: State::Clean, hash: [1; 32], path: path.into_bytes() }
}

#[tokio::test]
async fn lists_go_in_whole_whatever_their_length() {
    let (guest, mut peer) = pair().await;
    for count in [0, 1, 20_000] {
        let names: Vec<Vec<u8>> = (0..count).map(|number| format!("some/file {number:0>9}").into_bytes()).collect();
        let records: Vec<Settled> = (0..count).map(|number| settled(format!("some/file {number}"))).collect();
        let scripted = async {
            let open = peer.next().await;
            let stream = open.head.stream;
            assert_eq!(open.payload, br#"{"request":"remove","path":"/r"}"#);
            let list = input(&mut peer, stream).await;
            peer.reply(stream, &Reply::Done { bytes: 7 }).await;
            let stream = peer.next().await.head.stream;
            let told = input(&mut peer, stream).await;
            peer.reply(stream, &Reply::Done { bytes: 0 }).await;
            (list, told)
        };
        let asked = async {
            assert_eq!(guest.remove("/r", &names.iter().rev().cloned().collect::<Vec<_>>()).await.unwrap(), 7);
            guest.settle("/r", &records).await.unwrap();
        };
        let ((list, told), ()) = tokio::join!(scripted, asked);
        let expected: Vec<u8> = names.iter().flat_map(|name| [name, &b"\0"[..]].concat()).collect();
        assert!(list == expected, "{count}");
        let (last, told) = told.split_last().unwrap();
        let told: Vec<_> = told.split_inclusive(|byte| *byte == 0).map(|r| Settled::parse(&r[..r.len() - 1])).collect();
        assert_eq!((*last, told.len()), (0, count));
        assert!(told.into_iter().map(Result::unwrap).eq(records));
    }
}

#[tokio::test]
async fn a_survey_is_taken_and_nonsense_is_not() {
    let (guest, mut peer) = pair().await;
    let surveyed = Surveyed { found: Found::Workspace, index_changed: true };
    let record =
        Surveyable { path: b"a".to_vec(), difference: Difference::Modified, mode: FileMode::Link, hash: [4; 32] };
    let mut bytes = Vec::new();
    record.write(&mut bytes);
    for (sent, is_right) in [(&bytes[..], true), (&bytes[..5], false), (b"../x\0", false)] {
        let scripted = async {
            let open = peer.next().await;
            let stream = open.head.stream;
            peer.data(stream, sent).await;
            peer.reply(stream, &Reply::Surveyed(surveyed.clone())).await;
        };
        let (told, ()) = tokio::join!(guest.survey("/r", Added::Not), scripted);
        if is_right {
            assert_eq!(told.unwrap(), (surveyed.clone(), vec![record.clone()]));
        } else {
            assert!(matches!(told, Err(GuestError::Unexpected { .. })), "{told:?}");
        }
    }
}

#[tokio::test]
async fn files_come_out_when_their_names_have_gone_in() {
    let (guest, mut peer) = pair().await;
    let names: Vec<Vec<u8>> =
        (0..10_000).map(|number| format!("a file with a name {number:0>40}").into_bytes()).collect();
    let scripted = async {
        let stream = peer.next().await.head.stream;
        let list = input(&mut peer, stream).await;
        peer.data(stream, &[5; 1000]).await;
        peer.reply(stream, &Reply::Done { bytes: 1000 }).await;
        list.len()
    };
    let asked = async {
        let tree = guest.get_files("/r", &names).await.unwrap();
        let mut bytes = 0;
        while let Some(more) = tree.read().await.unwrap() {
            bytes += more.len();
        }
        (bytes, tree.done().await.unwrap())
    };
    let (list, (bytes, done)) = tokio::join!(scripted, asked);
    assert_eq!((list, bytes, done), (names.iter().map(|name| name.len() + 1).sum(), 1000, 1000));
}

#[tokio::test]
async fn an_agent_that_is_older_says_so() {
    let (guest, mut peer) = pair().await;
    let names = vec![vec![b'x'; 4000]; 1000];
    let records: Vec<Settled> = (0..10_000).map(|number| settled(number.to_string())).collect();
    let scripted = async {
        let mut refused = 0;
        while refused < 4 {
            let frame = peer.next().await;
            if frame.head.kind == Kind::Open {
                peer.reply(frame.head.stream, &Reply::Failed(Failure::Unsupported)).await;
                refused += 1;
            }
        }
    };
    let asked = async {
        let removed = guest.remove("/r", &names.iter().rev().cloned().collect::<Vec<_>>()).await.map(drop);
        let settled = guest.settle("/r", &records).await;
        let surveyed = guest.survey("/r", Added::Hashed).await.map(drop);
        let got = match guest.get_files("/r", &names).await {
            Ok(tree) => tree.done().await.map(drop),
            Err(error) => Err(error),
        };
        [removed, settled, surveyed, got]
    };
    let ((), all) = tokio::join!(scripted, asked);
    for refused in all {
        let error = refused.unwrap_err();
        assert!(matches!(error, GuestError::Failed(Failure::Unsupported)), "{error:?}");
        assert_eq!(error.to_string(), "the guest agent does not know this request");
    }
}

//! What was sent of a workspace, and what became of it. What is compared and filled in is tested beside the code; this is
//! the wiring.

use std::fs;
use std::time::{Duration, SystemTime};

use wire::agent::WINDOW_BYTES;
use wire::agent::frame::{Channel, Kind};
use wire::agent::message::{Failure, Reply, Request};
use wire::agent::workspace::{Added, Difference, FileMode, Found, How, SENDING, Settled, State, Surveyable, Surveyed};

use crate::host::{Agent, Host, Outcome, until};

const REPO: &str = "/root/repo";
/// How many files are in it.
const COUNT: u64 = 900;
/// What is said to have been sent: it shows where a file is read although nothing changed it.
const UNREAD: [u8; 32] = [3; 32];

fn say(host: &mut Host, request: &Request, input: &[u8]) -> Outcome {
    let stream = host.begin(request);
    let mut out = Vec::new();
    let outcome = host.pump(stream, &mut &*input, &mut |bytes| out.extend_from_slice(bytes));
    Outcome { out, ..outcome }
}

fn done(host: &mut Host, request: &Request, input: &[u8]) -> u64 {
    match say(host, request, input).reply.unwrap() {
        Reply::Done { bytes } => bytes,
        other => panic!("{other:?}"),
    }
}

fn survey(host: &mut Host) -> (Surveyed, Vec<Surveyable>) {
    let stream = host.begin(&Request::Survey { path: REPO.into(), added: Added::Hashed });
    let outcome = host.finish(stream);
    let Some(Reply::Surveyed(surveyed)) = outcome.reply else { panic!("{:?}", outcome.reply) };
    let records = outcome.out.split_inclusive(|byte| *byte == 0);
    let parse = |record: &[u8]| Surveyable::parse(record.strip_suffix(b"\0").unwrap()).unwrap();
    (surveyed, records.map(parse).collect())
}

fn records(names: &[Vec<u8>]) -> Vec<u8> {
    let mut list = Vec::new();
    for path in names {
        Settled { how: How::Sent, state: State::Untracked, hash: UNREAD, path: path.clone() }.write(&mut list);
    }
    list
}

fn zeroed(names: &[Vec<u8>]) -> Vec<u8> {
    names.iter().flat_map(|name| [name, &b"\0"[..]].concat()).collect()
}

/// Files of a workspace, last changed long ago, with names that together are much more than a window.
fn files(agent: &Agent) -> Vec<Vec<u8>> {
    let directory = format!("{}/{}", "d".repeat(250), "e".repeat(250));
    let names: Vec<String> = (0..COUNT).map(|number| format!("{directory}/{number:0>250}")).collect();
    for name in &names {
        let path = agent.root().join("root/repo").join(name);
        fs::create_dir_all(path.parent().unwrap()).unwrap();
        fs::write(&path, name).unwrap();
        let then = SystemTime::now() - Duration::from_secs(5000);
        fs::File::options().write(true).open(path).unwrap().set_modified(then).unwrap();
    }
    assert!(names.iter().map(String::len).sum::<usize>() > 2 * WINDOW_BYTES as usize);
    names.into_iter().map(String::into_bytes).collect()
}

#[test]
fn a_workspace_from_the_first_file_to_the_last() {
    let agent = Agent::start();
    let mut host = agent.host();
    assert_eq!(survey(&mut host), (Surveyed { found: Found::Nothing, index_changed: false }, vec![]));
    let names = files(&agent);
    assert_eq!(survey(&mut host).0.found, Found::Foreign);
    let path = || REPO.to_owned();
    let list = [records(&names), vec![0]].concat();
    assert_eq!(done(&mut host, &Request::Settle { path: path() }, &list), 0, "there is no index");
    assert_eq!(survey(&mut host), (Surveyed { found: Found::Workspace, index_changed: false }, vec![]));

    fs::write(agent.root().join("root/repo").join(std::str::from_utf8(&names[7]).unwrap()), "other").unwrap();
    fs::write(agent.root().join("root/repo/new"), "new").unwrap();
    let (_, told) = survey(&mut host);
    let told: Vec<_> = told.into_iter().map(|told| (told.path, told.difference, told.mode)).collect();
    let expected = [
        (names[7].clone(), Difference::Modified, FileMode::Plain),
        (b"new".to_vec(), Difference::Added, FileMode::Plain),
    ];
    assert_eq!(told, expected);

    // Both ways more than a window.
    let wanted = [zeroed(&names), b"none\0none/x\0".to_vec()].concat();
    let outcome = say(&mut host, &Request::GetFiles { path: path() }, &wanted);
    let bytes: usize = names.iter().map(Vec::len).sum::<usize>() - names[7].len() + 5;
    assert_eq!(outcome.reply, Some(Reply::Done { bytes: bytes as u64 }));
    let to = tempfile::tempdir().unwrap();
    let top = fs::File::open(to.path()).unwrap().into();
    let policy = tree::unpack::Policy::inside(false);
    assert_eq!(tree::unpack::unpack(top, policy, outcome.out.as_slice()).unwrap().bytes, bytes as u64);
    for name in &names {
        let name = std::str::from_utf8(name).unwrap();
        let [got, there] = [to.path(), &agent.root().join("root/repo")].map(|top| fs::read(top.join(name)).unwrap());
        assert_eq!(got, there, "{name}");
    }

    assert_eq!(done(&mut host, &Request::Remove { path: path() }, &wanted), COUNT);
    let mut left: Vec<_> =
        fs::read_dir(agent.root().join("root/repo")).unwrap().map(|e| e.unwrap().file_name()).collect();
    left.sort();
    assert_eq!(left, [".git", "new"]);
}

#[test]
fn what_is_given_up_settles_nothing() {
    let agent = Agent::start();
    let mut host = agent.host();
    let names = files(&agent);
    let sending = agent.root().join("root/repo").join(SENDING);
    fs::create_dir_all(sending.parent().unwrap()).unwrap();
    fs::write(&sending, "").unwrap();
    let stream = host.begin(&Request::Settle { path: REPO.into() });
    // It ends between two records: all that was sent is well formed.
    host.send(Kind::Data, Channel::Input, stream, &records(&names[..50]));
    until("it runs", || (!agent.children().is_empty()).then_some(()));
    host.reset(stream);
    until("it is gone", || agent.children().is_empty().then_some(()));
    assert!(sending.exists() && !sending.with_file_name("sent").exists());
    assert_eq!(survey(&mut host).0.found, Found::Unfinished);
    // Who wants files and goes has none packed.
    let stream = host.begin(&Request::GetFiles { path: REPO.into() });
    host.send(Kind::Data, Channel::Input, stream, &zeroed(&names[..50]));
    until("it runs", || (!agent.children().is_empty()).then_some(()));
    host.reset(stream);
    until("it is gone", || agent.children().is_empty().then_some(()));
}

#[test]
fn what_makes_no_sense_is_refused() {
    let agent = Agent::start();
    let mut host = agent.host();
    let names = files(&agent);
    let path = || REPO.to_owned();
    let long = vec![b'x'; 1 << 20];
    let upwards = [zeroed(&names), b"../x\0".to_vec()].concat();
    for request in
        [Request::Remove { path: path() }, Request::Settle { path: path() }, Request::GetFiles { path: path() }]
    {
        for input in [&long, &upwards] {
            let outcome = say(&mut host, &request, input);
            assert!(matches!(outcome.reply, Some(Reply::Failed(_))), "{request:?}: {:?}", outcome.reply);
        }
    }
    for request in [Request::Settle { path: "/none".into() }, Request::GetFiles { path: "/none".into() }] {
        let reply = say(&mut host, &request, b"").reply.unwrap();
        assert!(matches!(&reply, Reply::Failed(Failure::Os { act, .. }) if act.contains("/none")), "{reply:?}");
    }
    assert_eq!(done(&mut host, &Request::Remove { path: "/none".into() }, b"a\0"), 0);
    for path in ["relative", "/a/../b"] {
        let reply = host.ask(&Request::Survey { path: path.into(), added: Added::Not });
        assert!(matches!(reply, Reply::Failed(Failure::Refused { .. })), "{reply:?}");
    }
}

//! Tar streams in and out. What survives a round trip is tested beside the code; this is the wiring.

use std::os::unix::fs::{MetadataExt, PermissionsExt, symlink};

use wire::agent::frame::{Channel, Kind};
use wire::agent::message::{Failure, FileKind, FileStat, Reply, Request};

use crate::host::{Agent, Host, until};

fn get(host: &mut Host, path: &str) -> (Vec<u8>, Reply) {
    let stream = host.begin(&Request::GetTree { path: path.into(), follow: false });
    let outcome = host.finish(stream);
    (outcome.out, outcome.reply.unwrap())
}

fn put(host: &mut Host, path: &str, tar: &[u8]) -> Reply {
    let stream = host.begin(&Request::PutTree { path: path.into() });
    host.pump(stream, &mut &*tar, &mut |_| {}).reply.unwrap()
}

#[test]
fn a_tree_goes_out_and_in_again() {
    let agent = Agent::start();
    let mut host = agent.host();
    let root = agent.root();
    std::fs::create_dir_all(root.join("a/tree/sub")).unwrap();
    std::fs::write(root.join("a/tree/file"), vec![7; 3 << 20]).unwrap();
    std::fs::set_permissions(root.join("a/tree/file"), std::fs::Permissions::from_mode(0o4755)).unwrap();
    symlink("/etc/passwd", root.join("a/tree/sub/link")).unwrap();
    let (tar, reply) = get(&mut host, "/a/tree");
    assert_eq!(reply, Reply::Done { bytes: 3 << 20 });
    assert_eq!(put(&mut host, "/made/here", &tar), Reply::Done { bytes: 3 << 20 });
    let got = std::fs::metadata(root.join("made/here/tree/file")).unwrap();
    assert_eq!((got.len(), got.mode() & 0o7777), (3 << 20, 0o4755));
    assert!(std::fs::symlink_metadata(root.join("made/here/tree/sub/link")).unwrap().is_symlink());
    // Once more over what is there, and a single file.
    assert_eq!(put(&mut host, "/made/here", &tar), Reply::Done { bytes: 3 << 20 });
    assert_eq!(get(&mut host, "/a/tree/file").1, Reply::Done { bytes: 3 << 20 });
}

#[test]
fn what_cannot_be_transferred_is_named() {
    let agent = Agent::start();
    let mut host = agent.host();
    assert!(matches!(get(&mut host, "/none").1, Reply::Failed(Failure::Os { act, .. }) if act.contains("none")));
    assert!(matches!(get(&mut host, "none").1, Reply::Failed(Failure::Refused { .. })));
    assert!(matches!(put(&mut host, "/x/../y", &[]), Reply::Failed(Failure::Refused { .. })));
    assert!(matches!(put(&mut host, "/x", &[1; 4096]), Reply::Failed(Failure::Os { .. })));
    std::fs::write(agent.root().join("file"), b"").unwrap();
    assert!(matches!(put(&mut host, "/file", &[0; 1024]), Reply::Failed(Failure::Os { .. })));
    let long = vec![9; 1 << 20];
    assert!(matches!(put(&mut host, "/x", &long), Reply::Failed(Failure::Os { .. })), "the rest is not waited for");
}

#[test]
fn a_reset_ends_a_transfer() {
    let agent = Agent::start();
    let mut host = agent.host();
    let directory = agent.root().join("x");
    std::fs::create_dir(&directory).unwrap();
    std::fs::write(directory.join("file"), vec![7; 100_000]).unwrap();
    let (tar, _) = get(&mut host, "/x/file");
    std::fs::write(directory.join("file"), "old").unwrap();
    let stream = host.begin(&Request::PutTree { path: "/x".into() });
    host.send(Kind::Data, Channel::Input, stream, &tar[..30_000]);
    until("it runs", || (!agent.children().is_empty()).then_some(()));
    host.reset(stream);
    until("it is gone", || agent.children().is_empty().then_some(()));
    assert_eq!(std::fs::read(directory.join("file")).unwrap(), b"old", "a part of a file takes nobody's place");
    assert_eq!(std::fs::read_dir(&directory).unwrap().count(), 1, "and leaves nothing beside it");
}

#[test]
fn a_reset_leaves_directories_as_they_were_to_be() {
    let agent = Agent::start();
    let mut host = agent.host();
    let from = agent.root().join("from");
    std::fs::create_dir_all(from.join("sub")).unwrap();
    std::fs::write(from.join("sub/file"), vec![7; 100_000]).unwrap();
    for (path, mode) in [("", 0o755), ("sub", 0o2751)] {
        std::fs::set_permissions(from.join(path), std::fs::Permissions::from_mode(mode)).unwrap();
    }
    let (tar, _) = get(&mut host, "/from");
    let stream = host.begin(&Request::PutTree { path: "/to".into() });
    host.send(Kind::Data, Channel::Input, stream, &tar[..30_000]);
    until("it fills", || agent.root().join("to/from/sub").exists().then_some(()));
    host.reset(stream);
    until("it is gone", || agent.children().is_empty().then_some(()));
    for (path, mode) in [("", 0o755), ("sub", 0o2751)] {
        let there = std::fs::metadata(agent.root().join("to/from").join(path)).unwrap();
        assert_eq!(there.mode() & 0o7777, mode, "{path:?}");
    }
    assert_eq!(std::fs::read_dir(agent.root().join("to/from/sub")).unwrap().count(), 0, "no part of a file");
}

#[test]
fn what_is_at_a_path_is_told_without_leaving_the_root() {
    let agent = Agent::start();
    let mut host = agent.host();
    let root = agent.root();
    std::fs::create_dir(root.join("dir")).unwrap();
    std::fs::write(root.join("dir/file"), "12345").unwrap();
    symlink("/dir/file", root.join("link")).unwrap();
    symlink("../../../..", root.join("dir/up")).unwrap();
    symlink("/nowhere", root.join("dangling")).unwrap();
    let mut look = |path: &str, follow| {
        let stream = host.begin(&Request::Stat { path: path.into(), follow });
        host.finish(stream).reply.unwrap()
    };
    for (path, follow, kind, bytes, real) in [
        ("/", false, FileKind::Directory, 0, Some("/")),
        ("/dir/", false, FileKind::Directory, 0, Some("/dir")),
        ("/dir/file", false, FileKind::File, 5, Some("/dir/file")),
        ("/link", false, FileKind::Symlink, 0, Some("/link")),
        ("/link", true, FileKind::File, 5, Some("/dir/file")),
        ("/dir/up/dir/file", false, FileKind::File, 5, Some("/dir/file")),
        ("/dangling", true, FileKind::Missing, 0, None),
        ("/dangling", false, FileKind::Symlink, 0, Some("/dangling")),
        ("/none/x", false, FileKind::Missing, 0, None),
        ("/dir/file/x", false, FileKind::Missing, 0, None),
    ] {
        let told = Reply::Stat(FileStat { kind, bytes, path: real.map(str::to_owned) });
        assert_eq!(look(path, follow), told, "{path} {follow}");
    }
    assert!(matches!(look("relative", false), Reply::Failed(Failure::Refused { .. })));
    assert!(matches!(look("/a/../b", false), Reply::Failed(Failure::Refused { .. })));
}

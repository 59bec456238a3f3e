//! Streams by somebody who means harm, and directories that somebody else changes meanwhile.

use std::fs;
use std::io::{self, Read};
use std::os::unix::fs::{MetadataExt, PermissionsExt, symlink};
use std::path::Path;

use proptest::prelude::*;
use rustix::fs::FileType;

use super::open;
use crate::arrival::Arrival;
use crate::dress::{Opened, Wardrobe, Xattrs, umask};
use crate::reader::Reader;
use crate::unpack::{Policy, Unpacked, unpack};
use crate::{TreeError, pax};

#[test]
fn no_name_and_no_link_leads_out() {
    let outside = tempfile::tempdir().unwrap();
    let hostile = |name: &str, link: Option<&Path>, through: &str| {
        let to = tempfile::tempdir().unwrap();
        let mut builder = tar::Builder::new(Vec::new());
        if let Some(target) = link {
            let mut header = tar::Header::new_gnu();
            header.set_entry_type(tar::EntryType::Symlink);
            header.set_size(0);
            builder.append_link(&mut header, name, target).unwrap();
        }
        let mut header = tar::Header::new_gnu();
        header.set_size(1);
        header.as_old_mut().name[..through.len()].copy_from_slice(through.as_bytes());
        header.set_mode(0o644);
        header.set_uid(0);
        header.set_gid(0);
        header.set_mtime(0);
        header.set_cksum();
        builder.append(&header, &b"x"[..]).unwrap();
        let stream = builder.into_inner().unwrap();
        unpack(open(to.path()), Policy::inside(false), stream.as_slice())
    };
    assert!(hostile("d", Some(outside.path()), "d/file").is_err());
    assert!(hostile("d", Some(Path::new("../../../../../../../../tmp")), "d/file").is_err());
    assert!(hostile("", None, "../file").is_err());
    assert!(hostile("", None, "a/../../file").is_err());
    hostile("", None, "/absolute").unwrap();
    assert_eq!(fs::read_dir(outside.path()).unwrap().count(), 0);
}

/// An entry as somebody who means harm would write it.
#[derive(Debug, Clone)]
struct Hostile {
    kind: tar::EntryType,
    name: String,
    link: String,
    mode: u32,
}

fn hostile_stream(entries: &[Hostile]) -> Vec<u8> {
    let mut builder = tar::Builder::new(Vec::new());
    for entry in entries {
        let mut header = tar::Header::new_gnu();
        let body: &[u8] = if entry.kind == tar::EntryType::Regular { b"theirs" } else { b"" };
        header.as_old_mut().name[..entry.name.len()].copy_from_slice(entry.name.as_bytes());
        header.as_old_mut().linkname[..entry.link.len()].copy_from_slice(entry.link.as_bytes());
        header.set_entry_type(entry.kind);
        header.set_mode(entry.mode);
        header.set_uid(4321);
        header.set_gid(4321);
        header.set_mtime(1);
        header.set_size(body.len() as u64);
        header.set_device_major(1).unwrap();
        header.set_device_minor(3).unwrap();
        header.set_cksum();
        builder.append_pax_extensions([("SCHILY.xattr.trusted.overlay.opaque", &b"y"[..])]).unwrap();
        builder.append(&header, body).unwrap();
    }
    builder.into_inner().unwrap()
}

fn hostile() -> impl Strategy<Value = Hostile> {
    let kind = prop_oneof![
        4 => Just(tar::EntryType::Regular),
        3 => Just(tar::EntryType::Directory),
        3 => Just(tar::EntryType::Symlink),
        2 => Just(tar::EntryType::Link),
        1 => Just(tar::EntryType::Char),
        1 => Just(tar::EntryType::Fifo),
    ];
    let part = prop::sample::select(vec!["top", "top", "a", "mine", "in", "..", ".", "", "out"]);
    let name = prop::collection::vec(part, 1..5).prop_map(|parts| parts.join("/"));
    let link = prop_oneof![
        name.clone(),
        Just("OUTSIDE".to_owned()),
        Just("../../../../../../../../OUTSIDE".to_owned()),
        Just("/etc/passwd".to_owned()),
        Just(".".to_owned()),
    ];
    let below = name.clone().prop_map(|name| format!("top/{name}"));
    (kind, prop_oneof![1 => name, 3 => below], link, any::<u32>()).prop_map(|(kind, name, link, mode)| Hostile {
        kind,
        name,
        link,
        mode: mode & 0o7777,
    })
}

/// Everything below a directory: path, kind, mode, owner, length, time, what a link says.
fn facts_below(directory: &Path) -> Vec<(std::path::PathBuf, u32, u32, u64, i64, Option<std::path::PathBuf>)> {
    let mut facts = Vec::new();
    let mut waiting = vec![directory.to_path_buf()];
    while let Some(path) = waiting.pop() {
        let meta = fs::symlink_metadata(&path).unwrap();
        let link = fs::read_link(&path).ok();
        facts.push((path.clone(), meta.mode(), meta.uid(), meta.len(), meta.mtime_nsec(), link));
        if meta.is_dir() {
            fs::set_permissions(&path, fs::Permissions::from_mode(meta.mode() | 0o700)).unwrap();
            waiting.extend(fs::read_dir(&path).unwrap().map(|entry| entry.unwrap().path()));
        }
    }
    facts.sort();
    facts
}

proptest! {
    #[test]
    fn any_bytes_are_answered(bytes in proptest::collection::vec(any::<u8>(), 0..2048)) {
        let to = tempfile::tempdir().unwrap();
        let _: Result<Unpacked, TreeError> = unpack(open(to.path()), Policy::inside(false), bytes.as_slice());
    }

    /// Whatever a guest sends, it changes what was asked for and nothing else, and plants nothing there that acts.
    #[test]
    fn a_hostile_stream_changes_what_was_asked_for_only(
        entries in prop::collection::vec(hostile(), 1..12),
        is_there in any::<bool>(),
        damage in prop::option::of((0_usize..8192, any::<u8>())),
    ) {
        let world = tempfile::tempdir().unwrap();
        let (outside, to) = (world.path().join("outside"), world.path().join("to"));
        fs::create_dir(&outside).unwrap();
        fs::write(outside.join("mine"), "mine").unwrap();
        fs::create_dir(&to).unwrap();
        fs::create_dir(to.join("in")).unwrap();
        fs::write(to.join("in/mine"), "mine").unwrap();
        fs::write(to.join("mine"), "mine").unwrap();
        symlink(&outside, to.join("out")).unwrap();
        if is_there {
            fs::create_dir(to.join("asked")).unwrap();
            symlink(&outside, to.join("asked/out")).unwrap();
            symlink("../in", to.join("asked/in")).unwrap();
        }
        let entries: Vec<Hostile> = entries
            .into_iter()
            .map(|entry| Hostile { link: entry.link.replace("OUTSIDE", outside.to_str().unwrap()), ..entry })
            .filter(|entry| entry.link.len() < 100)
            .collect();
        let mut stream = hostile_stream(&entries);
        if let Some((at, value)) = damage && let Some(byte) = stream.get_mut(at) {
            *byte = value;
        }
        let kept = |_: ()| {
            let mut facts = facts_below(&outside);
            facts.extend(facts_below(&to).into_iter().filter(|fact| !fact.0.starts_with(to.join("asked")) && fact.0 != to));
            facts
        };
        let before = kept(());
        let _: Result<Unpacked, TreeError> =
            unpack(open(&to), Policy::hostile(false).called(Some(b"asked".to_vec())), stream.as_slice());
        prop_assert_eq!(before, kept(()));
        if to.join("asked").symlink_metadata().is_ok() {
            for fact in facts_below(&to.join("asked")) {
                let kind = fact.1 & 0o170_000;
                prop_assert!([0o100_000, 0o040_000, 0o120_000].contains(&kind), "{:?} is special", fact);
                prop_assert!(kind == 0o120_000 || fact.1 & 0o7000 == 0, "{:?} is setuid", fact);
                prop_assert_ne!(fact.2, 4321);
                let mut value = [0; 8];
                prop_assert!(rustix::fs::lgetxattr(&fact.0, "trusted.overlay.opaque", &mut value).is_err());
            }
        }
    }
}

#[test]
fn directories_and_files_do_not_replace_each_other() {
    for (is_directory, there) in [(true, "file"), (false, "directory")] {
        let to = tempfile::tempdir().unwrap();
        match there {
            "file" => fs::write(to.path().join("x"), "mine").unwrap(),
            _ => fs::create_dir(to.path().join("x")).unwrap(),
        }
        let kind = if is_directory { tar::EntryType::Directory } else { tar::EntryType::Regular };
        let stream = hostile_stream(&[Hostile { kind, name: "x".into(), link: String::new(), mode: 0o755 }]);
        for policy in [Policy::inside(false), Policy::hostile(false)] {
            let error = unpack(open(to.path()), policy, stream.as_slice()).unwrap_err();
            assert!(error.source.to_string().contains("does not replace it"), "{}", error.source);
        }
    }
}

#[test]
fn a_map_that_claims_much_costs_little() {
    // One run at the end of a file of exabytes; a map of a thousand million pieces.
    let to = tempfile::tempdir().unwrap();
    let mut header = tar::Header::new_gnu();
    header.set_entry_type(tar::EntryType::GNUSparse);
    header.set_path("x").unwrap();
    header.set_mode(0o644);
    header.set_uid(0);
    header.set_gid(0);
    header.set_mtime(0);
    header.set_size(1);
    let gnu = header.as_gnu_mut().unwrap();
    gnu.set_real_size(1 << 62);
    gnu.sparse[0].set_offset((1 << 62) - 1);
    gnu.sparse[0].set_length(1);
    header.set_cksum();
    let mut builder = tar::Builder::new(Vec::new());
    builder.append(&header, &b"x"[..]).unwrap();
    let stream = builder.into_inner().unwrap();
    // The filesystem takes such a file or refuses it; nobody writes its zeros.
    let _: Result<Unpacked, TreeError> = unpack(open(to.path()), Policy::hostile(false), stream.as_slice());
    let mut builder = tar::Builder::new(Vec::new());
    let records: [(&str, &[u8]); 2] = [("GNU.sparse.major", b"1"), ("GNU.sparse.realsize", b"9")];
    builder.append_pax_extensions(records).unwrap();
    let mut map = b"1000000000\n".to_vec();
    map.resize(512, b'0');
    let mut header = tar::Header::new_gnu();
    header.set_path("y").unwrap();
    header.set_size(512);
    header.set_mode(0o644);
    header.set_uid(0);
    header.set_gid(0);
    header.set_mtime(0);
    header.set_cksum();
    builder.append(&header, map.as_slice()).unwrap();
    let stream = builder.into_inner().unwrap();
    assert!(unpack(open(to.path()), Policy::hostile(false), stream.as_slice()).is_err());
}

fn directory(name: &str) -> Hostile {
    Hostile { kind: tar::EntryType::Directory, name: name.into(), link: String::new(), mode: 0o777 }
}

fn file(name: &str) -> Hostile {
    Hostile { kind: tar::EntryType::Regular, ..directory(name) }
}

/// A stream of entries behind the records that `records` has for each.
fn recorded(entries: &[Hostile], records: &[Vec<u8>]) -> Vec<u8> {
    let plain = hostile_stream(entries);
    let mut stream = Vec::new();
    // Two blocks of the record that every entry there has, its header, and content.
    let mut at = 0;
    for entry in entries {
        let blocks = if entry.kind == tar::EntryType::Regular { 4 } else { 3 };
        for bytes in records {
            let mut header = tar::Header::new_ustar();
            header.set_entry_type(tar::EntryType::XHeader);
            header.set_size(bytes.len() as u64);
            header.set_cksum();
            stream.extend_from_slice(header.as_bytes());
            stream.extend_from_slice(bytes);
            stream.resize(stream.len().next_multiple_of(512), 0);
        }
        stream.extend_from_slice(&plain[at..at + blocks * 512]);
        at += blocks * 512;
    }
    stream.extend_from_slice(&[0; 1024]);
    stream
}

#[test]
fn headers_of_one_entry_are_bounded_together() {
    let records = vec![pax::record("SCHILY.xattr.other", &vec![b'x'; 300 << 10]); 3];
    let to = tempfile::tempdir().unwrap();
    let entries: Vec<Hostile> = ["a", "b", "c"].map(file).to_vec();
    unpack(open(to.path()), Policy::hostile(false), recorded(&entries, &records).as_slice()).unwrap();
    let records = vec![records[0].clone(); 4];
    let error =
        unpack(open(to.path()), Policy::hostile(false), recorded(&entries[..1], &records).as_slice()).unwrap_err();
    assert!(error.source.to_string().contains("1 MiB"), "{}", error.source);
}

#[test]
fn what_is_remembered_and_how_many_come_is_bounded() {
    let to = tempfile::tempdir().unwrap();
    let mut policy = Policy::hostile(false);
    policy.limits.remembered_bytes = 10_000;
    let with = |attributes: &str| {
        let record = |number| pax::record(&format!("SCHILY.xattr.{attributes}.{number}"), b"");
        recorded(&[directory(attributes)], &[(0..200).flat_map(record).collect()])
    };
    let error = unpack(open(to.path()), policy.clone(), with("user").as_slice()).unwrap_err();
    assert!(error.source.to_string().contains("too many directories"), "{}", error.source);
    unpack(open(to.path()), policy.clone(), with("trusted").as_slice()).unwrap();
    let many: Vec<Hostile> = (0..200).map(|number| directory(&format!("d{number}"))).collect();
    let error = unpack(open(to.path()), policy.clone(), hostile_stream(&many).as_slice()).unwrap_err();
    assert!(error.source.to_string().contains("too many directories"), "{}", error.source);
    policy.limits.entries = 3;
    let links: Vec<Hostile> = ["a", "b", "c", "d"].map(file).to_vec();
    unpack(open(to.path()), policy.clone(), hostile_stream(&links[..3]).as_slice()).unwrap();
    let error = unpack(open(to.path()), policy, hostile_stream(&links).as_slice()).unwrap_err();
    assert!(error.source.to_string().contains("too many files"), "{}", error.source);
}

#[test]
fn a_name_as_deep_as_it_can_be_needs_no_stack() {
    let deep = recorded(&[file("x")], &[pax::record("path", format!("{}f", "d/".repeat(400)).as_bytes())]);
    let to = tempfile::tempdir().unwrap();
    let destination = open(to.path());
    let unpacked = std::thread::Builder::new()
        .stack_size(96 << 10)
        .spawn(move || unpack(destination, Policy::hostile(false), deep.as_slice()).map_err(|error| error.act))
        .unwrap();
    assert_eq!(unpacked.join().unwrap().unwrap().bytes, 6);
    assert!(to.path().join(format!("{}f", "d/".repeat(400))).is_file());
}

#[test]
fn an_owner_that_means_leave_it_is_nobody() {
    let mut header = tar::Header::new_gnu();
    header.set_path("x").unwrap();
    header.set_size(0);
    header.set_mode(0o4755);
    header.set_mtime(0);
    header.set_uid(u64::from(u32::MAX));
    header.set_gid(u64::MAX);
    header.set_cksum();
    let mut reader = Reader::new(header.as_bytes().as_slice());
    let attributes = reader.next_entry().unwrap().unwrap().attributes;
    assert_eq!((attributes.uid, attributes.gid), (u32::MAX - 1, u32::MAX - 1));
}

#[test]
fn modes_lose_what_the_umask_takes() {
    for (archive, kept) in [(false, 0o777 & !umask()), (true, 0o777)] {
        let to = tempfile::tempdir().unwrap();
        let stream = hostile_stream(&[directory("d"), file("d/x")]);
        unpack(open(to.path()), Policy::hostile(archive), stream.as_slice()).unwrap();
        for path in ["d", "d/x"] {
            assert_eq!(fs::metadata(to.path().join(path)).unwrap().mode() & 0o777, kept, "{path} {archive}");
        }
    }
}

#[test]
fn a_link_of_this_hosts_is_said_to_be_in_the_way() {
    let to = tempfile::tempdir().unwrap();
    fs::create_dir(to.path().join("real")).unwrap();
    symlink("real", to.path().join("d")).unwrap();
    for entries in [vec![file("d/x")], vec![directory("d/sub")]] {
        let error = unpack(open(to.path()), Policy::hostile(false), hostile_stream(&entries).as_slice()).unwrap_err();
        assert!(error.source.to_string().contains("a symbolic link is in its way"), "{}", error.source);
    }
    assert_eq!(fs::read_dir(to.path().join("real")).unwrap().count(), 0);
}

/// A stream in the middle of which something happens.
struct Meanwhile<'a, F> {
    stream: &'a [u8],
    until: usize,
    act: Option<F>,
}

impl<F: FnOnce()> Read for Meanwhile<'_, F> {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        if self.until == 0
            && let Some(act) = self.act.take()
        {
            act();
        }
        let want = if self.act.is_some() { buffer.len().min(self.until) } else { buffer.len() };
        let count = self.stream.read(&mut buffer[..want])?;
        self.until = self.until.saturating_sub(count);
        Ok(count)
    }
}

#[test]
fn what_takes_the_name_of_a_directory_meanwhile_is_not_dressed() {
    let to = tempfile::tempdir().unwrap();
    let at = |path: &str| to.path().join(path);
    fs::create_dir(at("victim")).unwrap();
    fs::set_permissions(at("victim"), fs::Permissions::from_mode(0o700)).unwrap();
    let stream = hostile_stream(&[directory("d"), file("x")]);
    let act = || {
        fs::rename(at("d"), at("gone")).unwrap();
        symlink("victim", at("d")).unwrap();
    };
    // Behind the directory's record and header.
    let stream = Meanwhile { stream: &stream, until: 3 * 512, act: Some(act) };
    let error = unpack(open(to.path()), Policy::inside(false), stream).unwrap_err();
    assert!(error.source.to_string().contains("taken its place"), "{}", error.source);
    assert_eq!(fs::metadata(at("victim")).unwrap().mode() & 0o777, 0o700);
}

#[test]
fn what_takes_a_files_name_meanwhile_is_not_dressed() {
    let to = tempfile::tempdir().unwrap();
    let victim = to.path().join("victim");
    fs::write(&victim, "mine").unwrap();
    fs::set_permissions(&victim, fs::Permissions::from_mode(0o600)).unwrap();
    let before = fs::metadata(&victim).unwrap();
    let sub = to.path().join("sub");
    fs::create_dir(&sub).unwrap();
    let parent = open(&sub);
    let arrival = Arrival::hidden(&parent).unwrap();
    let name = fs::read_dir(&sub).unwrap().next().unwrap().unwrap().path();
    fs::rename(&name, to.path().join("gone")).unwrap();
    symlink(&victim, &name).unwrap();
    let attributes = Reader::new(hostile_stream(&[file("x")]).as_slice()).next_entry().unwrap().unwrap().attributes;
    let wardrobe = Wardrobe { may_own: super::is_root(), modes: 0o7777, xattrs: Xattrs::All };
    wardrobe.dress(Opened::File(arrival.file()), FileType::RegularFile, &attributes).unwrap();
    let after = fs::metadata(&victim).unwrap();
    let facts = |meta: &fs::Metadata| (meta.mode(), meta.uid(), meta.mtime(), meta.mtime_nsec());
    assert_eq!(facts(&before), facts(&after));
    assert_eq!(fs::metadata(to.path().join("gone")).unwrap().mode() & 0o7777, 0o777, "the file itself is");
}

/// Who sends a work tree knows of its files only: a directory without any is in nobody's way.
#[test]
fn directories_without_files_give_way_to_what_is_marked() {
    let link = Hostile { kind: tar::EntryType::Symlink, link: "x".to_owned(), ..directory("l") };
    let stream = hostile_stream(&[file("mark"), file("f"), link]);
    let to = tempfile::tempdir().unwrap();
    let unpack_marked = || unpack(open(to.path()), Policy::inside(false).marked_by("mark"), stream.as_slice());
    for name in ["f/deep/er", "f/wide", "l"] {
        fs::create_dir_all(to.path().join(name)).unwrap();
    }
    let unmarked = unpack(open(to.path()), Policy::inside(false), stream.as_slice()).unwrap_err();
    assert!(unmarked.source.to_string().contains("a file does not replace it"), "{unmarked:?}");
    fs::write(to.path().join("f/deep/er/own"), "own").unwrap();
    let kept = unpack_marked().unwrap_err();
    assert!(kept.source.to_string().contains("a file does not replace it"), "{kept:?}");
    assert_eq!(fs::read(to.path().join("f/deep/er/own")).unwrap(), b"own");
    fs::remove_file(to.path().join("f/deep/er/own")).unwrap();
    unpack_marked().unwrap();
    assert_eq!(fs::read(to.path().join("f")).unwrap(), b"theirs");
    assert_eq!(fs::read_link(to.path().join("l")).unwrap(), Path::new("x"));
}

//! Layers of any kind against a model: what the specification says, applied to a list of paths one rule after the other.

use std::collections::BTreeMap;
use std::fs::File;
use std::io::Read;

use oci::Compression;
use proptest::prelude::*;

use super::*;
use crate::image::rootfs::collected::Contents;
use crate::image::rootfs::tarball::RecordKind;

/// What is at a path.
#[derive(Debug, Clone, PartialEq, Eq)]
enum Thing {
    Dir {
        mode: u32,
    },
    /// Files of one number are one file.
    File {
        number: usize,
    },
    Symlink {
        target: String,
    },
}

/// One entry of a layer.
#[derive(Debug, Clone)]
enum Entry {
    Dir {
        path: String,
        mode: u32,
    },
    File {
        path: String,
        content: Vec<u8>,
    },
    Symlink {
        path: String,
        target: String,
    },
    /// A hard link to one of the files so far, if there is one where it was then.
    Link {
        path: String,
        to: prop::sample::Index,
    },
    Gone {
        path: String,
    },
    Opaque {
        path: String,
    },
}

/// Paths collide often: three names, three levels deep. No name is ever a directory in one layer and a link on the way in
/// another, for where an entry beneath a link goes is tested by itself.
fn path() -> impl Strategy<Value = String> {
    prop::collection::vec(prop::sample::select(vec!["a", "b", "c"]), 1..4).prop_map(|names| names.join("/"))
}

fn entry() -> impl Strategy<Value = Entry> {
    prop_oneof![
        3 => (path(), prop::sample::select(vec![0o755, 0o700, 0o1777])).prop_map(|(path, mode)| Entry::Dir { path, mode }),
        4 => (path(), prop::collection::vec(any::<u8>(), 0..9000)).prop_map(|(path, content)| Entry::File { path, content }),
        1 => path().prop_map(|path| Entry::Symlink { path: format!("{path}-link"), target: "/else/where".to_owned() }),
        2 => (path(), any::<prop::sample::Index>()).prop_map(|(path, to)| Entry::Link { path, to }),
        2 => path().prop_map(|path| Entry::Gone { path }),
        1 => path().prop_map(|path| Entry::Opaque { path }),
    ]
}

/// The model, and the archive of each layer that was put on it.
#[derive(Default)]
struct Model {
    things: BTreeMap<String, Thing>,
    contents: Vec<Vec<u8>>,
}

impl Model {
    fn forget_below(&mut self, path: &str) {
        self.things.retain(|known, _| !known.starts_with(&format!("{path}/")));
    }

    fn forget(&mut self, path: &str) {
        self.forget_below(path);
        self.things.remove(path);
    }

    /// Whether every name before the last is that of a directory, or of nothing.
    fn can_have(&self, path: &str) -> bool {
        above(path).all(|above| matches!(self.things.get(above), None | Some(Thing::Dir { .. })))
    }

    fn put(&mut self, path: &str, thing: Thing) {
        for above in above(path) {
            self.things.entry(above.to_owned()).or_insert(Thing::Dir { mode: 0o755 });
        }
        match (&thing, self.things.get(path)) {
            (Thing::Dir { .. }, Some(Thing::Dir { .. })) => {}
            _ => self.forget(path),
        }
        self.things.insert(path.to_owned(), thing);
    }

    /// Puts a layer on, as the specification says: first what is removed of the layers below, then what it has. Gives its
    /// archive, in which entries stand in the order they were drawn, without those that no archive could have.
    fn apply(&mut self, entries: &[Entry]) -> Vec<u8> {
        for entry in entries {
            match entry {
                Entry::Gone { path } if self.can_have(path) => self.forget(path),
                Entry::Opaque { path }
                    if matches!(self.things.get(path), Some(Thing::Dir { .. })) && self.can_have(path) =>
                {
                    self.forget_below(path);
                }
                _ => {}
            }
        }
        let mut tar = tar::Builder::new(Vec::new());
        for entry in entries {
            self.entry(entry, &mut tar);
        }
        tar.into_inner().unwrap()
    }

    fn entry(&mut self, entry: &Entry, tar: &mut tar::Builder<Vec<u8>>) {
        match entry {
            Entry::Dir { path, mode } if self.can_have(path) => {
                self.put(path, Thing::Dir { mode: *mode });
                append(tar, path, tar::EntryType::Directory, *mode, "", b"");
            }
            Entry::File { path, content } if self.can_have(path) => {
                self.contents.push(content.clone());
                self.put(path, Thing::File { number: self.contents.len() - 1 });
                append(tar, path, tar::EntryType::Regular, 0o644, "", content);
            }
            Entry::Symlink { path, target } if self.can_have(path) => {
                self.put(path, Thing::Symlink { target: target.clone() });
                append(tar, path, tar::EntryType::Symlink, 0o777, target, b"");
            }
            Entry::Link { path, to } if self.can_have(path) => {
                let files: Vec<(String, usize)> = self
                    .things
                    .iter()
                    .filter_map(|(path, thing)| match thing {
                        Thing::File { number } => Some((path.clone(), *number)),
                        Thing::Dir { .. } | Thing::Symlink { .. } => None,
                    })
                    .collect();
                // In the place of a directory it would take its own target away.
                let free = files.into_iter().filter(|(target, _)| !target.starts_with(&format!("{path}/")));
                let files: Vec<(String, usize)> = free.collect();
                if !files.is_empty() {
                    let (target, number) = to.get(&files).clone();
                    self.put(path, Thing::File { number });
                    append(tar, path, tar::EntryType::Link, 0o644, &target, b"");
                }
            }
            Entry::Gone { path } => {
                let (above, name) = path.rsplit_once('/').map_or(("", path.as_str()), |(above, name)| (above, name));
                let slash = if above.is_empty() { "" } else { "/" };
                append(tar, &format!("{above}{slash}.wh.{name}"), tar::EntryType::Regular, 0o644, "", b"");
            }
            Entry::Opaque { path } => {
                append(tar, &format!("{path}/.wh..wh..opq"), tar::EntryType::Regular, 0o644, "", b"");
            }
            Entry::Dir { .. } | Entry::File { .. } | Entry::Symlink { .. } | Entry::Link { .. } => {}
        }
    }

    /// As a reader of the filesystem would tell it: names of one file under the first of them.
    fn told(&self) -> Vec<String> {
        let mut first: BTreeMap<usize, &str> = BTreeMap::new();
        self.things
            .iter()
            .map(|(path, thing)| match thing {
                Thing::Dir { mode } => format!("{path} dir {mode:o}"),
                Thing::Symlink { target } => format!("{path} -> {target}"),
                Thing::File { number } => {
                    let first = first.entry(*number).or_insert(path);
                    format!("{path} file {first} {}", oci::Digest::of(&self.contents[*number]))
                }
            })
            .collect()
    }
}

/// `a`, `a/b` of `a/b/c`.
fn above(path: &str) -> impl Iterator<Item = &str> {
    path.match_indices('/').map(|(at, _)| &path[..at])
}

fn append(tar: &mut tar::Builder<Vec<u8>>, path: &str, kind: tar::EntryType, mode: u32, link: &str, content: &[u8]) {
    let mut header = tar::Header::new_gnu();
    header.set_entry_type(kind);
    header.set_mode(mode);
    header.set_uid(0);
    header.set_gid(0);
    header.set_mtime(1_700_000_000);
    header.set_size(content.len() as u64);
    header.as_old_mut().name[..path.len()].copy_from_slice(path.as_bytes());
    header.as_old_mut().linkname[..link.len()].copy_from_slice(link.as_bytes());
    header.set_cksum();
    tar.append(&header, content).unwrap();
}

/// What is in the filesystem, told as the model tells it.
fn found(image: &Path) -> Vec<String> {
    let file = File::open(image).unwrap();
    let records = filesystem::records(&file, Watcher::none()).unwrap();
    let mut collected = Collected::new(Links::Refused);
    let mut told = BTreeMap::new();
    let mut first: BTreeMap<String, Vec<String>> = BTreeMap::new();
    let mut digests = BTreeMap::new();
    for record in records.iter().filter(|record| !record.path.is_empty()) {
        collected.add(0, record.clone()).unwrap();
        let line = match &record.kind {
            RecordKind::Dir => format!("dir {:o}", record.mode),
            RecordKind::Symlink(target) => format!("-> {target}"),
            RecordKind::File(content) => {
                let mut bytes = Vec::new();
                Contents::new(&file, content).read_to_end(&mut bytes).unwrap();
                // Holes are no part of what is read by ranges.
                let mut whole = vec![0; usize::try_from(content.size_bytes).unwrap()];
                let mut at = 0;
                for (offset, len) in content.ranges() {
                    let (offset, len) = (usize::try_from(offset).unwrap(), usize::try_from(len).unwrap());
                    whole[offset..offset + len].copy_from_slice(&bytes[at..at + len]);
                    at += len;
                }
                digests.insert(record.path.clone(), oci::Digest::of(&whole));
                first.entry(record.path.clone()).or_default().push(record.path.clone());
                continue;
            }
            RecordKind::HardLink(target) => {
                first.get_mut(target).expect("met before").push(record.path.clone());
                continue;
            }
            other => panic!("{other:?} was not put in"),
        };
        told.insert(record.path.clone(), format!("{} {line}", record.path));
    }
    for (met, mut names) in first {
        names.sort();
        for name in &names {
            told.insert(name.clone(), format!("{name} file {} {}", names[0], digests[&met]));
        }
    }
    told.into_values().collect()
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 150, ..ProptestConfig::default() })]

    #[test]
    fn layers_become_what_the_specification_says(
        layers in prop::collection::vec(prop::collection::vec(entry(), 0..12), 1..5),
    ) {
        let dir = tempfile::tempdir().unwrap();
        let mut model = Model::default();
        let mut stack = Vec::new();
        for (number, entries) in layers.iter().enumerate() {
            let tar = model.apply(entries);
            let path = dir.path().join(number.to_string());
            std::fs::write(&path, &tar).unwrap();
            let digest = oci::Digest::of(&tar);
            let size = tar.len() as u64;
            stack.push(Layer { digest, diff_id: digest, compression: Compression::None, size, path });
        }
        let image = dir.path().join("rootfs.ext4");
        flatten(&stack, &image, Limits::default(), Watcher::none()).unwrap();
        prop_assert_eq!(found(&image), model.told());

        // The last of them over the filesystem of the others is the same.
        let (last, others) = stack.split_last().unwrap();
        let below = dir.path().join("below.ext4");
        flatten(others, &below, Limits::default(), Watcher::none()).unwrap();
        let extended = dir.path().join("extended.ext4");
        extend((&below, Digest::of(b"below")), &last.path, &extended, Watcher::none()).unwrap();
        prop_assert_eq!(found(&extended), model.told());
    }
}

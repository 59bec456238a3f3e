//! The cache: whole or not at all, resumed, shared, pruned.

use std::collections::HashSet;

use proptest::prelude::*;

use super::*;

fn cache() -> (tempfile::TempDir, Blobs) {
    let dir = tempfile::tempdir().unwrap();
    let blobs = Blobs::open(&dir.path().join("blobs")).unwrap();
    (dir, blobs)
}

fn mine(blobs: &Blobs, bytes: &[u8]) -> Incoming {
    match blobs.begin(&Digest::of(bytes), bytes.len() as u64).unwrap() {
        Begun::Mine(incoming) => incoming,
        other => panic!("{other:?}"),
    }
}

fn partial(blobs: &Blobs) -> usize {
    entries(&blobs.partial_dir()).unwrap().len()
}

#[test]
fn a_blob_is_there_once_it_is_whole_and_not_before() {
    let (_dir, blobs) = cache();
    let digest = Digest::of(b"content");
    let mut incoming = mine(&blobs, b"content");
    incoming.write(b"con").unwrap();
    assert!(blobs.pin(&digest).unwrap().is_none());
    assert!(matches!(blobs.begin(&digest, 7).unwrap(), Begun::Elsewhere));
    incoming.write(b"tent").unwrap();
    let pin = incoming.finish().unwrap();
    assert_eq!((pin.read(100).unwrap().as_slice(), partial(&blobs)), (b"content".as_slice(), 0));
    assert!(matches!(blobs.begin(&digest, 7).unwrap(), Begun::There(_)));
    assert_eq!(blobs.list().unwrap(), [Stored { digest, size: 7 }]);
    blobs.verify(&pin).unwrap();
    assert!(matches!(pin.read(6), Err(BlobError::TooLarge { .. })));
    assert!(matches!(pin.check_size(8), Err(BlobError::Size { found: 7, .. })));
}

#[test]
fn who_comes_after_goes_on_where_somebody_left() {
    let (_dir, blobs) = cache();
    let mut incoming = mine(&blobs, b"content");
    incoming.write(b"con").unwrap();
    assert!(matches!(incoming.finish(), Err(BlobError::Short { bytes: 3, size: 7, .. })));
    let mut incoming = mine(&blobs, b"content");
    assert_eq!(incoming.bytes(), 3);
    incoming.write(b"tent").unwrap();
    incoming.finish().unwrap();
}

#[test]
fn other_bytes_are_thrown_away() {
    let (_dir, blobs) = cache();
    let mut incoming = mine(&blobs, b"content");
    incoming.write(b"another").unwrap();
    let refused = incoming.finish().unwrap_err();
    assert!(matches!(refused, BlobError::Mismatch { found, .. } if found == Digest::of(b"another")));
    assert_eq!(mine(&blobs, b"content").bytes(), 0);
    let mut incoming = mine(&blobs, b"content");
    assert!(matches!(incoming.write(b"too many bytes"), Err(BlobError::TooLarge { limit_bytes: 7, .. })));
    // A part that is longer than the blob is no beginning of it.
    drop(incoming);
    std::fs::write(blobs.part_path(&Digest::of(b"content")), b"much too long").unwrap();
    assert_eq!(mine(&blobs, b"content").bytes(), 0);
}

#[test]
fn a_blob_that_has_rotted_is_found() {
    let (_dir, blobs) = cache();
    let pin = blobs.put(b"content").unwrap();
    std::fs::write(&pin.path, b"rotten!").unwrap();
    assert!(matches!(blobs.verify(&pin), Err(BlobError::Mismatch { .. })));
}

#[test]
fn pruning_spares_what_is_kept_or_in_use() {
    let (_dir, blobs) = cache();
    let kept = blobs.put(b"kept").unwrap().digest;
    let used = blobs.put(b"used").unwrap();
    let unused = blobs.put(&[7; 9000]).unwrap().digest;
    let mut coming = mine(&blobs, b"coming");
    coming.write(b"com").unwrap();
    let mut left = mine(&blobs, b"left");
    left.write(b"le").unwrap();
    drop(left);
    let freed = blobs.prune(&HashSet::from([kept])).unwrap();
    assert!(freed.count == 2 && freed.bytes >= 9000, "{freed:?}");
    assert!(blobs.pin(&unused).unwrap().is_none());
    assert!(blobs.pin(&kept).unwrap().is_some() && blobs.pin(&used.digest).unwrap().is_some());
    coming.write(b"ing").unwrap();
    coming.finish().unwrap();
    drop(used);
    assert_eq!(blobs.prune(&HashSet::from([kept])).unwrap().count, 2);
    assert_eq!(blobs.list().unwrap().len(), 1);
}

#[test]
fn what_is_staged_and_not_published_goes() {
    let (_dir, blobs) = cache();
    let mut staging = Staging::new(&blobs).unwrap();
    let wanted = staging.stage("a", b"wanted".as_slice(), 100).unwrap();
    let other = staging.stage("b", b"other".as_slice(), 100).unwrap();
    assert!(matches!(staging.stage("c", b"large".as_slice(), 4), Err(BlobError::TooLarge { what, .. }) if what == "c"));
    assert_eq!(blobs.prune(&HashSet::new()).unwrap().count, 0, "somebody is at it");
    let pins = [staging.publish(&blobs, &wanted).unwrap(), staging.publish(&blobs, &wanted).unwrap()];
    assert_eq!((wanted.head.as_slice(), pins[1].size), (b"wanted".as_slice(), 6));
    drop(staging);
    assert!(blobs.pin(&other.digest).unwrap().is_none());
    assert_eq!(partial(&blobs), 0);
}

#[test]
fn many_at_once_make_one_blob() {
    let (_dir, blobs) = cache();
    let bytes = vec![3; 1 << 20];
    std::thread::scope(|scope| {
        for _ in 0..8 {
            scope.spawn(|| {
                loop {
                    match blobs.begin(&Digest::of(&bytes), bytes.len() as u64).unwrap() {
                        Begun::There(pin) => break blobs.verify(&pin).unwrap(),
                        Begun::Elsewhere => std::thread::yield_now(),
                        Begun::Mine(mut incoming) => {
                            let from = usize::try_from(incoming.bytes()).unwrap();
                            incoming.write(&bytes[from..(from + 300_000).min(bytes.len())]).unwrap();
                            drop(incoming.finish());
                        }
                    }
                }
            });
        }
    });
    assert_eq!((blobs.list().unwrap().len(), partial(&blobs)), (1, 0));
}

proptest! {
    #[test]
    fn however_it_is_cut_it_arrives(bytes in prop::collection::vec(any::<u8>(), 0..400), cuts in prop::collection::vec(1..80usize, 1..20)) {
        let (_dir, blobs) = cache();
        let mut cuts = cuts.iter().cycle();
        loop {
            match blobs.begin(&Digest::of(&bytes), bytes.len() as u64).unwrap() {
                Begun::There(pin) => {
                    prop_assert_eq!(pin.read(400).unwrap(), bytes);
                    break;
                }
                Begun::Elsewhere => panic!("nobody else is here"),
                Begun::Mine(mut incoming) => {
                    let from = usize::try_from(incoming.bytes()).unwrap();
                    let to = (from + cuts.next().unwrap()).min(bytes.len());
                    incoming.write(&bytes[from..to]).unwrap();
                    drop(incoming.finish());
                }
            }
        }
    }
}

//! Publishing: what is there afterwards, and what is there when it fails.

use std::collections::BTreeSet;

use super::*;
use crate::bundle::tests::{kernel_manifest, manifest};
use crate::bundle::{make_image, make_kernel};
use crate::keys::{Algorithm, PublicKey, keygen};
use crate::signature::SignatureError;

struct World {
    dir: tempfile::TempDir,
    keys: Vec<PrivateKey>,
}

impl World {
    fn new() -> World {
        let key = keygen(Algorithm::Ed25519).unwrap();
        let keys = vec![PrivateKey::parse(key.private_pem.as_bytes()).unwrap()];
        World { dir: tempfile::tempdir().unwrap(), keys }
    }

    fn site(&self) -> PathBuf {
        self.dir.path().join("site")
    }

    /// A bundle of the image `name` with this content.
    fn image(&self, name: &str, content: &[u8]) -> PathBuf {
        let rootfs = self.dir.path().join("rootfs");
        std::fs::write(&rootfs, content).unwrap();
        let out = self.dir.path().join(format!("{name}{BUNDLE_SUFFIX}"));
        make_image(&rootfs, &manifest(name), &out, 1, &mut |_| Ok(())).unwrap().path
    }

    fn kernel(&self, name: &str) -> PathBuf {
        std::fs::write(self.dir.path().join("vmlinux"), name).unwrap();
        let out = self.dir.path().join(format!("kernel-{name}{BUNDLE_SUFFIX}"));
        make_kernel(self.dir.path(), &kernel_manifest(name), &out, 1, &mut |_| Ok(())).unwrap().path
    }

    fn publish(&self, bundles: &[PathBuf], old: Old) -> Result<Published, PublishError> {
        self.publish_all(bundles, &[], old)
    }

    fn publish_all(&self, bundles: &[PathBuf], withdrawn: &[Name], old: Old) -> Result<Published, PublishError> {
        let (site, limits) = (self.site(), Limits::default());
        let publication = Publication { bundles, withdrawn, site: &site, keys: &self.keys, old, limits };
        publish(&publication, &mut |_| Ok(()))
    }

    fn files(&self) -> BTreeSet<String> {
        names(&self.site()).unwrap().into_iter().collect()
    }

    /// What is published, checked as a reader does.
    fn read(&self) -> Result<Catalog, SignatureError> {
        let read = |name| std::fs::read(self.site().join(name)).unwrap();
        let publics: Vec<PublicKey> = self.keys.iter().map(|key| key.public().clone()).collect();
        let text = read(CATALOG_FILE);
        Signatures::parse(&read(SIGNATURE_FILE))?.check(&text, &publics)?;
        Ok(Catalog::parse(&text).unwrap())
    }
}

#[test]
fn what_is_published_is_signed_and_named_by_its_content() {
    let world = World::new();
    let bundles = [world.image("b", b"1"), world.image("a", b"2"), world.kernel("k")];
    let published = world.publish(&bundles, Old::Kept).unwrap();
    assert_eq!(world.read().unwrap(), published.catalog);
    assert_eq!((published.catalog.serial, published.added.len(), published.removed.len()), (1, 3, 0));
    let named: Vec<_> = published.catalog.images.iter().map(|entry| entry.name.as_str()).collect();
    assert_eq!(named, ["a", "b"]);
    for artifact in published.catalog.artifacts() {
        let bytes = std::fs::read(world.site().join(&artifact.file)).unwrap();
        assert_eq!((Digest::of(&bytes), bytes.len() as u64), (artifact.sha256, artifact.size));
    }
    let entry = &published.catalog.images[0];
    assert_eq!((entry.description.as_str(), entry.kernel_ref.as_ref().unwrap().as_str()), ("what it is", "generic"));
    assert_eq!(published.catalog.kernels[0].version.as_str(), "6.12.48+deb13");
    assert_eq!(world.files().len(), 5);
    assert_eq!(bundles_in(world.dir.path()).unwrap().len(), 3);
    // Again: nothing is added, and the number goes up.
    let again = world.publish(&bundles, Old::Pruned).unwrap();
    assert_eq!((again.catalog.serial, again.added.len(), again.removed.len()), (2, 0, 0));
}

#[test]
fn what_is_replaced_stays_until_it_is_pruned() {
    let world = World::new();
    let first = world.publish(&[world.image("a", b"1"), world.image("b", b"1")], Old::Kept).unwrap();
    std::fs::write(world.site().join("index.html"), "somebody's own").unwrap();
    let old = &first.catalog.images[0].artifact.file;
    let second = world.publish(&[world.image("a", b"2")], Old::Kept).unwrap();
    assert_eq!(second.catalog.images.len(), 2);
    assert_ne!(&second.catalog.images[0].artifact.file, old);
    assert!(world.files().contains(old));
    let third = world.publish_all(&[], &["b".parse().unwrap()], Old::Pruned).unwrap();
    assert_eq!((third.catalog.serial, third.catalog.images.len()), (3, 1));
    assert_eq!(
        BTreeSet::from_iter(third.removed),
        BTreeSet::from([old.clone(), first.catalog.images[1].artifact.file.clone()])
    );
    assert!(world.files().contains("index.html") && world.files().len() == 4);
    let missing = world.publish_all(&[], &["b".parse().unwrap()], Old::Kept);
    assert!(matches!(missing, Err(PublishError::NotListed { .. })));
}

#[test]
fn a_file_that_rotted_is_put_right() {
    let world = World::new();
    let bundles = [world.image("a", b"1")];
    let published = world.publish(&bundles, Old::Kept).unwrap();
    let artifact = &published.catalog.images[0].artifact;
    let path = world.site().join(&artifact.file);
    std::fs::write(&path, vec![0; usize::try_from(artifact.size).unwrap()]).unwrap();
    world.publish(&bundles, Old::Kept).unwrap();
    assert_eq!(Digest::of(&std::fs::read(&path).unwrap()), artifact.sha256);
}

#[test]
fn what_cannot_be_published_changes_nothing() {
    let world = World::new();
    world.publish(&[world.image("a", b"1")], Old::Kept).unwrap();
    let (before, files) = (world.read().unwrap(), world.files());
    let bad = world.dir.path().join(format!("bad{BUNDLE_SUFFIX}"));
    std::fs::write(&bad, b"no bundle").unwrap();
    let new = world.image("new", b"1");
    assert!(matches!(world.publish(&[new, bad], Old::Pruned), Err(PublishError::Bundle { .. })));
    assert_eq!(world.files(), files, "what came before it goes again");
    // What somebody who was killed left.
    std::fs::write(world.site().join(".incoming.0123456789abcdef"), b"half").unwrap();
    let copy = world.dir.path().join(format!("copy{BUNDLE_SUFFIX}"));
    let good = world.image("a", b"1");
    std::fs::copy(&good, &copy).unwrap();
    assert!(matches!(world.publish(&[good, copy], Old::Pruned), Err(PublishError::Twice { .. })));
    let lock = lock(&world.site()).unwrap();
    assert!(matches!(world.publish(&[], Old::Kept), Err(PublishError::Busy { .. })));
    drop(lock);
    assert_eq!((world.read().unwrap(), world.files()), (before.clone(), files));
    std::fs::remove_file(world.site().join(&before.images[0].artifact.file)).unwrap();
    assert!(matches!(world.publish(&[], Old::Kept), Err(PublishError::File { .. })));
    std::fs::write(world.site().join(CATALOG_FILE), r#"{"version":1,"minor":1,"serial":9,"more":1}"#).unwrap();
    let later = world.publish(&[], Old::Kept).unwrap_err();
    assert!(matches!(later, PublishError::Before { .. }) && later.hint() == Some("update banger"));
}

#[test]
fn whoever_reads_while_the_list_changes_reads_a_pair() {
    let mut world = World::new();
    world.publish(&[world.image("a", b"1")], Old::Kept).unwrap();
    let old = std::fs::read(world.site().join(CATALOG_FILE)).unwrap();
    world.publish(&[world.image("a", b"2")], Old::Kept).unwrap();
    let signatures = Signatures::parse(&std::fs::read(world.site().join(SIGNATURE_FILE)).unwrap()).unwrap();
    let public = [world.keys[0].public().clone()];
    assert!(signatures.check(&old, &public).is_ok());
    // A second key joins, then is the only one.
    let key = keygen(Algorithm::EcdsaP256Sha256).unwrap();
    world.keys.push(PrivateKey::parse(key.private_pem.as_bytes()).unwrap());
    world.publish(&[], Old::Kept).unwrap();
    world.keys.remove(0);
    assert!(world.read().is_ok());
    world.keys.clear();
    assert_eq!(world.publish(&[], Old::Kept).unwrap().catalog.serial, 4);
    assert!(!world.files().contains(SIGNATURE_FILE));
}

#[test]
fn a_key_is_read_from_its_file() {
    let world = World::new();
    let path = world.dir.path().join("key.pem");
    std::fs::write(&path, keygen(Algorithm::Ed25519).unwrap().private_pem).unwrap();
    read_key(&path).unwrap();
    std::fs::write(&path, "no key").unwrap();
    assert!(matches!(read_key(&path), Err(PublishError::Key { .. })));
    assert!(matches!(read_key(&world.dir.path().join("missing")), Err(PublishError::Read { .. })));
}

//! Catalogs made by hand, and whoever asks for them.

use std::path::{Path, PathBuf};
use std::sync::Mutex;
use std::time::Duration;

use catalog::bundle::{ImageManifest, KernelManifest, Limits, make_image, make_kernel};
use catalog::publish::{Old, Publication, Published, publish};
use catalog::{Algorithm, Client, Current, Insecure, PrivateKey, Site, Source, Trust, keygen};
use oci::options::Patience;
use oci::progress::LayerState;
use oci::{Architecture, Blobs, Digest, Options, Progress};

/// A directory to publish into, a key to sign with, a cache to pull into.
pub(crate) struct World {
    pub(crate) dir: tempfile::TempDir,
    pub(crate) key: PrivateKey,
    pub(crate) blobs: Blobs,
}

/// A new key.
pub(crate) fn key(algorithm: Algorithm) -> PrivateKey {
    PrivateKey::parse(keygen(algorithm).unwrap().private_pem.as_bytes()).unwrap()
}

/// Bytes that nothing packs.
pub(crate) fn noise(length: usize) -> Vec<u8> {
    let mut state = 1_u64;
    let next = move || {
        state = state.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
        state.to_be_bytes()[0]
    };
    std::iter::repeat_with(next).take(length).collect()
}

impl World {
    pub(crate) fn new() -> World {
        World::signed_by(key(Algorithm::Ed25519))
    }

    pub(crate) fn signed_by(key: PrivateKey) -> World {
        let dir = tempfile::tempdir().unwrap();
        let blobs = Blobs::open(&dir.path().join("blobs")).unwrap();
        World { dir, key, blobs }
    }

    pub(crate) fn site(&self) -> PathBuf {
        self.dir.path().join("site")
    }

    /// Publishes an image of this content.
    pub(crate) fn publish(&self, name: &str, content: &[u8]) -> Published {
        let rootfs = self.dir.path().join("rootfs");
        std::fs::write(&rootfs, content).unwrap();
        let word = |text: &str| text.parse().unwrap();
        let manifest = ImageManifest::new(name.parse().unwrap(), word("debian-12"), word("amd64"));
        let bundle = self.dir.path().join("image.tar.zst");
        make_image(&rootfs, &manifest, &bundle, 1, &mut |_| Ok(())).unwrap();
        self.publish_bundle(bundle)
    }

    /// Publishes a kernel.
    pub(crate) fn publish_kernel(&self, name: &str) -> Published {
        let from = self.dir.path().join("kernel");
        std::fs::create_dir_all(from.join("modules/6.12")).unwrap();
        std::fs::write(from.join("vmlinux"), b"\x7fELF").unwrap();
        std::fs::write(from.join("modules/6.12/a.ko"), b"module").unwrap();
        let [distro, arch, version] = ["debian", "amd64", "6.12"].map(|word| word.parse().unwrap());
        let (name, description) = (name.parse().unwrap(), "a kernel".to_owned());
        let bundle = self.dir.path().join("kernel.tar.zst");
        let manifest = KernelManifest { name, distro, arch, version, description };
        make_kernel(&from, &manifest, &bundle, 1, &mut |_| Ok(())).unwrap();
        self.publish_bundle(bundle)
    }

    fn publish_bundle(&self, bundle: PathBuf) -> Published {
        let (site, bundles, keys) = (self.site(), [bundle], std::slice::from_ref(&self.key));
        let (old, limits) = (Old::Kept, Limits::default());
        let publication = Publication { bundles: &bundles, withdrawn: &[], site: &site, keys, old, limits };
        publish(&publication, &mut |_| Ok(())).unwrap()
    }

    /// A client of what is at `at` that trusts this key.
    pub(crate) fn client(&self, at: &str) -> Client {
        self.client_that(at, Trust::Keys(vec![self.key.public().clone()]))
    }

    pub(crate) fn client_that(&self, at: &str, trust: Trust) -> Client {
        let source = Source::parse(at, Insecure::Refused).unwrap();
        Client::new(Site::new(source, trust).unwrap(), &options(), &self.dir.path().join("kept")).unwrap()
    }

    pub(crate) fn local(&self) -> Client {
        self.client(self.site().to_str().unwrap())
    }

    /// Whether nothing is on its way in the cache.
    pub(crate) fn is_quiet(&self) -> bool {
        std::fs::read_dir(self.dir.path().join("blobs/partial")).unwrap().next().is_none()
    }

    /// Replaces a part of a published document by as many other bytes.
    pub(crate) fn forge(&self, file: &str, from: &str, to: &str) {
        let path: &Path = &self.site().join(file);
        let text = std::fs::read_to_string(path).unwrap();
        assert!(text.contains(from), "{text}");
        std::fs::write(path, text.replacen(from, to, 1)).unwrap();
    }
}

/// Options for tests: the pauses are short, the deadlines those of a busy machine.
pub(crate) fn options() -> Options {
    let patience = Patience {
        tries: 4,
        pause: Duration::from_millis(10),
        pause_max: Duration::from_millis(100),
        ..Patience::default()
    };
    Options { patience, ..Options::default() }
}

/// The file of the image `name`.
pub(crate) fn artifact(current: &Current, name: &str) -> catalog::Artifact {
    current.image(name, Architecture::Amd64).unwrap().artifact.clone()
}

/// Keeps what it is told.
#[derive(Default)]
pub(crate) struct Told(Mutex<Vec<String>>);

impl Told {
    pub(crate) fn count(&self, what: &str) -> usize {
        self.0.lock().unwrap().iter().filter(|told| told.contains(what)).count()
    }
}

impl Progress for Told {
    fn layer(&self, _: &Digest, state: LayerState<'_>) {
        self.0.lock().unwrap().push(format!("{state:?}"));
    }
}

/// An error with its causes.
pub(crate) fn chain(error: &dyn std::error::Error) -> String {
    let mut shown = error.to_string();
    let mut source = error.source();
    while let Some(error) = source {
        shown = format!("{shown}: {error}");
        source = error.source();
    }
    shown
}

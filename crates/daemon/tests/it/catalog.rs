//! Images and kernels of a catalog: published by the library, served on loopback, pulled by the daemon's operations.

use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};

use axum::Router;
use axum::http::{StatusCode, Uri};
use catalog::bundle::{ImageManifest, KernelManifest, Limits, make_image, make_kernel};
use catalog::publish::{Old, Publication, publish};
use catalog::source::Insecure;
use catalog::{Algorithm, PrivateKey, PublicKey, Site, Source, Trust, keygen};
use daemon::image::rootfs;
use daemon::model::progress::Watcher;
use daemon::ops::catalogs::Catalogs;
use daemon::store::records::ImageRecord;
use daemon::workshop::Shelf;
use oci::{Architecture, Options};
use wire::api::{ErrorCode, ImportKernel, KernelSource, Operation, OperationState, PullImage};

use crate::fake::{Daemon, World, soon};
use crate::slate::assert_clean_slate;

/// A publisher and his server.
struct Publisher {
    dir: tempfile::TempDir,
    key: PrivateKey,
    server: Arc<Server>,
    address: String,
}

/// What is served, and what was asked for.
#[derive(Default)]
struct Server {
    site: PathBuf,
    /// The list is not given any more; files are.
    is_silent: AtomicBool,
    /// Files do not come to an end, nor to a beginning.
    stalls: AtomicBool,
    bundles: AtomicUsize,
}

impl Server {
    fn answer(&self, uri: &Uri) -> Result<Vec<u8>, StatusCode> {
        let name = uri.path().trim_start_matches('/');
        let is_bundle = name.ends_with(".tar.zst");
        self.bundles.fetch_add(usize::from(is_bundle), Ordering::SeqCst);
        if !is_bundle && self.is_silent.load(Ordering::SeqCst) {
            return Err(StatusCode::NOT_FOUND);
        }
        std::fs::read(self.site.join(name)).map_err(|_| StatusCode::NOT_FOUND)
    }
}

impl Publisher {
    async fn start() -> Publisher {
        let dir = tempfile::tempdir().unwrap();
        let server = Arc::new(Server { site: dir.path().join("site"), ..Server::default() });
        let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
        let address = format!("http://{}/", listener.local_addr().unwrap());
        let answering = Arc::clone(&server);
        let router = Router::new().fallback(move |uri: Uri| {
            let answer = answering.answer(&uri);
            let stalls = uri.path().ends_with(".tar.zst") && answering.stalls.load(Ordering::SeqCst);
            async move {
                if stalls {
                    std::future::pending::<()>().await;
                }
                answer
            }
        });
        tokio::spawn(async move { axum::serve(listener, router).await });
        let key = keygen(Algorithm::Ed25519).unwrap().private_pem;
        Publisher { dir, key: PrivateKey::parse(key.as_bytes()).unwrap(), server, address }
    }

    /// Publishes the image `tiny` with this in it, and the kernel it is for.
    fn publish(&self, content: &str) {
        let bundles = [self.image(content), self.kernel()];
        let publication = Publication {
            bundles: &bundles,
            withdrawn: &[],
            site: &self.server.site,
            keys: std::slice::from_ref(&self.key),
            old: Old::Kept,
            limits: Limits::default(),
        };
        publish(&publication, &mut |_| Ok(())).unwrap();
    }

    fn image(&self, content: &str) -> PathBuf {
        let at = |name: &str| self.dir.path().join(name);
        let mut builder = tar::Builder::new(std::fs::File::create(at("rootfs.tar")).unwrap());
        let mut header = tar::Header::new_ustar();
        header.set_size(content.len() as u64);
        header.set_mode(0o644);
        header.set_uid(0);
        header.set_gid(0);
        header.set_mtime(0);
        builder.append_data(&mut header, "content", content.as_bytes()).unwrap();
        builder.into_inner().unwrap();
        sys::fs::remove_file(&at("rootfs.ext4")).unwrap();
        rootfs::write(&at("rootfs.tar"), &at("rootfs.ext4"), Watcher::none()).unwrap();
        let word = |text: &str| text.parse().unwrap();
        let mut manifest = ImageManifest::new("tiny".parse().unwrap(), word("test"), word(Architecture::host().name()));
        manifest.kernel_ref = Some("generic".parse().unwrap());
        manifest.packages = Some(7);
        manifest.exec.workdir = Some("/srv".to_owned());
        let out = at("tiny.tar.zst");
        make_image(&at("rootfs.ext4"), &manifest, &out, 3, &mut |_| Ok(())).unwrap();
        out
    }

    fn kernel(&self) -> PathBuf {
        let (parts, out) = (self.dir.path().join("kernel"), self.dir.path().join("generic.tar.zst"));
        std::fs::create_dir_all(&parts).unwrap();
        std::fs::write(parts.join("vmlinux"), "vmlinux").unwrap();
        let word = |text: &str| text.parse().unwrap();
        let manifest = KernelManifest {
            name: "generic".parse().unwrap(),
            distro: word("test"),
            arch: word(Architecture::host().name()),
            version: word("6.6"),
            description: String::new(),
        };
        make_kernel(&parts, &manifest, &out, 3, &mut |_| Ok(())).unwrap();
        out
    }

    /// What trusts `key`, or what unsigned is taken from a directory.
    fn site(&self, key: &PublicKey) -> Site {
        let source = Source::parse(&self.address, Insecure::Refused).unwrap();
        Site::new(source, Trust::Keys(vec![key.clone()])).unwrap()
    }

    /// A daemon that has this catalog, begun anew.
    async fn daemon(&self, world: &Arc<World>, key: &PublicKey) -> Daemon {
        let mut options = Options::default();
        options.patience.tries = 1;
        let (state, cache) = (world.dirs.state.join("catalogs"), world.dirs.cache.join("oci"));
        let shelf: Arc<dyn Catalogs> = Arc::new(Shelf::new(Some(self.site(key)), options, state, cache));
        *world.catalogs.lock().unwrap() = Some(shelf);
        Daemon::start(world, "").await
    }
}

async fn pull(daemon: &Daemon, source: &str, name: Option<&str>) -> Operation {
    let request = PullImage { source: source.to_owned(), name: name.map(str::to_owned) };
    daemon.ended(daemon.engine.pull_image(request).await.unwrap()).await
}

/// Pulls and gives what is on record afterwards.
async fn pulled(daemon: &Daemon, source: &str, name: &str) -> ImageRecord {
    let ended = pull(daemon, source, Some(name)).await;
    assert_eq!(ended.state, OperationState::Succeeded, "{ended:?}");
    daemon.host.store.find_image(name).await.unwrap()
}

/// What a file system made here holds, which is too small for more than one file.
fn has(daemon: &Daemon, image: &ImageRecord, content: &str) -> bool {
    let bytes = std::fs::read(daemon.host.image_dir(&image.id).join("rootfs.ext4")).unwrap();
    bytes.windows(content.len()).any(|window| window == content.as_bytes())
}

#[tokio::test(flavor = "multi_thread")]
async fn images_and_kernels_come_by_their_names() {
    let (world, publisher) = (World::new(), Publisher::start().await);
    publisher.publish("the first edition");
    let daemon = publisher.daemon(&world, publisher.key.public()).await;
    let listed = daemon.host.catalogs.images().await.unwrap();
    assert_eq!((listed.serial, listed.kept_for_ms, listed.entries.len()), (1, None, 1));
    assert_eq!(listed.entries[0].kernel_ref.as_deref(), Some("generic"));

    let ended = pull(&daemon, "tiny", None).await;
    assert_eq!((ended.state, ended.subject.as_str()), (OperationState::Succeeded, "tiny"), "{ended:?}");
    let image = daemon.host.store.find_image("tiny").await.unwrap();
    let (manifest, origin) = (&image.manifest, image.manifest.origin.clone().unwrap());
    assert_eq!((manifest.source.as_str(), manifest.packages), ("catalog:tiny", Some(7)));
    assert_eq!(manifest.exec.workdir.as_deref(), Some("/srv"));
    assert_eq!(origin.kernel_ref.as_deref(), Some("generic"));
    assert_eq!(origin.target, listed.entries[0].digest);
    assert!(has(&daemon, &image, "the first edition") && manifest.content_bytes > 0);
    // The same once more is the same image; what the catalog does not have is a registry's.
    assert_eq!(pulled(&daemon, "catalog:tiny", "other").await.id, image.id);
    assert_eq!(pulled(&daemon, "alpine", "alpine").await.manifest.source, "test");
    let missing = pull(&daemon, "catalog:alpine", None).await.error.unwrap();
    assert_eq!(missing.code, ErrorCode::NotFound);
    assert!(missing.hint.unwrap().contains("image list --available"));

    let source = KernelSource::Catalog { name: "generic".into() };
    let begun = daemon.engine.import_kernel(ImportKernel { source, name: None }).await.unwrap();
    let ended = daemon.ended(begun).await;
    assert_eq!(ended.state, OperationState::Succeeded, "{ended:?}");
    let kernel = daemon.host.store.find_kernel("generic").await.unwrap();
    assert!(kernel.manifest.source.starts_with("catalog:generic@sha256:"));
    let bundle = publisher.image("in a file");
    let image = pulled(&daemon, &format!("bundle:{}", bundle.display()), "filed").await;
    assert!(has(&daemon, &image, "in a file"));
    assert_clean_slate(&daemon).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn what_nobody_trusted_has_signed_is_refused() {
    let (world, publisher) = (World::new(), Publisher::start().await);
    publisher.publish("edition");
    let another = keygen(Algorithm::EcdsaP256Sha256).unwrap().public;
    let daemon = publisher.daemon(&world, &another).await;
    // A short name is not given to somebody else because the catalog cannot be asked.
    let request = PullImage { source: "tiny".into(), name: None };
    let refused = daemon.engine.pull_image(request).await.unwrap_err();
    assert!(refused.message.contains("is not trusted"), "{refused:?}");
    assert!(refused.hint.unwrap().contains("catalog:tiny"));
    let refused = pull(&daemon, "catalog:tiny", None).await.error.unwrap();
    assert!(refused.message.contains("is not trusted"), "{refused:?}");
    assert_eq!(publisher.server.bundles.load(Ordering::SeqCst), 0);
    assert!(daemon.host.store.images().await.unwrap().is_empty());
    assert_clean_slate(&daemon).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_damaged_file_is_no_image() {
    let (world, publisher) = (World::new(), Publisher::start().await);
    publisher.publish("edition");
    for entry in std::fs::read_dir(&publisher.server.site).unwrap().flatten() {
        if entry.file_name().to_string_lossy().ends_with(".tar.zst") {
            let length = entry.metadata().unwrap().len();
            std::fs::write(entry.path(), vec![7; usize::try_from(length).unwrap()]).unwrap();
        }
    }
    let daemon = publisher.daemon(&world, publisher.key.public()).await;
    let refused = pull(&daemon, "tiny", None).await.error.unwrap();
    assert!(refused.hint.unwrap().contains("another file than its catalog lists"), "{}", refused.message);
    assert!(daemon.host.store.images().await.unwrap().is_empty());
    assert_clean_slate(&daemon).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn an_older_list_is_not_taken_and_the_last_one_stays() {
    let (world, publisher) = (World::new(), Publisher::start().await);
    let site = publisher.server.site.clone();
    let documents = ["catalog.json", "catalog.json.sig"];
    publisher.publish("the first edition");
    let first = documents.map(|name| std::fs::read(site.join(name)).unwrap());
    publisher.publish("the second edition");
    let daemon = publisher.daemon(&world, publisher.key.public()).await;
    assert_eq!(daemon.host.catalogs.images().await.unwrap().serial, 2);

    for (name, bytes) in documents.iter().zip(&first) {
        std::fs::write(site.join(name), bytes).unwrap();
    }
    drop(daemon);
    let daemon = publisher.daemon(&world, publisher.key.public()).await;
    let listed = daemon.host.catalogs.images().await.unwrap();
    assert!(listed.serial == 2 && listed.kept_for_ms.is_some(), "{listed:?}");
    assert!(listed.why.unwrap().contains("the serial number 1"));
    let image = pulled(&daemon, "tiny", "tiny").await;
    assert!(has(&daemon, &image, "the second edition"));

    // The number is known even when the list itself is gone.
    for entry in std::fs::read_dir(world.dirs.state.join("catalogs")).unwrap().flatten() {
        if entry.file_name().to_string_lossy().starts_with("catalog-") {
            std::fs::remove_file(entry.path()).unwrap();
        }
    }
    let refused = daemon.host.catalogs.images().await.unwrap_err();
    assert!(refused.message.contains("one with 2 was seen before"), "{refused:?}");
}

#[tokio::test(flavor = "multi_thread")]
async fn what_an_older_list_has_can_be_pulled_after_a_newer_one_came() {
    let (world, publisher) = (World::new(), Publisher::start().await);
    publisher.publish("the first edition");
    let daemon = publisher.daemon(&world, publisher.key.public()).await;
    daemon.host.catalogs.images().await.unwrap();
    publisher.publish("the second edition");
    publisher.server.is_silent.store(true, Ordering::SeqCst);
    let old = pulled(&daemon, "tiny", "old").await;
    assert!(has(&daemon, &old, "the first edition"));
    publisher.server.is_silent.store(false, Ordering::SeqCst);
    let new = pulled(&daemon, "tiny", "new").await;
    assert!(has(&daemon, &new, "the second edition") && new.id != old.id);
}

#[tokio::test(flavor = "multi_thread")]
async fn two_pulls_at_once_fetch_once() {
    let (world, publisher) = (World::new(), Publisher::start().await);
    publisher.publish(&"edition ".repeat(100_000));
    let daemon = publisher.daemon(&world, publisher.key.public()).await;
    let (one, two) = tokio::join!(pulled(&daemon, "tiny", "one"), pulled(&daemon, "tiny", "two"));
    assert_eq!(one.id, two.id);
    assert_eq!(publisher.server.bundles.load(Ordering::SeqCst), 1);
    assert_clean_slate(&daemon).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_pull_that_does_not_end_is_cancelled() {
    let (world, publisher) = (World::new(), Publisher::start().await);
    publisher.publish("edition");
    publisher.server.stalls.store(true, Ordering::SeqCst);
    let daemon = publisher.daemon(&world, publisher.key.public()).await;
    let source = KernelSource::Catalog { name: "generic".into() };
    let kernel = daemon.engine.import_kernel(ImportKernel { source, name: None }).await.unwrap();
    let image = daemon.engine.pull_image(PullImage { source: "tiny".into(), name: None }).await.unwrap();
    let asked = async {
        while publisher.server.bundles.load(Ordering::SeqCst) < 2 {
            tokio::task::yield_now().await;
        }
    };
    soon("both to be asked for", asked).await;
    for begun in [kernel, image] {
        daemon.engine.cancel(&begun.operation).await.unwrap();
        assert_eq!(daemon.ended(begun).await.state, OperationState::Unwound);
    }
    publisher.server.stalls.store(false, Ordering::SeqCst);
    assert!(has(&daemon, &pulled(&daemon, "tiny", "tiny").await, "edition"));
    assert_clean_slate(&daemon).await;
}

/// A catalog in a directory needs no server, and no signature where its owner said so.
#[tokio::test(flavor = "multi_thread")]
async fn a_directory_is_a_catalog() {
    let (world, publisher) = (World::new(), Publisher::start().await);
    publisher.publish("edition");
    let source = Source::parse(&publisher.server.site.to_string_lossy(), Insecure::Refused).unwrap();
    let site = Site::new(source, Trust::None).unwrap();
    let at = |path: &Path, name: &str| path.join(name);
    let (state, cache) = (at(&world.dirs.state, "catalogs"), at(&world.dirs.cache, "oci"));
    *world.catalogs.lock().unwrap() = Some(Arc::new(Shelf::new(Some(site), Options::default(), state, cache)));
    let daemon = Daemon::start(&world, "").await;
    assert!(has(&daemon, &pulled(&daemon, "tiny", "tiny").await, "edition"));
}

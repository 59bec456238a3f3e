//! Images and kernels in the crash matrix: how the host is made ready, and what images are called afterwards.

use std::os::unix::fs::MetadataExt;
use std::path::PathBuf;

use daemon::model::image::ImageManifest;
use daemon::model::progress::Watcher;
use daemon::ops::image_delete::ImageDeletePlan;
use daemon::ops::image_make::ImagePlan;
use daemon::ops::maker::Keeping;
use daemon::ops::{Host, Plan};
use daemon::store::records::ImageRecord;
use wire::api::{BuildImage, ImportKernel, KernelSource, PullImage, RegisterImage};
use wire::id::OpId;

use crate::fake::{self, Daemon};
use crate::templates;

/// Puts an image on record as a pull does, without one: that would meet the faults.
async fn publish(host: &Host, source: &str) {
    let dir = host.images_dir().join("new");
    std::fs::create_dir(&dir).unwrap();
    let fetched = host.puller.fetch(source, &|_| {}).await.unwrap();
    let manifest = fetched.flatten(&dir, Watcher::none()).unwrap();
    std::fs::write(dir.join("manifest.json"), serde_json::to_vec(&manifest).unwrap()).unwrap();
    std::fs::rename(dir, host.image_dir(&manifest.id())).unwrap();
    let (id, name) = (manifest.id(), host.puller.check_source(source).unwrap());
    let record = ImageRecord { id, name, also: Vec::new(), manifest, created_at_ms: 1 };
    host.store.publish_image(record).await.unwrap();
}

async fn pull(host: &Host, source: &str, id: &OpId) -> ImagePlan {
    let request = PullImage { source: source.into(), name: None };
    daemon::ops::image_pull::plan(host, request, id.clone()).await.unwrap()
}

/// A file of the user's, beside what is the daemon's.
fn file_of_mine(host: &Host) -> PathBuf {
    std::fs::create_dir_all(&host.dirs.config).unwrap();
    let path = host.dirs.config.join("mine.ext4");
    std::fs::write(&path, b"rootfs").unwrap();
    path
}

async fn registration(host: &Host, link: bool, id: &OpId) -> ImagePlan {
    let path = file_of_mine(host).to_str().unwrap().to_owned();
    let request = RegisterImage { path, name: "mine".into(), link };
    daemon::ops::image_register::plan(host, request, id.clone()).await.unwrap()
}

/// Puts an image on record that is a link to a file of the user's.
async fn link(host: &Host) {
    let (path, dir) = (file_of_mine(host), host.images_dir().join("new"));
    std::fs::create_dir(&dir).unwrap();
    let manifest = host.maker.register_image(&path, Keeping::Linked, &dir, Watcher::none()).unwrap();
    std::fs::write(dir.join("manifest.json"), serde_json::to_vec(&manifest).unwrap()).unwrap();
    std::fs::rename(dir, host.image_dir(&manifest.id())).unwrap();
    let record = ImageRecord { id: manifest.id(), name: "mine".into(), also: Vec::new(), manifest, created_at_ms: 1 };
    host.store.publish_image(record).await.unwrap();
}

async fn deletion(host: &Host) -> ImageDeletePlan {
    let image = host.store.find_image("debian-bookworm").await.unwrap();
    daemon::ops::image_delete::plan(host, &image, "debian-bookworm").await.unwrap()
}

/// Makes the host ready for `verb` about an image or a kernel, and plans it.
pub(crate) async fn prepare(daemon: &Daemon, verb: &str, id: &OpId) -> Plan {
    let host = &daemon.host;
    match verb {
        "build image" => {
            let request = BuildImage { recipe: "tiny".into(), variant: None, name: None };
            let plan = daemon::ops::image_build::plan(host, request, id.clone()).await.unwrap();
            Plan::ImageBuild(Box::new(plan))
        }
        "pull image" => Plan::ImagePull(Box::new(pull(host, "alpine", id).await)),
        "pull image again" => {
            // The same content under another name, which an image has: that one has one name more, the other another.
            publish(host, "alpine").await;
            let request = PullImage { source: "alpine".into(), name: Some("debian-bookworm".into()) };
            let plan = daemon::ops::image_pull::plan(host, request, id.clone()).await.unwrap();
            Plan::ImagePull(Box::new(plan))
        }
        "register image" => Plan::ImageRegister(Box::new(registration(host, false, id).await)),
        "link image" => Plan::ImageRegister(Box::new(registration(host, true, id).await)),
        "promote image" => {
            link(host).await;
            let record = host.store.find_image("mine").await.unwrap();
            Plan::ImagePromote(Box::new(daemon::ops::image_promote::plan(record, id.clone()).unwrap()))
        }
        "pull from catalog" => Plan::ImagePull(Box::new(pull(host, "listed", id).await)),
        "pull kernel" => {
            let request = ImportKernel { source: KernelSource::Catalog { name: "generic".into() }, name: None };
            let plan = daemon::ops::kernel_import::plan(host, request, id.clone()).await.unwrap();
            Plan::KernelImport(Box::new(plan))
        }
        "delete image" => {
            templates::publish(host).await;
            Plan::ImageDelete(Box::new(deletion(host).await))
        }
        "delete name" => {
            let image = host.store.find_image("debian-bookworm").await.unwrap();
            host.store.name_image(&image.id, "other").await.unwrap();
            Plan::ImageDelete(Box::new(deletion(host).await))
        }
        "import kernel" => {
            let source = KernelSource::Debian { package: "linux-image-x".into() };
            let request = ImportKernel { source, name: None };
            let plan = daemon::ops::kernel_import::plan(host, request, id.clone()).await.unwrap();
            Plan::KernelImport(Box::new(plan))
        }
        "delete kernel" => {
            templates::publish(host).await;
            let kernel = host.store.find_kernel("linux-image-cloud-amd64").await.unwrap();
            Plan::KernelDelete(Box::new(daemon::ops::kernel_delete::plan(host, &kernel).await.unwrap()))
        }
        other => panic!("no verb {other}"),
    }
}

/// Whose file an image is, according to its row, its directory and the file itself.
async fn check_file(host: &Host, is_link: bool, case: &str) {
    let image = host.store.find_image("mine").await.unwrap();
    let dir = host.image_dir(&image.id);
    let said: ImageManifest = serde_json::from_slice(&std::fs::read(dir.join("manifest.json")).unwrap()).unwrap();
    let meta = std::fs::metadata(dir.join("rootfs.ext4")).unwrap();
    let names = if is_link { 2 } else { 1 };
    assert!(!dir.join("linked.ext4").exists(), "{case}");
    assert_eq!((said.linked.is_some(), meta.nlink()), (is_link, names), "{case}");
    assert_eq!(image.manifest.linked, said.linked, "{case}");
    assert!(said.linked.is_none_or(|linked| linked.is_unchanged(&meta)), "{case}");
    assert_eq!(std::fs::read(dir.join("rootfs.ext4")).unwrap(), b"rootfs", "{case}");
}

/// What the default image is called, and whoever else is involved.
pub(crate) async fn check_names(daemon: &Daemon, verb: &str, has_happened: bool, case: &str) {
    match (verb, has_happened) {
        ("register image", true) | ("promote image", true) => check_file(&daemon.host, false, case).await,
        ("link image", true) | ("promote image", false) => check_file(&daemon.host, true, case).await,
        _ => {}
    }
    let images = daemon.host.store.images().await.unwrap();
    let names: Vec<Vec<&str>> = images
        .iter()
        .map(|image| std::iter::once(&image.name).chain(&image.also).map(String::as_str).collect())
        .collect();
    let expected: &[&[&str]] = match (verb, has_happened) {
        ("pull image again", false) => &[&["alpine:latest"], &["debian-bookworm"]],
        ("pull image again", true) => &[&["alpine:latest", "debian-bookworm"], &["debian-bookworm-REPLACED"]],
        ("delete name", false) => &[&["debian-bookworm", "other"]],
        ("delete name", true) => &[&["other"]],
        _ => return,
    };
    let shown = format!("{names:?}").replace(&fake::image("debian-bookworm").id.as_str()[..8], "REPLACED");
    // Put back, a name may be younger than the others.
    let mut sorted: Vec<Vec<&str>> = names.clone();
    sorted.iter_mut().for_each(|names| names.sort_unstable());
    let sorted = format!("{sorted:?}").replace(&fake::image("debian-bookworm").id.as_str()[..8], "REPLACED");
    assert_eq!(sorted, format!("{expected:?}"), "{case}: {shown}");
}

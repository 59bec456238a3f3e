//! Images of files that are there already: whose file it is, and what happens when it changes.

use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};

use wire::api::{CreateVm, Operation, OperationState, PullImage, RegisterImage};

use crate::fake::{Daemon, World};
use crate::ops::request;
use crate::slate::assert_clean_slate;

/// A daemon, and a file of the user's.
async fn begin() -> (Daemon, PathBuf) {
    let world = World::new();
    let daemon = Daemon::start(&world, "").await.with_artifacts().await;
    let config = &daemon.host.dirs.config;
    std::fs::create_dir_all(config).unwrap();
    let file = config.join("mine.ext4");
    std::fs::write(&file, b"rootfs").unwrap();
    (daemon, file)
}

async fn register(daemon: &Daemon, file: &Path, name: &str, link: bool) -> Operation {
    let request = RegisterImage { path: file.to_str().unwrap().to_owned(), name: name.to_owned(), link };
    daemon.ended(daemon.engine.register_image(request).await.unwrap()).await
}

fn succeeded(operation: &Operation) {
    assert_eq!(operation.state, OperationState::Succeeded, "{operation:?}");
}

/// Why it was taken back, and what helps.
fn refusal(operation: &Operation) -> String {
    assert_eq!(operation.state, OperationState::Unwound, "{operation:?}");
    let error = operation.error.as_ref().unwrap();
    format!("{}; {}", error.message, error.hint.clone().unwrap_or_default())
}

#[tokio::test]
async fn a_vm_of_a_file_that_was_changed_does_not_start() {
    let (daemon, file) = begin().await;
    succeeded(&register(&daemon, &file, "mine", true).await);
    let create = CreateVm { image: Some("mine".into()), ..request("web", false) };
    succeeded(&daemon.ended(daemon.engine.create(create).await.unwrap()).await);

    let before = file.metadata().unwrap().modified().unwrap();
    std::fs::write(&file, b"change").unwrap();
    let refused = match daemon.engine.start("web").await {
        Ok(begun) => refusal(&daemon.ended(begun).await),
        Err(cause) => format!("{}; {}", cause.message, cause.hint.unwrap_or_default()),
    };
    let path = file.display().to_string();
    assert!(refused.contains("image mine is your file") && refused.contains(&path), "{refused}");

    // As it was, with its time: nothing has happened.
    std::fs::write(&file, b"rootfs").unwrap();
    std::fs::File::options().write(true).open(&file).unwrap().set_modified(before).unwrap();
    succeeded(&daemon.ended(daemon.engine.promote_image("mine").await.unwrap()).await);
    std::fs::write(&file, b"change").unwrap();
    succeeded(&daemon.ended(daemon.engine.start("web").await.unwrap()).await);
    succeeded(&daemon.ended(daemon.engine.stop("web", None).await.unwrap()).await);
    let again = daemon.engine.promote_image("mine").await.unwrap_err();
    assert!(again.message.contains("the file of mine is banger's own already"), "{again:?}");
    assert_clean_slate(&daemon).await;
}

#[tokio::test]
async fn a_copy_does_not_know_the_file_any_more() {
    let (daemon, file) = begin().await;
    succeeded(&register(&daemon, &file, "mine", false).await);
    let image = daemon.host.store.find_image("mine").await.unwrap();
    std::fs::write(&file, b"change").unwrap();
    let copy = daemon.host.image_dir(&image.id).join("rootfs.ext4");
    assert_eq!((std::fs::read(&copy).unwrap(), copy.metadata().unwrap().nlink()), (b"rootfs".to_vec(), 1));
    assert_clean_slate(&daemon).await;
}

#[tokio::test]
async fn one_content_is_one_image_whoever_has_the_file() {
    let (daemon, file) = begin().await;
    succeeded(&register(&daemon, &file, "mine", true).await);
    succeeded(&register(&daemon, &file, "again", true).await);
    let image = daemon.host.store.find_image("again").await.unwrap();
    assert_eq!((image.name.as_str(), image.also.as_slice()), ("mine", ["again".to_owned()].as_slice()));

    // A copy would be one that the user may change.
    let refused = refusal(&register(&daemon, &file, "copied", false).await);
    assert!(refused.contains("its file is yours") && refused.contains("banger image promote mine"), "{refused}");
    std::fs::write(&file, b"change").unwrap();
    // The fake calls every file the same content: this one is not what is on record any more.
    let refused = refusal(&register(&daemon, &file, "third", true).await);
    assert!(refused.contains("banger image delete mine"), "{refused}");
    assert!(daemon.host.store.find_image("third").await.is_err());
    assert_clean_slate(&daemon).await;

    // The user's file outlives its image.
    succeeded(&daemon.ended(daemon.engine.delete_image(image.id.as_str()).await.unwrap()).await);
    assert_eq!((std::fs::read(&file).unwrap(), file.metadata().unwrap().nlink()), (b"change".to_vec(), 1));
}

#[tokio::test]
async fn a_link_to_what_is_there_adds_a_name() {
    let (daemon, file) = begin().await;
    succeeded(&register(&daemon, &file, "mine", false).await);
    succeeded(&register(&daemon, &file, "linked", true).await);
    let image = daemon.host.store.find_image("linked").await.unwrap();
    assert_eq!((image.name.as_str(), image.manifest.linked), ("mine", None));
    assert_eq!(file.metadata().unwrap().nlink(), 1, "the link is gone with its staging directory");
    assert_clean_slate(&daemon).await;
}

#[tokio::test]
async fn what_is_no_path_or_name_is_refused_before_anything_begins() {
    let (daemon, file) = begin().await;
    for (path, name) in [("relative.ext4", "mine"), (file.to_str().unwrap(), "-x")] {
        let request = RegisterImage { path: path.into(), name: name.into(), link: false };
        assert!(daemon.engine.register_image(request).await.is_err(), "{path}, {name}");
    }
    // Other ways to an image still begin.
    let request = PullImage { source: "alpine".into(), name: None };
    succeeded(&daemon.ended(daemon.engine.pull_image(request).await.unwrap()).await);
    assert!(daemon.engine.promote_image("alpine").await.is_err());
}

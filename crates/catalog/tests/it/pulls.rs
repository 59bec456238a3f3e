//! What is published comes, whole and once.

use catalog::bundle::{Limits, extract_image, extract_kernel};
use catalog::{Current, FetchError, Freshness};
use oci::Architecture;
use sys::clock;

use crate::server::Server;
use crate::world::{Told, World, artifact, noise};

#[tokio::test]
async fn an_image_and_a_kernel_come_from_a_web_server() {
    let world = World::new();
    let content = [noise(100_000), vec![0; 1 << 20], b"end".to_vec()].concat();
    world.publish("debian", &content);
    world.publish_kernel("generic");
    let server = Server::start(&world.site());
    let client = world.client(&server.url());
    let current = client.refresh(0).await.unwrap();
    assert!(matches!(current.freshness, Freshness::Fetched));
    assert_eq!(current.catalog.serial, 2);

    let entry = current.image("debian", Architecture::Amd64).unwrap();
    let told = Told::default();
    let pin = client.pull(&entry.artifact, &world.blobs, &told).await.unwrap();
    assert_eq!((pin.digest, pin.size, told.count("Done")), (entry.artifact.sha256, entry.artifact.size, 1));
    let into = world.dir.path().join("image");
    let image = extract_image(pin.open().unwrap(), &into, &Limits::default(), &mut |_| Ok(())).unwrap();
    image.check(entry).unwrap();
    assert!(std::fs::read(into.join("rootfs.ext4")).unwrap() == content);

    let entry = current.kernel("generic", Architecture::Amd64).unwrap();
    let pin = client.pull(&entry.artifact, &world.blobs, &()).await.unwrap();
    let into = world.dir.path().join("unpacked");
    let kernel = extract_kernel(pin.open().unwrap(), &into, &Limits::default(), &mut |_| Ok(())).unwrap();
    kernel.check(entry).unwrap();
    assert_eq!((kernel.modules, std::fs::read(into.join("modules/6.12/a.ko")).unwrap()), (1, b"module".to_vec()));
    assert!(world.is_quiet());

    // Again, it is there.
    client.pull(&entry.artifact, &world.blobs, &told).await.unwrap();
    assert_eq!((told.count("Cached"), server.asked(&entry.artifact.file).len()), (1, 1));
}

#[tokio::test]
async fn a_directory_is_as_good_as_a_server() {
    let world = World::new();
    world.publish("debian", &noise(10 << 20));
    let client = world.local();
    let current = client.refresh(0).await.unwrap();
    let (file, told) = (artifact(&current, "debian"), Told::default());
    let (one, two) = tokio::join!(client.pull(&file, &world.blobs, &told), client.pull(&file, &world.blobs, &told));
    assert_eq!(one.unwrap().digest, two.unwrap().digest);
    assert!(told.count("Coming") >= 3 && told.count("Done") == 1 && world.is_quiet());
    // With the catalog's own name, and without its file.
    let named = world.client(world.site().join("catalog.json").to_str().unwrap());
    named.refresh(0).await.unwrap();
    std::fs::remove_dir_all(world.dir.path().join("blobs/sha256")).unwrap();
    std::fs::create_dir(world.dir.path().join("blobs/sha256")).unwrap();
    std::fs::remove_file(world.site().join(&file.file)).unwrap();
    let missing = named.pull(&file, &world.blobs, &()).await.unwrap_err();
    assert!(missing.to_string().contains(&file.file), "{missing}");
}

#[tokio::test]
async fn two_at_once_fetch_once() {
    let world = World::new();
    world.publish("debian", &noise(3 << 20));
    let server = Server::start(&world.site());
    let (one, two) = (world.client(&server.url()), world.client(&server.url()));
    let file = artifact(&one.refresh(0).await.unwrap(), "debian");
    let pulls = tokio::join!(
        one.pull(&file, &world.blobs, &()),
        two.pull(&file, &world.blobs, &()),
        two.pull(&file, &world.blobs, &()),
    );
    assert!(pulls.0.is_ok() && pulls.1.is_ok() && pulls.2.is_ok());
    assert_eq!(server.asked(&file.file), [None]);
}

#[tokio::test]
async fn what_an_old_catalog_lists_can_still_be_had() {
    let world = World::new();
    world.publish("debian", b"old");
    let server = Server::start(&world.site());
    let client = world.client(&server.url());
    let old = client.refresh(0).await.unwrap();
    world.publish("debian", b"new");
    let new = client.refresh(old.catalog.serial).await.unwrap();
    assert_ne!(artifact(&old, "debian"), artifact(&new, "debian"));
    for current in [old, new] {
        client.pull(&artifact(&current, "debian"), &world.blobs, &()).await.unwrap();
    }
}

/// A daemon fetches in tasks of its runtime.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_task_may_do_it() {
    let world = World::new();
    world.publish("debian", b"x");
    let (client, blobs) = (world.local(), world.blobs.clone());
    let pulling = async move {
        let file = artifact(&client.refresh(0).await.unwrap(), "debian");
        client.pull(&file, &blobs, &()).await.unwrap().size
    };
    let size = tokio::spawn(pulling).await.unwrap();
    assert!(size > 0);
}

#[tokio::test]
async fn what_is_not_listed_is_not_there() {
    let world = World::new();
    world.publish("debian", b"x");
    let current = world.local().refresh(0).await.unwrap();
    let missing = current.image("debian", Architecture::Arm64).unwrap_err();
    assert_eq!(missing.to_string(), "the catalog has no image \"debian\" for arm64");
    assert!(matches!(current.kernel("debian", Architecture::Amd64), Err(FetchError::NoEntry { .. })));
    let none = Current::embedded().image("debian", Architecture::Amd64).unwrap_err();
    assert_eq!(none.to_string(), "no catalog is configured, so there is no image \"debian\"");
    assert!(none.hint().unwrap().contains("set the address"));
}

#[tokio::test]
async fn a_kept_catalog_knows_its_age() {
    let world = World::new();
    world.publish("debian", b"x");
    let before = clock::monotonic();
    let client = world.local();
    assert!(client.last(0).is_none());
    client.refresh(0).await.unwrap();
    std::fs::remove_dir_all(world.site()).unwrap();
    for current in [client.last(0).unwrap(), client.refresh(1).await.unwrap()] {
        let Freshness::Kept { age, .. } = current.freshness else { panic!("{:?}", current.freshness) };
        assert!(age <= before.elapsed() + std::time::Duration::from_secs(1));
        assert_eq!(current.catalog.images.len(), 1);
    }
}

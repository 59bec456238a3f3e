//! A server that breaks off, lies, dies and comes back.

use catalog::{Artifact, Freshness, PullError};
use oci::Digest;
use oci::blobs::BlobError;
use oci::registry::RegistryError;

use crate::server::{Fault, Server};
use crate::world::{World, artifact, chain, noise};

/// A catalog with an image of some size, and its server.
fn served(length: usize) -> (World, Server) {
    let world = World::new();
    world.publish("debian", &noise(length));
    let server = Server::start(&world.site());
    (world, server)
}

fn is_refused_for(error: &PullError, is_right: impl Fn(&BlobError) -> bool) -> bool {
    match error {
        PullError::Get { source, .. } => matches!(&**source, RegistryError::Keep { source, .. } if is_right(source)),
        PullError::Keep { source, .. } => is_right(source),
        PullError::Read { .. } => false,
    }
}

#[tokio::test]
async fn what_breaks_off_goes_on_where_it_did() {
    let (world, server) = served(3 << 20);
    let client = world.client(&server.url());
    let file = artifact(&client.refresh(0).await.unwrap(), "debian");
    server.fail(&file.file, [Fault::Cut(1 << 20), Fault::Status(503), Fault::Cut(1 << 20)]);
    client.pull(&file, &world.blobs, &()).await.unwrap();
    let asked = server.asked(&file.file);
    assert_eq!(asked.len(), 4);
    assert!(asked[0].is_none() && asked[1] > Some(0) && asked[2] == asked[1] && asked[3] > asked[2], "{asked:?}");
}

#[tokio::test]
async fn a_pull_that_was_given_up_is_gone_on_with() {
    let (world, server) = served(3 << 20);
    let client = world.client(&server.url());
    let file = artifact(&client.refresh(0).await.unwrap(), "debian");
    server.fail(&file.file, [Fault::Cut(1 << 20), Fault::Status(404)]);
    let error = client.pull(&file, &world.blobs, &()).await.unwrap_err();
    assert!(error.to_string().starts_with(&format!("cannot pull {} from http://127.0.0.1", file.file)));
    assert!(error.hint().unwrap().contains("refresh the catalog"));
    // A server that knows no ranges gives all of it.
    server.fail(&file.file, [Fault::Whole]);
    world.client(&server.url()).pull(&file, &world.blobs, &()).await.unwrap();
    assert!(server.asked(&file.file).last().unwrap().is_some() && world.is_quiet());
}

#[tokio::test]
async fn a_file_that_is_too_short_is_not_taken() {
    let (world, server) = served(1 << 20);
    let client = world.client(&server.url());
    let file = artifact(&client.refresh(0).await.unwrap(), "debian");
    server.fail(&file.file, vec![Fault::Short(0); 8]);
    let error = client.pull(&file, &world.blobs, &()).await.unwrap_err();
    assert!(chain(&error).contains("breaks off at byte 0"), "{}", chain(&error));
    assert!(world.blobs.list().unwrap().is_empty());
}

#[tokio::test]
async fn other_bytes_are_not_taken() {
    let (world, server) = served(1 << 20);
    let client = world.client(&server.url());
    let file = artifact(&client.refresh(0).await.unwrap(), "debian");
    let length = usize::try_from(file.size).unwrap();
    server.fail(&file.file, [Fault::Lie(vec![7; length])]);
    let error = client.pull(&file, &world.blobs, &()).await.unwrap_err();
    assert!(is_refused_for(&error, |why| matches!(why, BlobError::Mismatch { .. })), "{}", chain(&error));
    assert!(error.hint().unwrap().contains("tell whoever publishes it"));
    server.fail(&file.file, [Fault::Lie(vec![7; length + 1])]);
    let error = client.pull(&file, &world.blobs, &()).await.unwrap_err();
    assert!(is_refused_for(&error, |why| matches!(why, BlobError::TooLarge { .. })), "{}", chain(&error));
    // The same of a file in a directory.
    for lie in [vec![7; length], vec![7; length + 1], vec![7; length - 1]] {
        std::fs::write(world.site().join(&file.file), lie).unwrap();
        let error = world.local().pull(&file, &world.blobs, &()).await.unwrap_err();
        assert!(is_refused_for(&error, |_| true), "{}", chain(&error));
    }
    assert!(world.blobs.list().unwrap().is_empty());
}

#[tokio::test]
async fn a_size_that_the_catalog_has_wrong_is_noticed() {
    let (world, server) = served(1000);
    let client = world.client(&server.url());
    let file = artifact(&client.refresh(0).await.unwrap(), "debian");
    for size in [file.size - 1, file.size + 1] {
        let wrong = Artifact { size, ..file.clone() };
        assert!(client.pull(&wrong, &world.blobs, &()).await.is_err());
    }
    client.pull(&file, &world.blobs, &()).await.unwrap();
    let wrong = Artifact { size: 1, ..file };
    let error = client.pull(&wrong, &world.blobs, &()).await.unwrap_err();
    assert!(is_refused_for(&error, |why| matches!(why, BlobError::Size { .. })), "{}", chain(&error));
}

#[tokio::test]
async fn a_server_that_is_down_leaves_the_catalog_that_came_last() {
    let (world, server) = served(1000);
    let client = world.client(&server.url());
    let fetched = client.refresh(0).await.unwrap();
    let file = artifact(&fetched, "debian");
    client.pull(&file, &world.blobs, &()).await.unwrap();
    server.fail("catalog.json", vec![Fault::Status(500); 4]);
    let kept = client.refresh(1).await.unwrap();
    let Freshness::Kept { why: Some(why), .. } = &kept.freshness else { panic!("{:?}", kept.freshness) };
    assert!(chain(why).contains("500") && !why.is_suspicious(), "{}", chain(why));
    server.die();
    let kept = world.client(&server.url()).refresh(1).await.unwrap();
    let Freshness::Kept { why: Some(why), .. } = &kept.freshness else { panic!("{:?}", kept.freshness) };
    assert!(why.hint().unwrap().contains("this host's network"), "{}", chain(why));
    assert_eq!(kept.catalog, fetched.catalog);
    // What was pulled before is there.
    client.pull(&artifact(&kept, "debian"), &world.blobs, &()).await.unwrap();
    let absent = Artifact { sha256: Digest::of(b"absent"), ..file };
    assert!(client.pull(&absent, &world.blobs, &()).await.is_err());
    // Who never had it has nothing.
    let stranger = World::new();
    assert!(stranger.client(&server.url()).refresh(0).await.is_err());
}

#[tokio::test]
async fn a_catalog_may_be_elsewhere_and_has_an_end() {
    let (world, server) = served(1000);
    let client = world.client(&server.url());
    server.fail("catalog.json", [Fault::Redirect(format!("{}moved.json", server.url()))]);
    std::fs::copy(world.site().join("catalog.json"), world.site().join("moved.json")).unwrap();
    client.refresh(0).await.unwrap();
    let endless = vec![b' '; (4 << 20) + 1];
    std::fs::write(world.site().join("catalog.json"), &endless).unwrap();
    let stranger = World::new();
    for at in [server.url(), world.site().to_str().unwrap().to_owned()] {
        let client = stranger.client_that(&at, catalog::Trust::None);
        let error = client.refresh(0).await.unwrap_err();
        assert!(chain(&error).contains("4194304"), "{}", chain(&error));
    }
}

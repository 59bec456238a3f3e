//! Signatures, keys, serial numbers, and the catalog that is kept.

use catalog::publish::Published;
use catalog::{Algorithm, FetchError, Freshness, PublicKey, SignatureError, Trust};

use crate::server::{Fault, Server};
use crate::world::{World, key};

fn published() -> (World, Published, Server) {
    let world = World::new();
    let published = world.publish("debian", b"x");
    let server = Server::start(&world.site());
    (world, published, server)
}

/// Why a catalog is not believed by whoever has no other.
async fn refusal(world: &World, server: &Server) -> SignatureError {
    match world.client(&server.url()).refresh(0).await.unwrap_err() {
        FetchError::Signature { source, .. } => source,
        error => panic!("{error}"),
    }
}

#[tokio::test]
async fn either_algorithm_is_believed() {
    for algorithm in [Algorithm::Ed25519, Algorithm::EcdsaP256Sha256] {
        let world = World::signed_by(key(algorithm));
        world.publish("debian", b"x");
        let server = Server::start(&world.site());
        let others = [key(Algorithm::Ed25519), key(Algorithm::EcdsaP256Sha256)];
        let mut trusted: Vec<PublicKey> = others.iter().map(|key| key.public().clone()).collect();
        trusted.push(world.key.public().clone());
        world.client_that(&server.url(), Trust::Keys(trusted)).refresh(0).await.unwrap();
    }
}

#[tokio::test]
async fn a_catalog_that_was_changed_is_not_believed() {
    let (world, _, server) = published();
    world.forge("catalog.json", "\"name\": \"debian\"", "\"name\": \"debiam\"");
    assert!(matches!(refusal(&world, &server).await, SignatureError::Another));
    assert_eq!(server.asked("catalog.json").len(), 2, "it may only have changed in between");
    // Whoever changed it can write its digest into the signature as well.
    let text = std::fs::read(world.site().join("catalog.json")).unwrap();
    let signatures = std::fs::read_to_string(world.site().join("catalog.json.sig")).unwrap();
    let at = signatures.find("\"sha256\": \"").unwrap() + 11;
    let claimed = format!("{}{}{}", &signatures[..at], oci::Digest::of(&text).hex(), &signatures[at + 64..]);
    std::fs::write(world.site().join("catalog.json.sig"), claimed).unwrap();
    let wrong = refusal(&world, &server).await;
    assert!(matches!(&wrong, SignatureError::Wrong(id) if *id == world.key.public().id()));
    assert!(wrong.hint().unwrap().contains("ask its publisher"));
}

#[tokio::test]
async fn a_signature_by_a_stranger_is_none() {
    let (world, _, server) = published();
    let stranger = World::signed_by(key(Algorithm::Ed25519));
    stranger.publish("debian", b"x");
    let theirs = Server::start(&stranger.site());
    let unknown = refusal(&world, &theirs).await;
    assert!(matches!(&unknown, SignatureError::Unknown(ids) if *ids == [stranger.key.public().id()]));
    assert!(unknown.to_string().contains("is not trusted"));
    std::fs::write(world.site().join("catalog.json.sig"), "{}").unwrap();
    assert!(matches!(refusal(&world, &server).await, SignatureError::Malformed(_)));
    std::fs::remove_file(world.site().join("catalog.json.sig")).unwrap();
    for client in [world.client(&server.url()), world.local()] {
        let unsigned = client.refresh(0).await.unwrap_err();
        assert!(matches!(unsigned, FetchError::Unsigned { .. }) && unsigned.is_suspicious(), "{unsigned}");
    }
    // This host's own may be without.
    world.client_that(&server.url(), Trust::None).refresh(0).await.unwrap();
}

#[tokio::test]
async fn an_older_catalog_is_not_taken_for_a_newer() {
    let (world, first, server) = published();
    let old = ["catalog.json", "catalog.json.sig"].map(|file| std::fs::read(world.site().join(file)).unwrap());
    let client = world.client(&server.url());
    assert_eq!(first.catalog.serial, client.refresh(0).await.unwrap().catalog.serial);
    world.publish("debian", b"y");
    let new = client.refresh(1).await.unwrap();
    assert_eq!(new.catalog.serial, 2);
    for (file, bytes) in ["catalog.json", "catalog.json.sig"].iter().zip(&old) {
        std::fs::write(world.site().join(file), bytes).unwrap();
    }
    // Also by whoever remembers no number: the copy does.
    for last in [0, 2] {
        let kept = client.refresh(last).await.unwrap();
        assert_eq!(kept.catalog, new.catalog);
        let Freshness::Kept { why: Some(why), .. } = kept.freshness else { panic!("{:?}", kept.freshness) };
        assert!(matches!(why, FetchError::Rollback { serial: 1, last: 2, .. }) && why.is_suspicious(), "{why}");
    }
    // And by whoever lost the copy, but not the number.
    std::fs::remove_dir_all(world.dir.path().join("kept")).unwrap();
    assert!(matches!(client.refresh(2).await, Err(FetchError::Rollback { .. })));
    assert!(client.last(2).is_none());
}

#[tokio::test]
async fn a_copy_is_proven_again() {
    let (world, _, server) = published();
    let client = world.client(&server.url());
    client.refresh(0).await.unwrap();
    server.die();
    assert!(client.last(0).is_some());
    // The key is not trusted any more, or the number is lower than one that is known.
    let other = Trust::Keys(vec![key(Algorithm::Ed25519).public().clone()]);
    assert!(world.client_that(&server.url(), other).last(0).is_none());
    assert!(client.last(2).is_none());
    let kept = std::fs::read_dir(world.dir.path().join("kept")).unwrap().next().unwrap().unwrap().path();
    let text = std::fs::read_to_string(&kept).unwrap();
    std::fs::write(&kept, text.replace("debian-12", "debian-13")).unwrap();
    assert!(client.last(0).is_none());
    assert!(client.refresh(0).await.is_err());
}

#[tokio::test]
async fn what_a_later_banger_publishes_is_named() {
    let (world, _, server) = published();
    world.forge("catalog.json", "\"version\": 1", "\"version\": 2");
    let error = world.client_that(&server.url(), Trust::None).refresh(0).await.unwrap_err();
    assert!(matches!(error, FetchError::Catalog { .. }));
    assert_eq!(error.hint().as_deref(), Some("update banger"));
}

#[tokio::test]
async fn what_changes_while_it_is_fetched_is_fetched_again() {
    let (world, _, server) = published();
    let old = std::fs::read(world.site().join("catalog.json")).unwrap();
    for content in [b"y", b"z"] {
        world.publish("debian", content);
    }
    server.fail("catalog.json", [Fault::Lie(old)]);
    let current = world.client(&server.url()).refresh(0).await.unwrap();
    assert_eq!(current.catalog.serial, 3);
}

//! What a registry holds comes, whole and once.

use std::collections::HashSet;

use oci::manifest::OCI_INDEX;
use oci::options::{Endpoint, Rules, Security};
use oci::registry::Registry;
use oci::{Architecture, Compression, Source, pull};

use crate::image::{Image, PLAIN_LAYER, Told, cache, chain, config, gzip, index, is_quiet, noise, options};
use crate::server::{Server, status};

fn source(server: &Server, rest: &str) -> Source {
    server.name(rest).parse().unwrap()
}

#[tokio::test]
async fn an_image_comes_with_all_it_says() {
    let (server, (dir, blobs)) = (Server::start(), cache());
    let image = Image::gzip(&[b"lower", b"upper", b"lower"]);
    server.push("a/b", "v1", &image);
    let told = Told::default();
    let pulled = pull(&source(&server, "a/b:v1"), &options(), &blobs, &told).await.unwrap();
    assert_eq!((pulled.target, pulled.manifest), (image.digest(), image.digest()));
    assert_eq!((pulled.config.env[0].as_str(), pulled.config.user.as_str()), ("A=b", "1:2"));
    for (layer, bytes) in pulled.layers.iter().zip(&image.layers) {
        assert_eq!(&std::fs::read(&layer.path).unwrap(), bytes);
        assert_eq!((layer.compression, layer.size), (Compression::Gzip, bytes.len() as u64));
    }
    assert_eq!(pulled.layers.iter().map(|layer| layer.diff_id).collect::<Vec<_>>(), pulled.config.diff_ids);
    assert_eq!((told.count("3 layers"), told.count("Done")), (1, 2));
    assert_eq!(server.asked("/blobs/").len(), 3, "a layer that is there twice comes once");
    assert!(is_quiet(dir.path()));

    // Again: only the tag is asked for. By its digest: nothing is.
    let before = server.seen().len();
    pull(&source(&server, "a/b:v1"), &options(), &blobs, &told).await.unwrap();
    assert_eq!(server.seen().len(), before + 1);
    let pinned = source(&server, &format!("a/b@{}", image.digest()));
    server.die();
    pull(&pinned, &options(), &blobs, &told).await.unwrap();
    let keep: HashSet<_> = pulled.digests().collect();
    drop(pulled);
    assert_eq!(blobs.prune(&keep).unwrap().count, 0);
    assert_eq!(blobs.prune(&HashSet::new()).unwrap().count, 4);
}

#[tokio::test]
async fn an_index_leads_to_this_machines_image() {
    let (server, (_dir, blobs)) = (Server::start(), cache());
    let (amd, arm) = (Image::plain("amd64", &[b"amd"]), Image::plain("arm64", &[b"arm"]));
    let list = index(&[(&arm, "arm64"), (&amd, "amd64")]);
    server.push("x", "amd", &amd);
    server.push("x", "arm", &arm);
    server.put("x/manifests/all", OCI_INDEX, &list);
    for (architecture, image) in [(Architecture::Amd64, &amd), (Architecture::Arm64, &arm)] {
        let options = oci::Options { architecture, ..options() };
        let pulled = pull(&source(&server, "x:all"), &options, &blobs, &()).await.unwrap();
        assert_eq!((pulled.manifest, pulled.target), (image.digest(), oci::Digest::of(&list)));
    }
    let registry = Registry::new(&options()).unwrap();
    assert_eq!(registry.resolve(&server.name("x:all").parse().unwrap()).await.unwrap(), oci::Digest::of(&list));
    // What claims to be for this machine and is not.
    let refused = pull(&source(&server, "x:arm"), &options(), &blobs, &()).await.unwrap_err();
    assert!(chain(&refused).ends_with("not for linux/amd64, but for linux/arm64"), "{}", chain(&refused));
    assert!(server.asked(&oci::Digest::of(b"other").to_string()).is_empty());
}

#[tokio::test]
async fn two_pulls_of_one_layer_are_one() {
    let (server, (_dir, blobs)) = (Server::start(), cache());
    let layer = noise(1, 3 << 20);
    server.push("x", "1", &Image::plain("amd64", &[&layer, b"one"]));
    server.push("x", "2", &Image::plain("amd64", &[&layer, b"two"]));
    let told = Told::default();
    let (one, two) = (source(&server, "x:1"), source(&server, "x:2"));
    let options = options();
    let (one, two) = tokio::join!(pull(&one, &options, &blobs, &told), pull(&two, &options, &blobs, &told));
    assert_eq!(one.unwrap().layers[0], two.unwrap().layers[0]);
    assert_eq!(server.asked(&oci::Digest::of(&layer).to_string()).len(), 1);
    assert_eq!(told.count("Done") + told.count("Cached"), 4);
}

#[tokio::test]
async fn what_contradicts_itself_is_refused() {
    let (server, (_dir, blobs)) = (Server::start(), cache());
    let two = config("amd64", &[b"a", b"b"]);
    server.push("x", "count", &Image::of(two.clone(), vec![b"a".to_vec()], PLAIN_LAYER));
    server.push("x", "diff", &Image::of(two.clone(), vec![b"a".to_vec(), b"other".to_vec()], PLAIN_LAYER));
    server.push("x", "xz", &Image::of(two.clone(), vec![b"\xfd7zXZ\0".to_vec(), gzip(b"b")], PLAIN_LAYER));
    server.put("x/manifests/old", "", br#"{"schemaVersion":1,"fsLayers":[]}"#);
    server.put("x/manifests/large", "", &vec![b' '; (4 << 20) + 1]);
    for (tag, why) in [
        ("count", "the manifest has 1 layers and the configuration 2"),
        ("diff", "is not packed, and is not"),
        ("xz", "is compressed with xz"),
        ("old", "schema 1"),
        ("large", "more than 4194304 bytes"),
    ] {
        let refused = pull(&source(&server, &format!("x:{tag}")), &options(), &blobs, &()).await.unwrap_err();
        assert!(chain(&refused).contains(why), "{}", chain(&refused));
    }
    let mut options = options();
    options.limits.layer_bytes = 4;
    let refused = pull(&source(&server, "x:diff"), &options, &blobs, &()).await.unwrap_err();
    assert!(chain(&refused).contains("more than the 4 bytes it may have"), "{}", chain(&refused));
}

#[tokio::test]
async fn mirrors_are_asked_first_and_passed_over_when_they_fail() {
    let (server, mirror, gone) = (Server::start(), Server::start(), Server::start());
    let image = Image::gzip(&[b"layer", b"another"]);
    server.push("a/x", "1", &image);
    mirror.push("a/x", "1", &image);
    gone.die();
    let endpoint = |server: &Server| Endpoint { host: server.address.to_string(), security: Security::Plain };
    let mut options = options();
    let rules = Rules { mirrors: vec![endpoint(&gone), endpoint(&mirror)], security: None };
    options.registries.insert(server.address.to_string(), rules);
    let (_dir, blobs) = cache();
    pull(&source(&server, "a/x:1"), &options, &blobs, &()).await.unwrap();
    assert_eq!((server.seen().len(), mirror.seen().len()), (0, 4));
    // One that is there and cannot is not waited for as long as the registry would be.
    let (_dir, other) = cache();
    mirror.fail("a/x/manifests/1", (0..9).map(|_| status(503, "")));
    pull(&source(&server, "a/x:1"), &options, &other, &()).await.unwrap();
    assert_eq!((mirror.asked("/manifests/").len(), mirror.asked("/blobs/").len()), (3, 3));
    mirror.clear();
    // One blob is not there, and one is refused.
    let (_dir, blobs) = cache();
    let blob = |at: usize| format!("a/x/blobs/{}", oci::Digest::of(&image.layers[at]));
    mirror.fail(&blob(0), [status(404, "")]);
    mirror.fail(&blob(1), [crate::server::Fault::Lie(vec![7; image.layers[1].len()])]);
    pull(&source(&server, "a/x:1"), &options, &blobs, &()).await.unwrap();
    assert_eq!(server.asked("/blobs/").len(), 3 + 2);
}

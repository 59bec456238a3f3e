//! Files of a web server that is no registry.

use oci::registry::RegistryError;
use oci::{Digest, Web};

use crate::image::{Told, cache, chain, is_quiet, noise, options};
use crate::server::{Fault, Server, status};

fn url(server: &Server, path: &str) -> String {
    format!("http://{}", server.name(&format!("v2/{path}")))
}

#[tokio::test]
async fn a_document_comes_whole_and_has_an_end() {
    let server = Server::start();
    server.put("list", "text/plain", b"content");
    server.fail("list", [status(503, ""), Fault::Cut(3)]);
    let web = Web::new(&options()).unwrap();
    assert_eq!(web.document(&url(&server, "list"), "the list", 7).await.unwrap(), b"content");
    let long = web.document(&url(&server, "list"), "the list", 6).await.unwrap_err();
    assert!(matches!(long, RegistryError::TooLarge { limit_bytes: 6, .. }), "{}", chain(&long));
    let missing = web.document(&url(&server, "other"), "the list", 7).await.unwrap_err();
    assert!(matches!(&missing, RegistryError::NotFound { what, .. } if what == "the list"));
    let nowhere = web.document("no address", "the list", 7).await.unwrap_err();
    assert!(matches!(nowhere, RegistryError::Address { .. }));
    server.die();
    let down = web.document(&url(&server, "list"), "the list", 7).await.unwrap_err();
    assert!(matches!(down, RegistryError::Reach { .. }), "{}", chain(&down));
}

#[tokio::test]
async fn a_file_is_a_blob_and_is_resumed() {
    let (server, (dir, blobs)) = (Server::start(), cache());
    let bytes = noise(2, 3 << 20);
    server.put("file", "application/octet-stream", &bytes);
    server.fail("file", [Fault::Cut(1 << 20)]);
    let (web, told, url) = (Web::new(&options()).unwrap(), Told::default(), url(&server, "file"));
    let (digest, size) = (Digest::of(&bytes), bytes.len() as u64);
    let pull = || web.file(&url, "the file", digest, size, &blobs, &told);
    let (one, two) = tokio::join!(pull(), pull());
    assert_eq!((one.unwrap().digest, two.unwrap().size), (digest, size));
    let asked = server.asked("file");
    assert!(asked.len() == 2 && asked[1].range.is_some(), "{asked:?}");
    assert!(is_quiet(dir.path()) && told.count("Retrying") == 1);
    let other = web.file(&url, "the file", Digest::of(b"other"), size, &blobs, &told).await.unwrap_err();
    assert!(matches!(&other, RegistryError::Keep { what, .. } if what == "the file"), "{}", chain(&other));
}

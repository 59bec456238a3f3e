//! A Docker daemon on its socket, as far as it makes archives.

use axum::Router;
use axum::body::Body;
use axum::extract::Path;
use axum::http::{Response, StatusCode};
use oci::{Digest, Options, Source, pull};
use serde_json::json;

use crate::image::{cache, chain, config, options};

/// What it saves: one layer.
fn saved() -> Vec<u8> {
    let config = config("amd64", &[b"layer"]);
    let name = format!("{}.json", Digest::of(&config).hex());
    let index = serde_json::to_vec(&json!([{"Config": name, "RepoTags": ["x:1"], "Layers": ["l/layer.tar"]}])).unwrap();
    let mut builder = tar::Builder::new(Vec::new());
    for (name, bytes) in [(name.as_str(), &config[..]), ("l/layer.tar", b"layer"), ("manifest.json", &index)] {
        let mut header = tar::Header::new_gnu();
        header.set_size(bytes.len() as u64);
        header.set_mode(0o644);
        header.set_uid(0);
        header.set_gid(0);
        header.set_mtime(0);
        header.set_cksum();
        builder.append_data(&mut header, name, bytes).unwrap();
    }
    builder.into_inner().unwrap()
}

async fn answer(Path(name): Path<String>) -> Response<Body> {
    match name.as_str() {
        "x:1" => Response::new(Body::from(saved())),
        "ghcr.io/a/b:2" => Response::new(Body::from(saved()[..1000].to_vec())),
        _ => Response::builder().status(StatusCode::NOT_FOUND).body(Body::empty()).unwrap(),
    }
}

#[tokio::test]
async fn its_images_are_taken_from_the_archive_it_makes() {
    let (dir, blobs) = cache();
    let socket = dir.path().join("docker.sock");
    let listener = tokio::net::UnixListener::bind(&socket).unwrap();
    let app = Router::new().route("/images/{name}/get", axum::routing::get(answer));
    let server = tokio::spawn(async move { axum::serve(listener, app).await });
    let options = Options { docker_socket: socket, ..options() };
    let source = |text: &str| format!("docker-daemon:{text}").parse::<Source>().unwrap();
    let pulled = pull(&source("x:1"), &options, &blobs, &()).await.unwrap_or_else(|error| panic!("{}", chain(&error)));
    assert_eq!(std::fs::read(&pulled.layers[0].path).unwrap(), b"layer");
    for (name, why) in [("y", "it has no image docker.io/library/y:latest"), ("ghcr.io/a/b:2", "it ends too early")] {
        let refused = pull(&source(name), &options, &blobs, &()).await.unwrap_err();
        assert!(chain(&refused).contains(why), "{}", chain(&refused));
    }
    server.abort();
    let nobody = Options { docker_socket: dir.path().join("nobody.sock"), ..options };
    let refused = pull(&source("x:1"), &nobody, &blobs, &()).await.unwrap_err();
    assert!(chain(&refused).contains("cannot reach it at"), "{}", chain(&refused));
    assert!(refused.hint().unwrap().contains("is Docker running"));
}

//! Keys and signatures of OpenSSL's, and ours in its eyes. What is in `fixtures/` was made so:
//!
//! ```text
//! openssl genpkey -algorithm ed25519                                   openssl pkeyutl -sign -rawin
//! openssl genpkey -algorithm EC -pkeyopt ec_paramgen_curve:P-256       openssl dgst -sha256 -sign
//! ```

use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use catalog::keys::{Algorithm, KeyError, PrivateKey, PublicKey};
use catalog::signature::Signatures;

use crate::server::Server;
use crate::world::{World, key};

const BOTH: [(&str, Algorithm); 2] = [("ed25519", Algorithm::Ed25519), ("p256", Algorithm::EcdsaP256Sha256)];

fn fixture(name: &str) -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/it/fixtures").join(name)
}

fn read(name: &str) -> Vec<u8> {
    std::fs::read(fixture(name)).unwrap()
}

fn text(name: &str) -> String {
    String::from_utf8(read(name)).unwrap()
}

/// The program is one of the packages that the tests need.
fn openssl(args: &[&str]) -> Vec<u8> {
    let output = Command::new("openssl").args(args).stdin(Stdio::null()).output().unwrap();
    assert!(output.status.success(), "openssl {args:?}: {}", String::from_utf8_lossy(&output.stderr));
    output.stdout
}

#[test]
fn its_signatures_are_believed() {
    let document = read("catalog.json");
    for (name, algorithm) in BOTH {
        let public: PublicKey = text(&format!("{name}.pub.pem")).parse().unwrap();
        assert_eq!(public.algorithm(), algorithm);
        let signature = STANDARD.decode(text(&format!("{name}.sig.base64"))).unwrap();
        assert!(public.has_signed(&document, &signature), "{name}");
        assert!(!public.has_signed(&document[1..], &signature), "{name}");
        assert_eq!(public.to_pem(), text(&format!("{name}.pub.pem")));
    }
}

#[test]
fn its_keys_sign() {
    let document = read("catalog.json");
    for (name, _) in BOTH {
        let key = PrivateKey::parse(&read(&format!("{name}.pem"))).unwrap();
        let public: PublicKey = text(&format!("{name}.pub.pem")).parse().unwrap();
        assert_eq!(key.public(), &public);
        let signatures = Signatures::sign(&document, &[key]).unwrap();
        signatures.check(&document, &[public]).unwrap();
    }
    let refused = |name: &str| PrivateKey::parse(&read(name)).unwrap_err();
    assert_eq!(refused("ed25519.encrypted.pem"), KeyError::Encrypted);
    assert_eq!(refused("p256.sec1.pem"), KeyError::Old);
    let old = openssl(&["ec", "-in", fixture("p256.pem").to_str().unwrap(), "-outform", "DER"]);
    assert_eq!(PrivateKey::parse(&old).unwrap_err(), KeyError::Old);
    assert_eq!(refused("p384.pem"), KeyError::Private);
    assert_eq!(refused("ed25519.pub.pem"), KeyError::Private);
}

#[test]
fn it_believes_ours() {
    let dir = tempfile::tempdir().unwrap();
    let path = |name: &str| dir.path().join(name).to_str().unwrap().to_owned();
    for (name, algorithm) in BOTH {
        let made = catalog::keygen(algorithm).unwrap();
        std::fs::write(path("key.pem"), &made.private_pem).unwrap();
        let public = String::from_utf8(openssl(&["pkey", "-in", &path("key.pem"), "-pubout"])).unwrap();
        assert_eq!(public, made.public.to_pem(), "{name}");
        let der = openssl(&["pkcs8", "-topk8", "-nocrypt", "-in", &path("key.pem"), "-outform", "DER"]);
        assert_eq!(PrivateKey::parse(&der).unwrap().public(), &made.public);

        let key = PrivateKey::parse(made.private_pem.as_bytes()).unwrap();
        std::fs::write(path("public.pem"), &public).unwrap();
        std::fs::write(path("document"), "what is signed").unwrap();
        std::fs::write(path("signature"), key.sign(b"what is signed").unwrap()).unwrap();
        let (public, signature, document) = (path("public.pem"), path("signature"), path("document"));
        match algorithm {
            Algorithm::Ed25519 => openssl(&[
                "pkeyutl", "-verify", "-rawin", "-pubin", "-inkey", &public, "-sigfile", &signature, "-in", &document,
            ]),
            Algorithm::EcdsaP256Sha256 => {
                openssl(&["dgst", "-sha256", "-verify", &public, "-signature", &signature, &document])
            }
        };
    }
}

#[tokio::test]
async fn a_catalog_signed_with_its_keys_is_pulled_from() {
    for (name, _) in BOTH {
        let world = World::signed_by(PrivateKey::parse(&read(&format!("{name}.pem"))).unwrap());
        world.publish("debian", b"x");
        let server = Server::start(&world.site());
        let current = world.client(&server.url()).refresh(0).await.unwrap();
        assert_eq!(current.catalog.images.len(), 1);
        let stranger = key(Algorithm::Ed25519);
        let trust = catalog::Trust::Keys(vec![stranger.public().clone()]);
        assert!(world.client_that(&format!("{}x/", server.url()), trust).refresh(0).await.is_err());
    }
}

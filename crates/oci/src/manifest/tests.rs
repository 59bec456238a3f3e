//! Documents of both families, and what is none.

use proptest::prelude::*;
use serde_json::json;

use super::*;

fn descriptor(media_type: &str) -> serde_json::Value {
    json!({"mediaType": media_type, "digest": Digest::of(media_type.as_bytes()), "size": 7})
}

fn for_platform(os: &str, architecture: &str, variant: Option<&str>) -> Descriptor {
    let mut descriptor =
        Descriptor::new(OCI_MANIFEST, Digest::of(format!("{os}{architecture}{variant:?}").as_bytes()), 1);
    descriptor.platform =
        Some(Platform { architecture: architecture.into(), os: os.into(), variant: variant.map(Into::into) });
    descriptor
}

fn read(value: &serde_json::Value, said: Option<&str>) -> Result<Document, ManifestError> {
    parse(&serde_json::to_vec(value).unwrap(), said)
}

#[test]
fn both_families_are_read_whoever_says_what_they_are() {
    let docker_layer = "application/vnd.docker.image.rootfs.diff.tar.gzip";
    for (kind, config, layer) in [
        (OCI_MANIFEST, OCI_CONFIG, "application/vnd.oci.image.layer.v1.tar+zstd"),
        (DOCKER_MANIFEST, DOCKER_CONFIG, docker_layer),
    ] {
        let mut value = json!({"schemaVersion": 2, "config": descriptor(config), "layers": [descriptor(layer)]});
        for said in [None, Some(kind), Some("application/json; charset=utf-8")] {
            let Ok(Document::Manifest(manifest)) = read(&value, said) else { panic!("{kind} {said:?}") };
            assert_eq!((manifest.layers.len(), manifest.layers[0].size), (1, 7));
            assert_eq!(
                read(&serde_json::from_slice(&manifest.render()).unwrap(), None).unwrap(),
                Document::Manifest(manifest)
            );
        }
        value["mediaType"] = kind.into();
        assert!(matches!(read(&value, Some(OCI_INDEX)), Ok(Document::Manifest(_))));
    }
    let index = json!({"schemaVersion": 2, "manifests": [descriptor(OCI_MANIFEST)]});
    assert!(matches!(read(&index, None), Ok(Document::Index(_))));
    assert!(matches!(read(&index, Some(DOCKER_INDEX)), Ok(Document::Index(_))));
}

#[test]
fn what_is_no_image_is_refused_by_name() {
    let config = descriptor(OCI_CONFIG);
    let odd = "application/vnd.oci.image.layer.v1.tar+encrypted";
    let layer = descriptor("application/vnd.oci.image.layer.v1.tar");
    let table = [
        (json!({"schemaVersion": 1, "fsLayers": []}), "schema 1"),
        (json!({"schemaVersion": 2, "manifests": [], "layers": []}), "at once"),
        (json!({"schemaVersion": 2, "manifests": [], "config": config}), "at once"),
        (json!({"schemaVersion": 2}), "neither"),
        (json!({"schemaVersion": 2, "mediaType": OCI_INDEX, "config": config, "layers": []}), "neither"),
        (json!({"schemaVersion": 2, "mediaType": "x/y", "config": config, "layers": []}), "\"x/y\" is neither"),
        (
            json!({"schemaVersion": 2, "config": descriptor("application/vnd.cncf.helm.config.v1+json"), "layers": []}),
            "helm",
        ),
        (json!({"schemaVersion": 2, "config": config, "layers": [descriptor(odd)]}), "tar+encrypted"),
        (json!({"schemaVersion": 2, "config": config, "layers": vec![layer; 501]}), "501 layers"),
        (json!({"schemaVersion": 2, "manifests": vec![config.clone(); 1001]}), "1001 manifests"),
        (json!({"config": config}), "cannot read"),
        (json!([]), "cannot read"),
    ];
    for (value, why) in table {
        let refused = read(&value, None).unwrap_err().to_string();
        assert!(refused.contains(why), "{refused}: {why}");
    }
}

#[test]
fn this_machines_manifest_is_chosen_in_its_plainest_variant() {
    let index = Index {
        manifests: vec![
            for_platform("unknown", "unknown", None),
            for_platform("windows", "amd64", None),
            for_platform("linux", "amd64", Some("v3")),
            for_platform("linux", "amd64", None),
            for_platform("linux", "arm64", Some("v8")),
        ],
    };
    assert_eq!(index.choose(Architecture::Amd64).unwrap(), &index.manifests[3]);
    assert_eq!(index.choose(Architecture::Arm64).unwrap(), &index.manifests[4]);
    let others = Index { manifests: index.manifests[..2].to_vec() };
    let refused = others.choose(Architecture::Arm64).unwrap_err().to_string();
    assert_eq!(refused, "the image is not for linux/arm64, but for windows/amd64");
    let unnamed = Index { manifests: vec![Descriptor::new(OCI_MANIFEST, Digest::of(b""), 1)] };
    assert!(unnamed.choose(Architecture::Amd64).is_ok());
}

#[test]
fn compression_is_what_the_bytes_show() {
    let table: [(&[u8], _); 6] = [
        (b"", Ok(Compression::None)),
        (b"\x1f\x8b\x08", Ok(Compression::Gzip)),
        (b"\x28\xb5\x2f\xfd!!", Ok(Compression::Zstd)),
        (b"./usr\0", Ok(Compression::None)),
        (b"\xfd7zXZ\0", Err("xz")),
        (b"BZh91A", Err("bzip2")),
    ];
    for (head, expected) in table {
        assert_eq!(Compression::sniff(head), expected);
    }
    for compression in [Compression::None, Compression::Gzip, Compression::Zstd] {
        assert!(is_layer(&layer_type(compression)));
    }
}

proptest! {
    #[test]
    fn arbitrary_documents_never_panic(
        text in r#"(\{|\}|"schemaVersion":|2|"manifests":|"layers":|"config":|"digest":|"size":|\[|\]|null|,|"x"){0,40}"#,
    ) {
        let _outcome = parse(text.as_bytes(), None);
    }

    #[test]
    fn mutated_documents_never_panic(at in any::<prop::sample::Index>(), byte in any::<u8>()) {
        let value = json!({"schemaVersion": 2, "config": descriptor(OCI_CONFIG), "layers": []});
        let mut bytes = serde_json::to_vec(&value).unwrap();
        let at = at.index(bytes.len());
        bytes[at] = byte;
        let _outcome = parse(&bytes, Some(OCI_MANIFEST));
    }
}

//! Documents: read strictly, written as they are read.

use proptest::prelude::*;
use serde_json::json;

use super::*;
use crate::name::file_name;

/// An image of this name whose file is `content`.
pub(crate) fn image(name: &str, arch: &str, content: &[u8]) -> ImageEntry {
    let (name, arch): (Name, Word) = (name.parse().unwrap(), arch.parse().unwrap());
    let sha256 = Digest::of(content);
    let artifact = Artifact { file: file_name(&name, &arch, &sha256), sha256, size: content.len() as u64 };
    let (distro, kernel_ref) = ("debian-12".parse().unwrap(), Some("generic-6.12".parse().unwrap()));
    ImageEntry { name, distro, arch, kernel_ref, artifact, description: "what it is".to_owned() }
}

fn kernel(name: &str, arch: &str, content: &[u8]) -> KernelEntry {
    let ImageEntry { name, distro, arch, artifact, description, .. } = image(name, arch, content);
    KernelEntry { name, distro, arch, version: "6.12.48+deb13".parse().unwrap(), artifact, description }
}

fn catalog() -> Catalog {
    let images = vec![image("a", "amd64", b"1"), image("a", "arm64", b"2"), image("b", "amd64", b"3")];
    Catalog { serial: 7, images, kernels: vec![kernel("a", "x86_64", b"4")] }
}

fn changed(change: impl Fn(&mut Value)) -> Result<Catalog, CatalogError> {
    let mut value = serde_json::from_str(&catalog().render()).unwrap();
    change(&mut value);
    Catalog::parse(value.to_string().as_bytes())
}

fn why(outcome: Result<Catalog, CatalogError>) -> String {
    let error = outcome.unwrap_err();
    let source = std::error::Error::source(&error).map(ToString::to_string).unwrap_or_default();
    format!("{error}: {source}")
}

#[test]
fn what_is_written_reads_back() {
    let catalog = catalog();
    assert_eq!(Catalog::parse(catalog.render().as_bytes()).unwrap(), catalog);
    let found = catalog.image("a", Architecture::Arm64).unwrap();
    assert_eq!(found.artifact.sha256, Digest::of(b"2"));
    assert!(catalog.image("b", Architecture::Arm64).is_none());
    assert_eq!(catalog.kernel("a", Architecture::Amd64).unwrap().version.as_str(), "6.12.48+deb13");
    assert_eq!(catalog.artifacts().count(), 4);
}

#[test]
fn a_later_minor_may_have_more_and_this_one_may_not() {
    let later = changed(|value| {
        value["minor"] = json!(9);
        value["mirrors"] = json!(["x"]);
        value["images"][0]["popularity"] = json!({ "of": 3 });
    });
    assert_eq!(later.unwrap(), catalog());
    assert!(why(changed(|value| value["mirrors"] = json!([]))).contains("\"mirrors\""));
    assert!(why(changed(|value| value["kernels"][0]["colour"] = json!(1))).starts_with("kernel a of the catalog"));
    assert!(why(changed(|value| value["kernels"][0]["kernel_ref"] = json!("x"))).contains("\"kernel_ref\""));
}

#[test]
fn another_version_is_refused_whatever_else_it_says() {
    let refused = Catalog::parse(br#"{"version": 2, "serial": "seven", "images": {}}"#).unwrap_err();
    assert!(matches!(refused, CatalogError::Version { version: 2 }));
    assert_eq!(refused.hint(), Some("update banger"));
    assert!(matches!(changed(|value| value["version"] = json!(0)), Err(CatalogError::Version { version: 0 })));
    assert!(matches!(changed(|value| value["version"] = json!("1")), Err(CatalogError::Malformed(_))));
}

#[test]
fn entries_are_what_they_may_be() {
    let cases: [(&str, &str, Value, &str); 14] = [
        ("images", "name", json!("../a"), "is no name"),
        ("images", "name", json!("b"), "not called"),
        ("images", "arch", json!(""), "is no name of"),
        ("images", "distro", json!("a b"), "is no name of"),
        ("images", "kernel_ref", json!("-"), "is no name"),
        ("images", "file", json!("../a-amd64-6b86b273ff34.tar.zst"), "not called"),
        ("images", "file", json!("http://x/a-amd64-6b86b273ff34.tar.zst"), "not called"),
        ("images", "sha256", json!("6B86B2"), "is no digest"),
        ("images", "size", json!(0), "0 bytes"),
        ("images", "size", json!(1_u64 << 60), "bytes"),
        ("images", "description", json!("\u{1b}[2J"), "terminals"),
        ("images", "description", json!("x".repeat(1001)), "letters"),
        ("kernels", "version", json!(null), "is no name of"),
        ("images", "size", json!(-1), "malformed"),
    ];
    for (list, field, value, expected) in cases {
        let said = why(changed(|document| document[list][0][field] = value.clone()));
        assert!(said.contains(expected), "{list} {field} {value}: {said}");
    }
    assert!(why(changed(|value| value["images"][1] = value["images"][0].clone())).ends_with("it is there twice"));
    let mut both = catalog();
    both.images.push(image("a", "x86_64", b"5"));
    assert!(why(Catalog::parse(both.render().as_bytes())).ends_with("it is there twice"));
    assert!(why(changed(|value| value["serial"] = json!(u64::MAX))).contains("serial"));
}

#[test]
fn it_has_an_end() {
    let long = format!("{}{}", catalog().render(), " ".repeat(4 << 20));
    assert!(matches!(Catalog::parse(long.as_bytes()), Err(CatalogError::TooLarge { .. })));
    let images: Vec<_> = (0..10_001).map(|n| image(&format!("i{n}"), "amd64", b"1")).collect();
    let many = Catalog { serial: 1, images, kernels: Vec::new() };
    let many: Value = serde_json::from_str(&many.render()).unwrap();
    assert!(why(Catalog::parse(many.to_string().as_bytes())).contains("10000 entries"));
    let deep = format!(r#"{{"version":1,"minor":1,"serial":1,"x":{}1{}}}"#, "[".repeat(1000), "]".repeat(1000));
    assert!(matches!(Catalog::parse(deep.as_bytes()), Err(CatalogError::Malformed(_))));
}

#[test]
fn an_entry_of_the_original_system_reads() {
    let digest = Digest::of(b"x").hex();
    let text = format!(
        r#"{{"version":1,"serial":1,"images":[{{"name":"debian-bookworm","distro":"debian","arch":"x86_64",
            "kernel_ref":"generic-6.12","file":"debian-bookworm-x86_64-{}.tar.zst","sha256":"{digest}","size":9}}]}}"#,
        &digest[..12]
    );
    let catalog = Catalog::parse(text.as_bytes()).unwrap();
    assert!(catalog.image("debian-bookworm", Architecture::Amd64).is_some());
}

prop_compose! {
    fn any_image()(
        name in "[A-Za-z0-9][A-Za-z0-9._-]{0,30}",
        arch in "[a-z][a-z0-9_]{0,9}",
        content in prop::collection::vec(any::<u8>(), 1..20),
        description in "[^\\p{C}]{0,50}",
        kernel_ref in prop::option::of("[a-z][a-z0-9.-]{0,9}"),
    ) -> ImageEntry {
        let kernel_ref = kernel_ref.map(|name| name.parse().unwrap());
        ImageEntry { description, kernel_ref, ..image(&name, &arch, &content) }
    }
}

proptest! {
    #[test]
    fn every_catalog_reads_back(images in prop::collection::vec(any_image(), 0..6), serial in 0..SERIAL_MAX) {
        let mut seen = HashSet::new();
        let images = images.into_iter().filter(|e| seen.insert((e.name.clone(), e.arch.processor().to_owned())));
        let catalog = Catalog { serial, images: images.collect(), kernels: Vec::new() };
        prop_assert_eq!(Catalog::parse(catalog.render().as_bytes()).unwrap(), catalog);
    }

    #[test]
    fn arbitrary_bytes_never_panic(bytes in prop::collection::vec(any::<u8>(), 0..200)) {
        drop(Catalog::parse(&bytes));
    }
}

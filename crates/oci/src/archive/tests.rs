//! Names in an archive, and which image of several.

use proptest::prelude::*;

use super::contents::inside;
use super::docker;
use crate::source::Choice;

#[test]
fn names_stay_inside() {
    for (from, path, name) in [
        ("", "a/b", Ok("a/b")),
        ("", "./a//b/.", Ok("a/b")),
        ("", "", Ok("")),
        ("id", "../other/layer.tar", Ok("other/layer.tar")),
        ("id", "../../etc", Err("its name leads out of the archive")),
        ("", "../etc", Err("there is .. in its name")),
        ("", "a/../b", Err("there is .. in its name")),
        ("", "/etc", Err("its name is absolute")),
        ("id", "/etc", Err("its name is absolute")),
        ("", "a\0b", Err("there is a zero byte in its name")),
    ] {
        assert_eq!(inside(from, path.as_bytes()), name.map(str::to_owned), "{from} {path}");
    }
    assert!(inside("", b"\xff").is_err());
    assert!(inside("", &[b'a'; 2000]).is_err());
}

#[test]
fn an_image_is_chosen_by_name_or_place() {
    let text =
        br#"[{"Config":"a.json","RepoTags":["x:1","h.io/y:2"],"Layers":null},{"Config":"b.json","RepoTags":null}]"#;
    let images = docker::parse(text).unwrap();
    let named = |name: &str| docker::choose(&images, &Choice::Named(name.into())).map(|image| image.config.clone());
    for name in ["x:1", "docker.io/library/x:1", "h.io/y:2"] {
        assert_eq!(named(name).unwrap(), "a.json", "{name}");
    }
    let refused = named("z").unwrap_err().to_string();
    assert_eq!(refused, "it has no image :z, but x:1, h.io/y:2");
    assert_eq!(docker::choose(&images, &Choice::At(1)).unwrap().config, "b.json");
    assert!(docker::choose(&images, &Choice::At(2)).is_err());
    let several = docker::choose(&images, &Choice::Only).unwrap_err();
    assert!(several.to_string().contains("several images") && several.hint().unwrap().contains(":@NUMBER"));
    assert!(docker::parse(br#"{"Config":1}"#).is_err());
}

proptest! {
    #[test]
    fn whatever_a_name_says_it_stays_inside(from in "[a-c/]{0,6}", path in "(\\.\\.|\\.|/|a|b|\\PC){0,12}") {
        if let Ok(name) = inside(&from, path.as_bytes()) {
            prop_assert!(!name.starts_with('/') && !name.split('/').any(|part| part == ".." || part == "."), "{}", name);
        }
    }

    #[test]
    fn arbitrary_indexes_never_panic(text in r#"(\[|\]|\{|\}|"Config":|"x"|"RepoTags":|"Layers":|null|,){0,30}"#) {
        if let Ok(images) = docker::parse(text.as_bytes()) {
            let _outcome = docker::choose(&images, &Choice::Named("x".into()));
        }
    }
}

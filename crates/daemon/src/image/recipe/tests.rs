//! Recipes good and bad, and those this repository brings.

use super::*;
use proptest::prelude::*;

const TEXT: &str = r#"
name = "tiny"
description = "a test"
suite = "bookworm"
components = ["main"]
default_variant = "full"
[variants.minimal]
packages = ["systemd-sysv"]
hooks = ["hooks/a.sh"]
mask = ["getty@tty1.service"]
exec = { env = { A = "1", B = "1" }, user = "dev" }
[variants.full]
extends = "minimal"
description = "all of it"
exec = { env = { B = "2" }, workdir = "/srv" }
packages = ["g++", "libc6:amd64"]
[[variants.full.downloads]]
registry = "npm"
package = "@who/what"
version = "1.2.3"
sha256 = "ba7816bf8f01cfea414140de5dae2223b00361a396177a9cb410ff61f20015ad"
member = "package/bin/what"
target = "/usr/local/bin/what"
mode = 0o755
"#;

fn recipe_dir(text: &str) -> tempfile::TempDir {
    let dir = tempfile::tempdir().unwrap();
    std::fs::create_dir(dir.path().join("hooks")).unwrap();
    std::fs::write(dir.path().join("hooks/a.sh"), "#!/bin/sh\n").unwrap();
    sys::fs::set_mode(&dir.path().join("hooks/a.sh"), 0o755).unwrap();
    std::fs::write(dir.path().join(RECIPE_FILE), text).unwrap();
    dir
}

fn refusal(text: &str) -> String {
    let err = load(recipe_dir(text).path(), None).unwrap_err();
    let cause = std::error::Error::source(&err).map(ToString::to_string).unwrap_or_default();
    format!("{err} {cause}")
}

#[test]
fn a_variant_adds_to_what_it_extends() {
    let dir = recipe_dir(TEXT);
    let full = load(dir.path(), None).unwrap();
    assert_eq!((full.variant.as_str(), full.description.as_str()), ("full", "all of it"));
    assert_eq!(full.packages, ["systemd-sysv", "g++", "libc6:amd64"]);
    assert_eq!(full.hooks, [dir.path().join("hooks/a.sh")]);
    assert_eq!(full.downloads[0].mode, 0o755);
    let env = [("A", "1"), ("B", "2")].map(|(name, value)| (name.to_owned(), value.to_owned()));
    let exec = ExecSettings { env: env.into(), user: Some("dev".to_owned()), workdir: Some("/srv".to_owned()) };
    assert_eq!(full.exec, exec);
    let minimal = load(dir.path(), Some("minimal")).unwrap();
    assert_eq!((minimal.packages.len(), minimal.downloads.len()), (1, 0));
    assert_ne!(minimal.digest, full.digest);
}

#[test]
fn the_digest_follows_hooks_but_not_the_place() {
    let (one, two) = (recipe_dir(TEXT), recipe_dir(TEXT));
    let digest = |dir: &tempfile::TempDir| load(dir.path(), None).unwrap().digest;
    assert_eq!(digest(&one), digest(&two));
    std::fs::write(two.path().join("hooks/a.sh"), "#!/bin/sh\ntrue\n").unwrap();
    assert_ne!(digest(&one), digest(&two));
}

#[test]
fn bad_values_are_named() {
    for (from, to, what) in [
        ("suite = ", "suit = ", "suit"),
        ("\"systemd-sysv\"", "\"--option\"", "--option"),
        ("\"systemd-sysv\"", "\"a,b\"", "a,b"),
        ("hooks/a.sh", "../a.sh", "../a.sh"),
        ("hooks/a.sh", "hooks/none.sh", "hooks/none.sh"),
        ("getty@tty1.service", "../x.service", "../x.service"),
        ("extends = \"minimal\"", "extends = \"full\"", "circle"),
        ("extends = \"minimal\"", "extends = \"none\"", "minimal"),
        ("/usr/local/bin/what", "/usr/../../x", "/usr/../../x"),
        ("/usr/local/bin/what", "/usr/$(id)", "$(id)"),
        ("package/bin/what", "../what", "../what"),
        ("ba7816bf", "xx7816bf", "xx7816bf"),
        ("0o755", "0o77777", "77777"),
        ("\"npm\"", "\"ftp\"", "ftp"),
        ("A = ", "1A = ", "1A"),
        ("\"dev\"", "\"dev oops\"", "dev oops"),
        ("\"/srv\"", "\"/srv/../x\"", "/srv/../x"),
        ("name = \"tiny\"", "name = \"../x\"", "../x"),
    ] {
        assert!(TEXT.contains(from));
        let said = refusal(&TEXT.replace(from, to));
        assert!(said.contains(what) && said.contains(RECIPE_FILE) || said.contains("hooks/none.sh"), "{said}");
    }
    let dir = recipe_dir(TEXT);
    sys::fs::set_mode(&dir.path().join("hooks/a.sh"), 0o644).unwrap();
    assert!(load(dir.path(), None).unwrap_err().to_string().contains("executable"));
}

#[test]
fn the_recipes_this_repository_brings_are_valid() {
    let images = Path::new(env!("CARGO_MANIFEST_DIR")).join("../../images");
    let mut count = 0;
    for entry in std::fs::read_dir(images).unwrap() {
        let dir = entry.unwrap().path();
        let text = std::fs::read_to_string(dir.join(RECIPE_FILE)).unwrap();
        for variant in parse(&dir, &text).unwrap().variants.keys() {
            load(&dir, Some(variant)).unwrap();
            count += 1;
        }
    }
    assert!(count >= 2);
}

proptest! {
    #[test]
    fn arbitrary_edits_never_panic(at in 0..TEXT.len(), with in "[ -~]{0,3}") {
        let mut text = TEXT.to_owned();
        text.replace_range(at..at + 1, &with);
        let path = Path::new("recipe.toml");
        if let Ok(file) = parse(path, &text) {
            let _outcome = resolve(path, &file, &file.default_variant);
        }
    }
}

//! Images of Containerfiles: what the builder is asked, what is pulled of it, and what is left when it fails.

use std::fs;
use std::os::unix::fs::PermissionsExt;
use std::path::Path;

use serde_json::Value;

use crate::fake::{Home, Script, begun, transcript};

/// A builder that notes what it is asked and makes what it is asked for.
const BUILDER: &str = r#"
echo "$(basename $0) $*" >>$HOME/asked
[ "$1" = build ] && { [ -e $HOME/fails ] && { echo "no such stage"; exit 9; }; echo sha256:0123 >$3; echo building; exit; }
for word; do case $word in oci-archive:*) file=${word#oci-archive:};; -o) is_next=1;; *) [ "$is_next" ] && file=$word; is_next=;; esac; done
echo archive >$file
"#;

fn with(builders: &[&str]) -> Home {
    let home =
        Script::new().answer("POST /v1/images/pull", &begun("app")).answer("GET /v1/images/app ", &Value::Null).run();
    fs::create_dir(home.path().join("bin")).unwrap();
    fs::create_dir(home.path().join("tmp")).unwrap();
    fs::create_dir(home.path().join("app")).unwrap();
    fs::write(home.path().join("app/Dockerfile"), "FROM scratch\n").unwrap();
    for builder in builders {
        let file = home.path().join("bin").join(builder);
        fs::write(&file, format!("#!/bin/sh\n{BUILDER}")).unwrap();
        fs::set_permissions(&file, fs::Permissions::from_mode(0o755)).unwrap();
    }
    home
}

/// Runs `banger image build` with those builders alone in its `PATH`; what happened, what was asked, and what is left.
fn build(home: &Home, args: &[&str]) -> String {
    let mut command = home.banger(&[&["image", "build"], args].concat());
    // The builders are scripts, and find what they need where it always is.
    let path = format!("{}:{}", home.path().join("bin").display(), links(home).display());
    let output = command.env("PATH", path).env("TMPDIR", home.path().join("tmp")).output().unwrap();
    let left = fs::read_dir(home.path().join("tmp")).unwrap().count();
    let asked = fs::read_to_string(home.path().join("asked")).unwrap_or_default();
    let told = format!("{}--- asked\n{asked}--- left: {left}\n", transcript(home, &output));
    let told = told.replace(home.path().canonicalize().unwrap().to_str().unwrap(), "$HOME");
    // A directory for temporary files has a name of its own each time.
    let mut words: Vec<String> = Vec::new();
    for (number, piece) in told.split("banger-build-").enumerate() {
        words.push(if number == 0 { piece.to_owned() } else { piece[6..].to_owned() });
    }
    words.join("banger-build-RANDOM")
}

/// The few programs a script needs, without whatever builder this host has.
fn links(home: &Home) -> std::path::PathBuf {
    let dir = home.path().join("programs");
    if fs::create_dir(&dir).is_ok() {
        for program in ["sh", "basename"] {
            std::os::unix::fs::symlink(Path::new("/usr/bin").join(program), dir.join(program)).unwrap();
        }
    }
    dir
}

fn pulled(home: &Home) -> Value {
    let body: Value = serde_json::from_slice(&home.log.wait_for("POST /v1/images/pull").body).unwrap();
    body
}

#[test]
fn each_builder_is_asked_in_its_own_words() {
    for builders in [&["buildah", "podman", "docker"][..], &["podman", "docker"], &["docker"]] {
        let home = with(builders);
        insta::assert_snapshot!(
            format!("with_{}", builders[0]),
            build(&home, &["./app", "--build-arg", "V=2", "--target", "test"])
        );
        let pulled = pulled(&home);
        let source = pulled["source"].as_str().unwrap();
        let expected = if builders[0] == "docker" { "docker-archive:" } else { "oci-archive:" };
        assert!(source.starts_with(expected) && source.ends_with("/image.tar"), "{source}");
        assert_eq!(pulled["name"], "app");
    }
}

#[test]
fn a_build_that_fails_leaves_nothing() {
    let home = with(&["buildah"]);
    fs::write(home.path().join("fails"), "").unwrap();
    insta::assert_snapshot!(build(&home, &["./app"]));
}

#[test]
fn what_cannot_be_built_is_said_before_anything_is() {
    let home = with(&[]);
    fs::create_dir(home.path().join("empty")).unwrap();
    fs::create_dir(home.path().join("App of mine")).unwrap();
    fs::write(home.path().join("App of mine/Containerfile"), "").unwrap();
    insta::assert_snapshot!("no_builder", build(&home, &["./app"]));
    insta::assert_snapshot!("not_that_builder", build(&home, &["./app", "--builder", "podman"]));
    insta::assert_snapshot!("no_file", build(&home, &["./empty", "--target", "test"]));
    insta::assert_snapshot!("no_name", build(&home, &["./App of mine"]));
    insta::assert_snapshot!("missing_file", build(&home, &["./app", "-f", "none"]));
}

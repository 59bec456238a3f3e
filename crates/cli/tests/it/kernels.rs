//! Kernels: what of a host is imported, and how the build of one ends that goes wrong.

use std::os::unix::fs::PermissionsExt;
use std::process::Command;

use serde_json::{Value, json};

use crate::fake::{Home, Script, begun, transcript};

fn source(args: &[&str]) -> Value {
    let home = Script::new().answer("POST /v1/kernels/import", &begun("6.1.0")).run();
    for file in ["core.rpm", "modules.rpm"] {
        std::fs::write(home.path().join(file), b"x").unwrap();
    }
    let output = home.banger(&[&["kernel", "import"], args].concat()).output().unwrap();
    assert_eq!(String::from_utf8_lossy(&output.stdout), "6.1.0\n", "{output:?}");
    let asked: Value = serde_json::from_slice(&home.log.wait_for("POST /v1/kernels/import").body).unwrap();
    let place = home.path().canonicalize().unwrap();
    serde_json::from_str(&asked["source"].to_string().replace(place.to_str().unwrap(), "$HOME")).unwrap()
}

#[test]
fn a_kernel_may_come_in_several_packages_or_be_the_hosts() {
    let several = json!({
        "kind": "path", "path": "$HOME/core.rpm", "more": ["$HOME/modules.rpm"], "config": null, "modules": null
    });
    assert_eq!(source(&["core.rpm", "modules.rpm"]), several);
    assert_eq!(source(&["--host"]), json!({"kind": "host"}));
}

/// `banger` in an installed tree of its own, whose recipe of a kernel is this script.
fn build(script: Option<&str>) -> String {
    let home: Home = Script::new().run();
    let prefix = home.path().join("usr");
    let recipe = prefix.join("share/banger/kernels/lean");
    for dir in [&prefix.join("bin"), &prefix.join("libexec/banger"), &recipe] {
        std::fs::create_dir_all(dir).unwrap();
    }
    std::fs::copy(env!("CARGO_BIN_EXE_banger"), prefix.join("bin/banger")).unwrap();
    if let Some(script) = script {
        let file = recipe.join("build.sh");
        std::fs::write(&file, format!("#!/bin/sh\n{script}\n")).unwrap();
        std::fs::set_permissions(&file, std::fs::Permissions::from_mode(0o755)).unwrap();
    }
    let mut command = Command::new(prefix.join("bin/banger"));
    home.surround(&mut command);
    let output = command.args(["kernel", "build", "out"]).output().unwrap();
    transcript(&home, &output)
}

#[test]
fn a_kernel_that_is_not_built_has_no_name() {
    insta::assert_snapshot!(build(Some("echo compiling in $1 >&2; echo said on output; exit 3")));
    insta::assert_snapshot!(build(None));
}

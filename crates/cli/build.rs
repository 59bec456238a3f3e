//! Puts the commit this build was made from into `BANGER_COMMIT`: asked of git, overridden by a packager's environment
//! variable of that name, `unknown` outside a checkout. Only files that exist and move with the commit are watched,
//! so a build without a new commit stays incremental.

use std::path::Path;

fn git(args: &[&str]) -> Option<String> {
    #[expect(clippy::disallowed_methods, reason = "a build script runs on the builder's machine, before `sys` exists")]
    let output = std::process::Command::new("git").args(args).output().ok()?;
    let text = String::from_utf8(output.stdout).ok()?.trim().to_owned();
    (output.status.success() && !text.is_empty()).then_some(text)
}

fn watch(path: &str) {
    if Path::new(path).exists() {
        println!("cargo:rerun-if-changed={path}");
    }
}

fn main() {
    println!("cargo:rerun-if-env-changed=BANGER_COMMIT");
    #[expect(clippy::disallowed_methods, reason = "a build script is configured by its environment")]
    let given = std::env::var("BANGER_COMMIT").ok().filter(|commit| !commit.is_empty());
    for name in ["HEAD", "packed-refs"] {
        if let Some(path) = git(&["rev-parse", "--git-path", name]) {
            watch(&path);
        }
    }
    if let Some(branch) = git(&["symbolic-ref", "-q", "HEAD"])
        && let Some(path) = git(&["rev-parse", "--git-path", &branch])
    {
        watch(&path);
    }
    let commit = given.or_else(|| git(&["rev-parse", "HEAD"])).unwrap_or_else(|| "unknown".to_owned());
    println!("cargo:rustc-env=BANGER_COMMIT={commit}");
}

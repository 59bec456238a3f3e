//! Images from registries that misbehave, from real ones, and from archives.
//!
//! | module | shows |
//! |---|---|
//! | `pulls` | what a registry holds comes, whole and once |
//! | `faults` | a registry that breaks off, drips, lies, limits, dies and comes back |
//! | `auth` | strangers, passwords and tokens; who is shown them and who is not |
//! | `archives` | archives made by hand: hostile ones, old ones, packed ones |
//! | `docker` | a Docker daemon on its socket |
//! | `real` | Debian's `docker-registry`, and archives made by skopeo and umoci |
//! | `web` | files of a web server that is no registry |
//! | `server` | a registry in this process that can be told to fail |
//! | `image` | images made by hand |

#![allow(clippy::disallowed_methods, clippy::unwrap_used, reason = "tests arrange and inspect the real world")]

mod archives;
mod auth;
mod docker;
mod faults;
mod image;
mod pulls;
mod real;
mod server;
mod web;

/// Every file beside this one is one of its modules.
#[test]
fn no_file_is_forgotten() {
    let directory = std::path::Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/it");
    let main = std::fs::read_to_string(directory.join("main.rs")).unwrap();
    for entry in std::fs::read_dir(directory).unwrap() {
        let name = entry.unwrap().file_name().into_string().unwrap();
        let module = name.trim_end_matches(".rs");
        assert!(module == "main" || main.contains(&format!("mod {module};")), "{name} is no module of main.rs");
    }
}

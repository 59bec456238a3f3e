//! Catalogs on a web server of this host and in a directory: published as they are, fetched as they should be.
//!
//! | module | shows |
//! |---|---|
//! | `pulls` | what is published comes, whole and once |
//! | `faults` | a server that breaks off, lies, dies and comes back |
//! | `trust` | signatures, keys, serial numbers, and the catalog that is kept |
//! | `openssl` | keys and signatures of OpenSSL's, and ours in its eyes |
//! | `server` | a static web server in this process that can be told to fail |
//! | `world` | catalogs made by hand |

#![allow(clippy::disallowed_methods, clippy::unwrap_used, reason = "tests arrange and inspect the real world")]

mod faults;
mod openssl;
mod pulls;
mod server;
mod trust;
mod world;

/// Every file beside this one is one of its modules.
#[test]
fn no_file_is_forgotten() {
    let directory = std::path::Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/it");
    let main = std::fs::read_to_string(directory.join("main.rs")).unwrap();
    for entry in std::fs::read_dir(directory).unwrap() {
        let name = entry.unwrap().file_name().into_string().unwrap();
        let module = name.trim_end_matches(".rs");
        let is_known = ["main", "fixtures"].contains(&module) || main.contains(&format!("mod {module};"));
        assert!(is_known, "{name} is no module of main.rs");
    }
}

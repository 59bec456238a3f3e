//! The agent as a process of the host, over a Unix socket, spoken to by a host of our own making.
//!
//! | module | shows |
//! |---|---|
//! | `exec` | the contract of commands |
//! | `streams` | many of them: floods, stalls, limits, memory |
//! | `sessions` | commands that outlive their host |
//! | `resync` | connections that end or begin in the middle of anything |
//! | `renewals` | a guest that was restored, and is another machine |
//! | `trees` | tar streams in and out |
//! | `workspaces` | what was sent of a work tree, and what became of it |

#![allow(clippy::disallowed_methods, clippy::unwrap_used, reason = "tests arrange and inspect the real world")]

mod exec;
mod host;
mod renewals;
mod resync;
mod sessions;
mod streams;
mod trees;
mod workspaces;

/// Every file beside this one is one of its modules.
#[test]
fn no_file_is_forgotten() {
    let directory = std::path::Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/it");
    let main = std::fs::read_to_string(directory.join("main.rs")).unwrap();
    for entry in std::fs::read_dir(directory).unwrap() {
        let name = entry.unwrap().file_name().into_string().unwrap();
        let module = name.trim_end_matches(".rs");
        assert!(module == "main" || main.contains(&format!("mod {module};")), "{name}");
    }
}

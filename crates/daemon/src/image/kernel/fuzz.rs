//! Any bytes through everything that reads kernel files.

use super::config::Config;
use super::modules::ModuleTree;
use super::{bzimage, elf};
use crate::model::progress::Watcher;

/// Reads `data` as each kind of kernel file in turn; panics when a limit is not kept.
pub fn fuzz_kernel_bytes(data: &[u8]) {
    drop(bzimage::unpack(data, Watcher::none()));
    if let Ok(image) = elf::Elf::parse(data) {
        drop(image.release());
        drop(image.ikconfig());
    }
    if let Ok(text) = std::str::from_utf8(data) {
        drop(Config::parse(text));
        if let Ok(tree) = ModuleTree::parse(text, text) {
            drop(tree.load_order());
        }
    }
}

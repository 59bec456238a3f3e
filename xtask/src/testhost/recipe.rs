//! The recipe of the test host, `tests/testhost/`, and the hash that names the image made from it.

use std::fs;
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};

use anyhow::{Context, Result};
use serde::Deserialize;
use sha2::{Digest, Sha256};

/// Where the recipe is, from the root of the repository.
pub(super) const PLACE: &str = "tests/testhost";

#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct Recipe {
    pub(super) suite: String,
    pub(super) components: Vec<String>,
    /// Size of the host's disk in GiB; the file is sparse.
    pub(super) disk_gib: u64,
    pub(super) packages: Vec<String>,
    /// More of them, from the suite's backports.
    pub(super) backports: Vec<String>,
    /// Units that never start.
    pub(super) mask: Vec<String>,
    pub(super) wheel: Wheel,
}

/// A Python package that carries programs.
#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct Wheel {
    pub(super) package: String,
    pub(super) version: String,
    /// The Python it is for, which need not be the one that is here.
    pub(super) python: String,
    pub(super) sha256: String,
    pub(super) programs: Vec<Program>,
}

#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct Program {
    /// Its path in the package.
    pub(super) member: String,
    /// Its path in the test host, relative to the root.
    pub(super) target: String,
    pub(super) sha256: String,
}

impl Recipe {
    pub(super) fn parse(text: &str) -> Result<Recipe> {
        toml::from_str(text).context("the recipe is not well formed")
    }
}

/// A recipe with its files.
pub(super) struct Source {
    pub(super) dir: PathBuf,
    pub(super) recipe: Recipe,
    /// Names the image.
    pub(super) hash: String,
}

/// Reads the recipe of the repository at `root`.
pub(super) fn read(root: &Path) -> Result<Source> {
    let dir = root.join(PLACE);
    let path = dir.join("recipe.toml");
    let text = fs::read_to_string(&path).with_context(|| format!("cannot read {}", path.display()))?;
    let recipe = Recipe::parse(&text).with_context(|| path.display().to_string())?;
    let mut files = Vec::new();
    for path in files_beneath(&dir)? {
        let name = path.strip_prefix(&dir).context("a file of the recipe is elsewhere")?.to_string_lossy().into_owned();
        let mode = fs::metadata(&path).with_context(|| format!("cannot stat {}", path.display()))?.permissions().mode();
        let bytes = fs::read(&path).with_context(|| format!("cannot read {}", path.display()))?;
        files.push((name, mode & 0o100 != 0, bytes));
    }
    // How an image is built is part of what it is.
    files.push(("build.rs".to_owned(), false, include_bytes!("build.rs").to_vec()));
    files.push(("emulator.rs".to_owned(), false, include_bytes!("emulator.rs").to_vec()));
    Ok(Source { dir, recipe, hash: hash(&files) })
}

/// A hash of files by name, whether they are programs, and content; their order does not matter.
fn hash(files: &[(String, bool, Vec<u8>)]) -> String {
    let mut lines: Vec<String> = files
        .iter()
        .map(|(name, is_program, bytes)| format!("{name}\0{is_program}\0{}\n", hex(&Sha256::digest(bytes))))
        .collect();
    lines.sort();
    let mut whole = hex(&Sha256::digest(lines.concat()));
    whole.truncate(16);
    whole
}

pub(super) fn hex(bytes: &[u8]) -> String {
    bytes.iter().map(|byte| format!("{byte:02x}")).collect()
}

/// Every regular file beneath `directory`, in order.
pub(super) fn files_beneath(directory: &Path) -> Result<Vec<PathBuf>> {
    let mut files = Vec::new();
    let mut open = vec![directory.to_path_buf()];
    while let Some(dir) = open.pop() {
        for entry in fs::read_dir(&dir).with_context(|| format!("cannot list {}", dir.display()))? {
            let path = entry.with_context(|| format!("cannot list {}", dir.display()))?.path();
            if path.is_dir() { open.push(path) } else { files.push(path) }
        }
    }
    files.sort();
    Ok(files)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_recipe_in_the_tree_is_well_formed() -> Result<()> {
        let source = read(&crate::root::repository())?;
        assert!(source.recipe.packages.iter().any(|name| name == "systemd-sysv"));
        assert_eq!(source.recipe.wheel.programs.len(), 2);
        for program in &source.recipe.wheel.programs {
            assert_eq!(program.sha256.len(), 64, "{}", program.member);
            assert!(!program.target.starts_with('/'), "{}", program.target);
        }
        assert_eq!(source.hash.len(), 16);
        Ok(())
    }

    #[test]
    fn the_hash_follows_names_contents_and_modes_and_not_the_order() {
        let file = |name: &str, is_program, text: &str| (name.to_owned(), is_program, text.as_bytes().to_vec());
        let base = hash(&[file("a", false, "1"), file("b", false, "2")]);
        assert_eq!(base, hash(&[file("b", false, "2"), file("a", false, "1")]));
        for other in [
            vec![file("a", false, "1")],
            vec![file("a", false, "2"), file("b", false, "1")],
            vec![file("a", true, "1"), file("b", false, "2")],
            vec![file("a", false, "1"), file("c", false, "2")],
        ] {
            assert_ne!(base, hash(&other), "{other:?}");
        }
    }

    #[test]
    fn an_unknown_key_is_refused() {
        assert!(Recipe::parse("suite = 'x'\nsize = 1").is_err());
    }
}

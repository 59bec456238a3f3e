//! Builds an image from a recipe: mmdebstrap makes a tar archive of Debian's signed packages, `rootfs` makes the
//! filesystem of it.
//!
//! | file | what |
//! |---|---|
//! | `mode.rs` | as root or in a user namespace, and what is missing for it |
//! | `download.rs` `wheel.rs` | pinned files from other registries |
//! | `runner.rs` | runs the command, logs, follows and ends it |
//! | `output.rs` | reads how far it is |
//!
//! Everything temporary is beneath the staging directory. Debian's packages are kept in the cache, so that a second
//! build downloads only what changed; apt checks them against the signed lists again.

mod download;
mod mode;
mod output;
mod runner;
mod wheel;

use std::io;
use std::path::{Path, PathBuf};
use std::process::{Command, ExitStatus};

pub use download::DownloadError;
pub use mode::NoRights;

use super::recipe::{Recipe, RecipeError, load};
use super::rootfs::{self, Rootfs, RootfsError};
use crate::model::image::ImageManifest;
use crate::model::progress::{Cancelled, Watcher};
use download::Places;
use mode::Mode;
use output::Output;
use runner::{Ending, LastLines, RunnerError};

/// Where mmdebstrap and what it runs are found: an ordinary user's `PATH` often lacks the `sbin` directories.
const PATH: &str = "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin";

/// Why an image cannot be built.
#[derive(Debug, thiserror::Error)]
pub enum BuildError {
    /// The recipe cannot be used.
    #[error("cannot use the recipe")]
    Recipe(#[from] RecipeError),
    /// mmdebstrap is missing.
    #[error("cannot build an image: mmdebstrap is missing")]
    NoMmdebstrap,
    /// This user may not build on this host.
    #[error("cannot build an image")]
    Rights(#[from] NoRights),
    /// A file of another registry cannot be had.
    #[error("cannot fetch what the recipe pins")]
    Download(#[from] DownloadError),
    /// mmdebstrap could not be run or followed.
    #[error("cannot run mmdebstrap")]
    Run(#[source] io::Error),
    /// mmdebstrap failed.
    #[error("mmdebstrap failed ({status}) at {stage}, see {}\n{said}", .log.display())]
    Failed {
        /// How it ended.
        status: ExitStatus,
        /// The stage it was in.
        stage: String,
        /// All it said.
        log: PathBuf,
        /// The last it said.
        said: String,
    },
    /// Its archive does not become a filesystem.
    #[error("cannot make the root filesystem")]
    Rootfs(#[from] RootfsError),
    /// A file cannot be written.
    #[error(transparent)]
    Fs(#[from] sys::fs::FsError),
    /// A path that cannot be handed to mmdebstrap.
    #[error("cannot build in {}: mmdebstrap cannot be given a path with quotes, newlines or bytes that are not UTF-8", .path.display())]
    Path {
        /// The path.
        path: PathBuf,
    },
    /// Told to stop.
    #[error("stopped")]
    Cancelled(#[from] Cancelled),
}

impl BuildError {
    /// What a person can do about it, where there is something.
    #[must_use]
    pub fn hint(&self) -> Option<&'static str> {
        match self {
            Self::NoMmdebstrap => Some("apt-get install mmdebstrap"),
            Self::Rights(missing) => Some(missing.hint()),
            Self::Download(DownloadError::NoClient { client: "npm", .. }) => Some("apt-get install npm"),
            Self::Download(DownloadError::NoClient { .. }) => Some("apt-get install python3-pip"),
            Self::Failed { said, .. } if said.contains("No space left on device") => Some("make room on the disk"),
            Self::Failed { said, .. } if said.contains("resolve") || said.contains("onnect") => {
                Some("the packages come from Debian's archive: is the network there?")
            }
            Self::Download(DownloadError::Digest { .. }) => {
                Some("the registry has something else than what was pinned: find out why before you change the recipe")
            }
            Self::Download(DownloadError::Client { .. }) => {
                Some("is the registry within reach, and the version there?")
            }
            Self::Recipe(_)
            | Self::Download(_)
            | Self::Run(_)
            | Self::Failed { .. }
            | Self::Rootfs(_)
            | Self::Fs(_)
            | Self::Path { .. }
            | Self::Cancelled(_) => None,
        }
    }
}

/// What to build, and where.
#[derive(Debug, Clone, Copy)]
pub struct Request<'a> {
    /// The directory with `recipe.toml`.
    pub recipe_dir: &'a Path,
    /// Which variant; `None` for the recipe's default.
    pub variant: Option<&'a str>,
    /// What to call the image; `None` for the recipe's name.
    pub name: Option<&'a str>,
    /// An empty directory: afterwards it holds `rootfs.ext4` and `manifest.json`.
    pub staging: &'a Path,
    /// What outlives builds: packages and downloads.
    pub cache: &'a Path,
    /// Where everything the build says goes; made anew.
    pub log: &'a Path,
}

/// Builds the image.
///
/// # Errors
/// [`BuildError`]; `staging` is then empty again unless a file in it cannot be removed.
pub fn build(request: Request<'_>, watcher: Watcher<'_>) -> Result<ImageManifest, BuildError> {
    let recipe = load(request.recipe_dir, request.variant)?;
    let mode = mode::choose()?;
    let work = request.staging.join("work");
    sys::fs::create_private_dir(&work)?;
    let outcome = build_in(&work, &request, &recipe, mode, watcher);
    discard(&work)?;
    let rootfs = match outcome {
        Ok(rootfs) => rootfs,
        Err(err) => {
            sys::fs::remove_file(&request.staging.join("rootfs.ext4"))?;
            return Err(err);
        }
    };
    let manifest = ImageManifest {
        name: request.name.unwrap_or(&recipe.name).to_owned(),
        variant: Some(recipe.variant.clone()),
        digest: rootfs.sha256,
        bytes: rootfs.bytes,
        content_bytes: rootfs.content_bytes,
        entries: rootfs.entries,
        packages: rootfs.packages,
        recipe_sha256: Some(recipe.digest),
        source: format!("recipe {} ({})", recipe.name, recipe.variant),
        init: rootfs.init,
        arch: "amd64".to_owned(),
        exec: recipe.exec,
        command: Vec::new(),
        origin: None,
        linked: None,
    };
    let json = serde_json::to_vec_pretty(&manifest).expect("a manifest has only string keys and finite numbers");
    sys::fs::write_atomic(&request.staging.join("manifest.json"), &json, 0o600)?;
    Ok(manifest)
}

fn build_in(
    work: &Path,
    request: &Request<'_>,
    recipe: &Recipe,
    mode: Mode,
    watcher: Watcher<'_>,
) -> Result<Rootfs, BuildError> {
    sys::fs::remove_file(request.log)?;
    let mut log = sys::fs::create_new(request.log, 0o600)?;
    let places = Places { work, cache: request.cache, log: request.log };
    let mut files = Vec::new();
    for download in &recipe.downloads {
        files.push((download::ensure(download, &places, &mut log, watcher)?, download));
    }
    let packages = request.cache.join("debs");
    let temporary = work.join("tmp");
    sys::fs::create_private_dir(&packages)?;
    sys::fs::create_private_dir(&temporary)?;
    let tar = work.join("root.tar");
    let mut command = mode.command(find_program("mmdebstrap").ok_or(BuildError::NoMmdebstrap)?);
    command.env("PATH", PATH).env("TMPDIR", plain(&temporary)?).env("LC_ALL", "C.UTF-8").current_dir(work);
    command.args(arguments(recipe, mode)).args(hooks(recipe, &packages, &files)?);
    command.arg(&recipe.suite).arg(plain(&tar)?);
    run((&mut command, mode.ending()), &mut log, request.log, &packages, watcher)?;
    Ok(rootfs::write(&tar, &request.staging.join("rootfs.ext4"), watcher)?)
}

fn find_program(name: &str) -> Option<PathBuf> {
    PATH.split(':').map(|dir| Path::new(dir).join(name)).find(|path| path.is_file())
}

/// A path as text that stays one word within a hook's single quotes.
fn plain(path: &Path) -> Result<&str, BuildError> {
    let text = path.to_str().filter(|text| !text.contains(['\'', '"', '\\', '\n']));
    text.ok_or_else(|| BuildError::Path { path: path.to_owned() })
}

fn arguments(recipe: &Recipe, mode: Mode) -> Vec<String> {
    let mut arguments = vec![
        "--verbose".to_owned(), // apt's and dpkg's lines too: they tell how far it is
        format!("--mode={}", mode.argument()),
        "--variant=apt".to_owned(),
        "--format=tar".to_owned(),
        format!("--components={}", recipe.components.join(",")),
        "--aptopt=Acquire::Languages \"none\"".to_owned(),
        "--aptopt=Acquire::Retries \"3\"".to_owned(),
        // A build that a crash interrupts is thrown away, so nothing in it needs to be synced.
        "--dpkgopt=force-unsafe-io".to_owned(),
        // Unpacked packages stay, for the cache.
        "--skip=essential/unlink".to_owned(),
    ];
    if !recipe.packages.is_empty() {
        arguments.push(format!("--include={}", recipe.packages.join(",")));
    }
    arguments
}

/// mmdebstrap's hooks: packages in from the cache and out to it, downloaded files, the recipe's own, masked units.
fn hooks(
    recipe: &Recipe,
    packages: &Path,
    files: &[(PathBuf, &super::recipe::Download)],
) -> Result<Vec<String>, BuildError> {
    let archives = "/var/cache/apt/archives";
    let packages = plain(packages)?;
    let mut hooks = vec![
        format!("--setup-hook=mkdir -p \"$1\"{archives}"),
        format!("--setup-hook=sync-in '{packages}' {archives}"),
        // Only what the lists still name is worth keeping.
        "--customize-hook=chroot \"$1\" apt-get --quiet autoclean".to_owned(),
        format!("--customize-hook=sync-out {archives} '{packages}'"),
    ];
    for (file, download) in files {
        let (file, target, mode) = (plain(file)?, &download.target, download.mode);
        hooks.push(format!("--customize-hook=mkdir -p \"$(dirname \"$1{target}\")\""));
        hooks.push(format!("--customize-hook=upload '{file}' {target}"));
        hooks.push(format!("--customize-hook=chown 0:0 \"$1{target}\" && chmod {mode:o} \"$1{target}\""));
    }
    for hook in &recipe.hooks {
        hooks.push(format!("--customize-hook={}", plain(hook)?));
    }
    if !recipe.mask.is_empty() {
        let quoted: Vec<_> = recipe.mask.iter().map(|unit| format!("'{unit}'")).collect();
        let units = quoted.join(" ");
        hooks.push(format!(
            "--customize-hook=for unit in {units}; do ln -sf /dev/null \"$1/etc/systemd/system/$unit\"; done"
        ));
    }
    Ok(hooks)
}

fn run(
    (command, ending): (&mut Command, Ending),
    log: &mut std::fs::File,
    log_path: &Path,
    packages: &Path,
    watcher: Watcher<'_>,
) -> Result<(), BuildError> {
    let mut output = Output::default();
    let mut last = LastLines::default();
    let mut stage = "its start".to_owned();
    let mut is_damaged = false;
    let mut on_line = |line: &str| {
        if let Some(progress) = output.line(line) {
            if let crate::model::progress::Progress::Stage(name) = &progress {
                stage = name.to_string();
            }
            watcher.report(progress);
        }
        is_damaged |= line.contains("dpkg-deb: error") || line.contains("Hash Sum mismatch");
        last.push(line);
    };
    let status = runner::run(command, ending, log, &mut on_line, watcher).map_err(|err| match err {
        RunnerError::Start(err) | RunnerError::Follow(err) => BuildError::Run(err),
        RunnerError::Cancelled(cancelled) => cancelled.into(),
    })?;
    if status.success() {
        return Ok(());
    }
    let said = last.text();
    if is_damaged {
        // A damaged package in the cache would fail every later build too.
        sys::fs::remove_tree(packages)?;
    }
    Err(BuildError::Failed { status, stage, log: log_path.to_owned(), said })
}

/// Removes what a build left, finished or not. One that was killed in a user namespace left files of other ids, which
/// only root of such a namespace can remove.
///
/// # Errors
/// Which file cannot be removed.
pub fn discard(dir: &Path) -> Result<(), sys::fs::FsError> {
    let outcome = sys::fs::remove_tree(dir);
    if outcome.is_ok() || mode::choose() != Ok(Mode::Unshare) {
        return outcome;
    }
    match sys::process::run(Mode::Unshare.command("rm").args(["-rf", "--"]).arg(dir)) {
        Ok(_) => Ok(()),
        Err(_) => outcome, // says which file could not be removed
    }
}

#[cfg(test)]
mod tests;

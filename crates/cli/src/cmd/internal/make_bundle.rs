//! `banger internal make-bundle`: one image or kernel in one file, as catalogs have them.

use std::path::{Path, PathBuf};

use catalog::bundle::write::LEVEL;
use catalog::bundle::{BundleError, KernelManifest, Made, make_image, make_kernel};
use catalog::{Name, Word};
use serde::Serialize;
use wire::api::ErrorCode;
use wire::size::human;

use super::parts::Parts;
use super::rootfs::{self, Rootfs};
use super::work::work;
use crate::args::Act;
use crate::cmd::App;
use crate::error::Failure;
use crate::output::{Format, printable};
use crate::settings::Settings;
use crate::values;

const EXAMPLES: &str = "\
Examples:
  banger internal make-bundle --image debian-bookworm --distro debian-12
  banger internal make-bundle --rootfs disk.ext4 --name tiny --distro alpine
  docker export box |
    banger internal make-bundle --rootfs-tar - --name box --distro debian-12
  banger internal make-bundle --kernel ./lean --name lean --distro debian-12
  banger internal make-bundle --kernel linux-image-cloud-amd64 \\
    --name generic --distro debian-12 --out bundles/

A kernel is a directory with vmlinux and perhaps initrd.img, config, modules/
or lib/modules/, as kernels/lean/build.sh makes it; or one that is here.";

/// As clap writes it, on lines that fit.
const USAGE: &str = "\
banger internal make-bundle [OPTIONS] --distro <DISTRO>
           <--rootfs <FILE>|--rootfs-tar <FILE>|--image <IMAGE>|--kernel <...>>";

/// Of what.
#[derive(Debug, clap::Args)]
#[command(after_help = EXAMPLES, override_usage = USAGE, group = clap::ArgGroup::new("content").required(true).multiple(false))]
pub(crate) struct Args {
    /// A root filesystem: ext4, cleanly unmounted
    #[arg(long, value_name = "FILE", group = "content", value_hint = clap::ValueHint::FilePath)]
    rootfs: Option<PathBuf>,
    /// An archive of one; - reads standard input
    #[arg(long, value_name = "FILE", group = "content", value_hint = clap::ValueHint::FilePath)]
    rootfs_tar: Option<PathBuf>,
    /// An image that is here, by name or id
    #[arg(long, value_name = "IMAGE", group = "content", value_parser = values::reference)]
    image: Option<String>,
    /// A kernel: a directory, or the name of one that is here
    #[arg(long, value_name = "DIR|KERNEL", group = "content", value_parser = values::reference)]
    kernel: Option<String>,
    /// What it is called in the catalog; what is here keeps its name when this is left out
    #[arg(long)]
    name: Option<String>,
    /// The distribution in it, or whose kernel it is: debian-12
    #[arg(long)]
    distro: String,
    /// The processor it is for, instead of this host's
    #[arg(long)]
    arch: Option<String>,
    /// The kernel of the same catalog that an image is meant for
    #[arg(long, value_name = "KERNEL", conflicts_with = "kernel")]
    kernel_ref: Option<String>,
    /// The version of a kernel, instead of the one that its modules are for
    #[arg(long, conflicts_with_all = ["rootfs", "rootfs_tar", "image"])]
    version: Option<String>,
    /// What it is, for people
    #[arg(long, default_value = "", hide_default_value = true)]
    description: String,
    /// The file to write, or a directory for NAME-ARCH.tar.zst; the current one when left out
    #[arg(long, value_name = "FILE|DIR", default_value = ".", hide_default_value = true)]
    out: PathBuf,
    /// How hard zstd tries: 1 to 19
    #[arg(long, default_value_t = LEVEL, value_parser = clap::value_parser!(i32).range(1..=19))]
    level: i32,
    #[command(flatten)]
    pub(crate) act: Act,
}

/// This host's processor, as catalogs call it.
const HOST: &str = if cfg!(target_arch = "aarch64") { "arm64" } else { "amd64" };

/// What was made.
#[derive(Serialize)]
struct Told {
    path: String,
    sha256: String,
    size: u64,
}

/// What every bundle is called and is for.
#[derive(Debug, Clone)]
pub(super) struct Labels {
    pub(super) name: Name,
    pub(super) distro: Word,
    pub(super) arch: Word,
    pub(super) description: String,
}

/// Text of the command line as a part of a manifest.
pub(super) fn parsed<T: std::str::FromStr<Err = catalog::name::NotAName>>(text: &str) -> Result<T, Failure> {
    text.parse().map_err(|error: catalog::name::NotAName| Failure::from_error(ErrorCode::BadRequest, &error))
}

fn failed(error: &BundleError) -> Failure {
    let failure = Failure::from_error(ErrorCode::OperationFailed, error);
    match error.hint() {
        Some(hint) => failure.hint(hint),
        None => failure,
    }
}

impl Args {
    fn labels(&self, called: Option<&str>) -> Result<Labels, Failure> {
        let unnamed = || Failure::new(ErrorCode::BadRequest, "nothing says what it is called").hint("--name does");
        let name = self.name.as_deref().or(called).ok_or_else(unnamed)?;
        Ok(Labels {
            name: parsed(name).map_err(|failure| failure.hint("--name NAME calls it otherwise"))?,
            distro: parsed(&self.distro)?,
            arch: parsed(self.arch.as_deref().unwrap_or(HOST))?,
            description: self.description.clone(),
        })
    }

    /// The file that becomes the bundle; the directory it is in is made.
    fn file(&self, labels: &Labels) -> Result<PathBuf, Failure> {
        let is_directory = self.out.is_dir() || self.out.as_os_str().as_encoded_bytes().ends_with(b"/");
        let failed = |error: &std::io::Error, dir: &Path| {
            Failure::new(ErrorCode::OperationFailed, format!("cannot make {}: {error}", dir.display()))
        };
        let directory = if is_directory { Some(self.out.as_path()) } else { self.out.parent() };
        let directory = directory.filter(|dir| !dir.as_os_str().is_empty()).unwrap_or(Path::new("."));
        std::fs::create_dir_all(directory).map_err(|error| failed(&error, directory))?;
        Ok(if is_directory {
            directory.join(format!("{}-{}.tar.zst", labels.name, labels.arch.processor()))
        } else {
            self.out.clone()
        })
    }
}

/// Makes it and prints its path, its digest and its size.
pub(crate) async fn run(app: &App, settings: &Settings, args: Args) -> Result<u8, Failure> {
    let made = match &args.kernel {
        Some(kernel) => of_kernel(app, settings, &args, kernel).await?,
        None => of_image(app, settings, &args).await?,
    };
    let told = Told { path: made.path.display().to_string(), sha256: made.sha256.hex(), size: made.size };
    match app.out.format {
        Format::Json => app.out.json(&told)?,
        Format::Name => app.out.line(&told.path)?,
        Format::Table => {
            app.out.line(&format!("{}  sha256:{}  {}", printable(&told.path), told.sha256, human(told.size)))?;
        }
    }
    Ok(0)
}

async fn of_image(app: &App, settings: &Settings, args: &Args) -> Result<Made, Failure> {
    let Rootfs { file, called, facts, scratch } = match (&args.rootfs, &args.rootfs_tar, &args.image) {
        (Some(file), _, _) => Rootfs::of_file(file),
        (None, Some(tar), _) => rootfs::of_archive(app, settings, tar, &args.out).await?,
        (None, None, image) => rootfs::of_image(app, settings, image.as_deref().unwrap_or_default()).await?,
    };
    let labels = args.labels(called.as_deref())?;
    let kernel_ref = args.kernel_ref.as_deref().map(parsed).transpose()?;
    let manifest = facts.manifest(&labels, kernel_ref);
    let (out, level) = (args.file(&labels)?, args.level);
    work(app, labels.name.as_str(), "pack", move |watch| {
        let made = make_image(&file, &manifest, &out, level, watch).map_err(|error| failed(&error));
        drop(scratch);
        made
    })
    .await
}

async fn of_kernel(app: &App, settings: &Settings, args: &Args, kernel: &str) -> Result<Made, Failure> {
    let parts = Parts::find(app, settings, kernel, &args.out).await?;
    let labels = args.labels(parts.called.as_deref())?;
    let version = args.version.clone().or_else(|| parts.release.clone()).ok_or_else(|| {
        let failure = Failure::new(ErrorCode::BadRequest, "nothing says which version the kernel is");
        failure.hint("--version does")
    })?;
    let manifest = KernelManifest {
        name: labels.name.clone(),
        distro: labels.distro.clone(),
        arch: labels.arch.clone(),
        version: parsed(&version)?,
        description: labels.description.clone(),
    };
    let (out, level) = (args.file(&labels)?, args.level);
    work(app, labels.name.as_str(), "pack", move |watch| {
        make_kernel(&parts.directory, &manifest, &out, level, watch).map_err(|error| failed(&error))
    })
    .await
}

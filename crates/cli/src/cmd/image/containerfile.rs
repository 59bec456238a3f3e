//! An image of a Containerfile or Dockerfile: another program builds it, and what it built is pulled.
//!
//! | program | builds | what is pulled |
//! |---|---|---|
//! | `buildah` | `build --layers --iidfile …` | `push ID oci-archive:…` |
//! | `podman` | `build --iidfile …` | `save --format oci-archive …` |
//! | `docker` | `build --iidfile …` | `save …` |

use std::ffi::OsStr;
use std::path::{Path, PathBuf};

use wire::api::{BASE, Begun, ErrorCode, PullImage};

use crate::cmd::App;
use crate::cmd::program::done;
use crate::error::{Failure, Io};
use crate::operation;
use crate::process::Attached;

/// What is looked for in a directory, in this order: buildah-build(1).
const FILES: [&str; 2] = ["Containerfile", "Dockerfile"];

/// What can build one, in the order of preference: the first two need no service.
#[derive(Debug, Clone, Copy, PartialEq, Eq, clap::ValueEnum)]
pub(super) enum Builder {
    Buildah,
    Podman,
    Docker,
}

impl Builder {
    const ALL: [Builder; 3] = [Builder::Buildah, Builder::Podman, Builder::Docker];

    fn program(self) -> &'static str {
        match self {
            Builder::Buildah => "buildah",
            Builder::Podman => "podman",
            Builder::Docker => "docker",
        }
    }

    /// The Debian package with it.
    fn package(self) -> &'static str {
        match self {
            Builder::Buildah => "buildah",
            Builder::Podman => "podman",
            Builder::Docker => "docker.io",
        }
    }

    /// Its file, where `PATH` has it.
    fn found(self, programs: &OsStr) -> Option<PathBuf> {
        sys::process::find_program(self.program(), programs)
    }
}

/// What is built.
#[derive(Debug)]
pub(super) struct Build {
    /// The directory that the file's `COPY` and `ADD` are about.
    pub(super) context: PathBuf,
    /// The file.
    pub(super) file: PathBuf,
    /// `NAME=VALUE`, for its `ARG`s.
    pub(super) args: Vec<String>,
    /// The stage to stop at.
    pub(super) target: Option<String>,
}

/// The file in `directory` that says how an image is built; none when it is no directory, or a recipe's.
pub(super) fn file_in(directory: &Path) -> Option<PathBuf> {
    if directory.join("recipe.toml").exists() {
        return None;
    }
    FILES.iter().map(|name| directory.join(name)).find(|file| file.is_file())
}

/// Builds it, and has the daemon make the image `name` of it.
pub(super) async fn build(app: &App, build: &Build, builder: Option<Builder>, name: String) -> Result<Begun, Failure> {
    let (builder, program) = choose(builder, &app.programs)?;
    let failed = |error| Failure::new(ErrorCode::OperationFailed, format!("cannot make a directory: {}", Io(error)));
    // Below the directory for temporary files, which TMPDIR moves: an image may be large.
    let dir = tempfile::Builder::new().prefix("banger-build-").tempdir().map_err(failed)?;
    let (id_file, archive) = (dir.path().join("id"), dir.path().join("image.tar"));

    let mut compile = Attached::new(&program);
    compile.arg("build").arg("--iidfile").arg(&id_file).arg("-f").arg(&build.file);
    if builder == Builder::Buildah {
        compile.arg("--layers");
    }
    for arg in &build.args {
        compile.arg("--build-arg").arg(arg);
    }
    if let Some(target) = &build.target {
        compile.arg("--target").arg(target);
    }
    compile.arg(&build.context);
    done(app, compile, None).await?;

    let unread = |error| Failure::new(ErrorCode::OperationFailed, format!("cannot read the image's id: {}", Io(error)));
    let id = std::fs::read_to_string(&id_file).map_err(unread)?.trim().to_owned();
    let mut save = Attached::new(&program);
    let source = match builder {
        Builder::Buildah => {
            save.arg("push").arg("--quiet").arg(&id).arg(format!("oci-archive:{}", archive.display()));
            "oci-archive"
        }
        Builder::Podman => {
            save.arg("save").arg("--quiet").arg("--format").arg("oci-archive").arg("-o").arg(&archive).arg(&id);
            "oci-archive"
        }
        Builder::Docker => {
            save.arg("save").arg("-o").arg(&archive).arg(&id);
            "docker-archive"
        }
    };
    done(app, save, None).await?;
    let request = PullImage { source: format!("{source}:{}", archive.display()), name: Some(name.clone()) };
    let target = format!("{BASE}/images/pull");
    operation::perform(app, &name, app.interrupts.start(), app.client.send(&target, &request)).await
}

fn choose(asked: Option<Builder>, programs: &OsStr) -> Result<(Builder, PathBuf), Failure> {
    let candidates = asked.map_or_else(|| Builder::ALL.to_vec(), |builder| vec![builder]);
    let found = candidates.into_iter().find_map(|builder| Some((builder, builder.found(programs)?)));
    found.ok_or_else(|| {
        let what = asked.map_or("buildah, podman or docker", Builder::program);
        let failure =
            Failure::new(ErrorCode::Unsupported, format!("a Containerfile is built by {what}, and it is not here"));
        failure.hint(format!("apt-get install {}", asked.unwrap_or(Builder::Buildah).package()))
    })
}

/// What an image is called by the directory it is built of, where nobody says otherwise.
pub(super) fn name_of(context: &Path) -> Result<String, Failure> {
    let name = context.file_name().map(|name| name.to_string_lossy().to_lowercase());
    let name = name.filter(|name| wire::naming::is_artifact_name(name));
    name.ok_or_else(|| {
        let failure = format!("an image cannot be called as the directory {} is", context.display());
        Failure::new(ErrorCode::BadRequest, failure).hint("say what to call it with --name")
    })
}

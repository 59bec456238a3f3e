//! The root filesystem of a bundle: a file of somebody's, one that bangerd makes of an archive, or an image's.

use std::path::{Path, PathBuf};

use catalog::Name;
use catalog::bundle::{Exec, ImageManifest, ROOTFS};
use serde::Deserialize;
use wire::api::{ErrorCode, Image};

use super::make_bundle::Labels;
use super::work::work;
use crate::client::path;
use crate::cmd::App;
use crate::daemon;
use crate::error::{Failure, Io};
use crate::settings::Settings;
use crate::terminal;

/// A root filesystem, and what is known of it.
pub(super) struct Rootfs {
    pub(super) file: PathBuf,
    /// What it is called already.
    pub(super) called: Option<String>,
    pub(super) facts: Facts,
    /// Where it is, when it goes away afterwards.
    pub(super) scratch: Option<Scratch>,
}

/// What a manifest says beside labels.
#[derive(Debug, Default, Deserialize)]
pub(super) struct Facts {
    init: Option<String>,
    packages: Option<u64>,
    content_bytes: Option<u64>,
    entries: Option<u64>,
    #[serde(skip)]
    variant: Option<String>,
    #[serde(skip)]
    source: Option<String>,
    #[serde(skip)]
    exec: Exec,
}

impl Facts {
    pub(super) fn manifest(self, labels: &Labels, kernel_ref: Option<Name>) -> ImageManifest {
        ImageManifest {
            kernel_ref,
            description: labels.description.clone(),
            variant: self.variant,
            source: self.source,
            content_bytes: self.content_bytes,
            entries: self.entries,
            packages: self.packages,
            init: self.init,
            exec: self.exec,
            ..ImageManifest::new(labels.name.clone(), labels.distro.clone(), labels.arch.clone())
        }
    }
}

/// A directory that goes away with this.
pub(super) struct Scratch(PathBuf);

impl Scratch {
    /// One beside `out`, where there is room for what becomes of it.
    pub(super) fn beside(out: &Path) -> Result<Scratch, Failure> {
        let near = if out.is_dir() { out.join("bundle") } else { out.to_owned() };
        let directory = sys::fs::sibling(&near);
        let made = sys::fs::create_private_dir(&directory);
        made.map_err(|error| Failure::from_error(ErrorCode::OperationFailed, &error))?;
        Ok(Scratch(directory))
    }

    pub(super) fn path(&self) -> &Path {
        &self.0
    }
}

impl Drop for Scratch {
    fn drop(&mut self) {
        // What stays is named by the next thing that is short of room; the bundle itself was made or not.
        drop(sys::fs::remove_tree(&self.0));
    }
}

impl Rootfs {
    pub(super) fn of_file(file: &Path) -> Rootfs {
        Rootfs { file: file.to_owned(), called: None, facts: Facts::default(), scratch: None }
    }
}

/// That of an image that is here.
pub(super) async fn of_image(app: &App, settings: &Settings, name: &str) -> Result<Rootfs, Failure> {
    let target = path("images", name, "");
    let image: Image = app.interrupts.guard(app.interrupts.start(), app.client.get(&target)).await?;
    let state = settings.dirs().map_err(|error| Failure::from_error(ErrorCode::BadRequest, &error))?.state;
    let exec = image.exec;
    let exec = Exec { env: exec.env, user: exec.user, workdir: exec.workdir, command: exec.command };
    let facts = Facts {
        init: image.init.map(|init| if init.starts_with('/') { init } else { format!("/{init}") }),
        variant: image.variant,
        source: Some(image.source),
        exec,
        ..Facts::default()
    };
    let file = wire::naming::images_dir(&state).join(image.id.as_str()).join(ROOTFS);
    Ok(Rootfs { file, called: Some(image.name), facts, scratch: None })
}

/// One of what is in an archive.
pub(super) async fn of_archive(app: &App, settings: &Settings, tar: &Path, out: &Path) -> Result<Rootfs, Failure> {
    if tar == Path::new("-") && terminal::stdin_is_terminal() {
        let failure = Failure::new(ErrorCode::BadRequest, "cannot read an archive from a terminal");
        return Err(failure.hint("docker export BOX | banger internal make-bundle --rootfs-tar - …"));
    }
    let missing = || Failure::new(ErrorCode::Internal, "the place of this program is unknown");
    let program = daemon::program(settings.exe.as_deref().ok_or_else(missing)?);
    let program = program.map_err(|error| Failure::from_error(ErrorCode::Unsupported, &error))?;
    let scratch = Scratch::beside(out)?;
    let (tar, subject) = (tar.to_owned(), tar.display().to_string());
    work(app, &subject, "make root filesystem", move |watch| {
        let file = scratch.path().join(ROOTFS);
        let archive = if tar == Path::new("-") { spooled(&scratch.path().join("rootfs.tar"), watch)? } else { tar };
        let mut command = sys::process::command(&program);
        command.arg("make-rootfs").arg(&archive).arg(&file);
        let told = sys::process::run(&mut command).map_err(|error| {
            Failure::from_error(ErrorCode::OperationFailed, &error)
                .hint("the archive is one tar of a whole system, not packed")
        })?;
        watch(0).map_err(|error| Failure::new(ErrorCode::Cancelled, error.to_string()))?;
        let facts = serde_json::from_slice(&told).map_err(|error| {
            Failure::new(ErrorCode::Internal, format!("cannot understand {}: {error}", program.display()))
        })?;
        Ok(Rootfs { file, called: None, facts, scratch: Some(scratch) })
    })
    .await
}

/// Standard input as a file: an archive is read twice.
fn spooled(file: &Path, watch: &mut super::work::Watch<'_>) -> Result<PathBuf, Failure> {
    use std::io::{Read, Write};
    let failed = |error| Failure::new(ErrorCode::OperationFailed, format!("cannot read the archive: {}", Io(error)));
    let made = sys::fs::create_new(file, 0o600);
    let mut to = made.map_err(|error| Failure::from_error(ErrorCode::OperationFailed, &error))?;
    let (mut from, mut chunk) = (std::io::stdin().lock(), vec![0; 256 << 10]);
    loop {
        match from.read(&mut chunk) {
            Ok(0) => return Ok(file.to_owned()),
            Ok(count) => to.write_all(&chunk[..count]).and_then(|()| watch(count as u64)).map_err(failed)?,
            Err(error) if error.kind() == std::io::ErrorKind::Interrupted => {}
            Err(error) => return Err(failed(error)),
        }
    }
}

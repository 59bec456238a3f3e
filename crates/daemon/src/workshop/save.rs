//! Images as files for others: a bundle, as catalogs have them, or an OCI archive of one layer.

use std::collections::BTreeMap;
use std::fs::File;
use std::io::{self, BufWriter, Write};
use std::path::Path;

use catalog::bundle::{Exec, write_image};
use catalog::{Name, Word};
use flate2::write::GzEncoder;
use serde_json::{Value, json};
use wire::api::{ErrorCode, SaveFormat};

use super::failed;
use crate::image::rootfs::archive;
use crate::image::stream::Hashing;
use crate::model::digest::Digest;
use crate::model::image::ImageManifest;
use crate::model::progress::Watcher;
use crate::ops::failure::refused;
use crate::saga::Cause;

/// How hard zstd tries: who waits for it has the tenfold speed of what a catalog is published with, for a tenth more bytes.
const ZSTD_LEVEL: i32 = 3;
/// The same of gzip.
const GZIP_LEVEL: u32 = 4;
/// What a layout's directory of content is called.
const BLOBS: &str = "blobs/sha256";

/// Writes the image whose root filesystem is `rootfs` to `to`. What is needed meanwhile is beside it, without a name.
///
/// # Errors
/// When it cannot be read, or `to` not be written; part of it is written then.
pub(super) fn save(
    manifest: &ImageManifest,
    rootfs: &Path,
    format: SaveFormat,
    to: &mut dyn Write,
    watcher: Watcher<'_>,
) -> Result<(), Cause> {
    match format {
        SaveFormat::Bundle => bundle(manifest, rootfs, to, watcher),
        SaveFormat::OciArchive => oci_archive(manifest, rootfs, to, watcher),
    }
}

fn written(error: &io::Error) -> Cause {
    failed(ErrorCode::OperationFailed, error, None)
}

fn bundle(manifest: &ImageManifest, rootfs: &Path, to: &mut dyn Write, watcher: Watcher<'_>) -> Result<(), Cause> {
    let said = bundled(manifest)?;
    let mut watch = |_| watcher.check().map_err(io::Error::other);
    let written = write_image(rootfs, &said, to, ZSTD_LEVEL, &mut watch);
    written.map(drop).map_err(|error| failed(ErrorCode::OperationFailed, &error, error.hint()))
}

/// What a bundle says of the image. Which distribution is in it nobody here has looked at.
fn bundled(manifest: &ImageManifest) -> Result<catalog::bundle::ImageManifest, Cause> {
    let plain: String = manifest.name.chars().map(|c| if "/:@".contains(c) { '-' } else { c }).collect();
    let word = |text: &str| {
        let word: Result<Word, _> = text.to_owned().try_into();
        word.map_err(|_| refused(ErrorCode::Internal, format!("{text:?} cannot stand in a bundle")))
    };
    let name: Result<Name, _> = plain.clone().try_into();
    let name = name.map_err(|_| {
        let cause = refused(ErrorCode::BadRequest, format!("a bundle cannot be called {plain}"));
        cause.with_hint(format!("give the image a shorter name: banger image tag {} NAME", manifest.name))
    })?;
    let settings = manifest.exec.clone();
    Ok(catalog::bundle::ImageManifest {
        variant: manifest.variant.clone(),
        source: Some(without_directories(&manifest.source)),
        content_bytes: Some(manifest.content_bytes),
        entries: Some(manifest.entries),
        packages: manifest.packages,
        init: manifest.init.clone(),
        kernel_ref: manifest.origin.as_ref().and_then(|origin| origin.kernel_ref.clone()?.try_into().ok()),
        exec: Exec {
            env: settings.env,
            user: settings.user,
            workdir: settings.workdir,
            command: manifest.command.clone(),
        },
        ..catalog::bundle::ImageManifest::new(name, word("linux")?, word(&manifest.arch)?)
    })
}

/// Where an image is from, without the directories of this host that a file of it was in: `oci:/home/me/out:v1` is `oci:out:v1`.
fn without_directories(source: &str) -> String {
    let is_path = |at: &usize| *at == 0 || source[..*at].ends_with(':') || source[..*at].ends_with(' ');
    match source.match_indices('/').map(|(at, _)| at).find(is_path) {
        Some(at) => format!("{}{}", &source[..at], source.rsplit('/').next().unwrap_or_default()),
        None => source.to_owned(),
    }
}

/// A layout of the image with all of its files in one layer (OCI image specification, "Image Layout").
fn oci_archive(manifest: &ImageManifest, rootfs: &Path, to: &mut dyn Write, watcher: Watcher<'_>) -> Result<(), Cause> {
    let beside = rootfs.parent().unwrap_or(Path::new("."));
    let mut spool = tempfile::tempfile_in(beside).map_err(|error| written(&error))?;
    let (layer, diff_id, layer_bytes) = packed(rootfs, &mut spool, watcher)?;
    let config = config_of(manifest, diff_id).to_string();
    let config_digest = Digest::of(config.as_bytes());
    let image = json!({
        "schemaVersion": 2,
        "mediaType": "application/vnd.oci.image.manifest.v1+json",
        "config": descriptor("application/vnd.oci.image.config.v1+json", config_digest, config.len() as u64),
        "layers": [descriptor("application/vnd.oci.image.layer.v1.tar+gzip", layer, layer_bytes)],
    })
    .to_string();
    let image_digest = Digest::of(image.as_bytes());
    let mut listed = descriptor("application/vnd.oci.image.manifest.v1+json", image_digest, image.len() as u64);
    listed["annotations"] = names_of(&manifest.name);
    let index = json!({
        "schemaVersion": 2,
        "mediaType": "application/vnd.oci.image.index.v1+json",
        "manifests": [listed],
    });
    let mut archive = tar::Builder::new(to);
    let mut add = |path: &str, content: &mut dyn io::Read, bytes: u64| {
        let mut header = tar::Header::new_gnu();
        header.set_mode(0o644);
        header.set_uid(0);
        header.set_gid(0);
        header.set_mtime(0);
        header.set_size(bytes);
        archive.append_data(&mut header, path, content).map_err(|error| written(&error))
    };
    let mut text = |path: &str, content: &str| add(path, &mut content.as_bytes(), content.len() as u64);
    text("oci-layout", &json!({"imageLayoutVersion": "1.0.0"}).to_string())?;
    text("index.json", &index.to_string())?;
    text(&format!("{BLOBS}/{image_digest}"), &image)?;
    text(&format!("{BLOBS}/{config_digest}"), &config)?;
    io::Seek::rewind(&mut spool).map_err(|error| written(&error))?;
    add(&format!("{BLOBS}/{layer}"), &mut spool, layer_bytes)?;
    archive.finish().map_err(|error| written(&error))
}

/// The layer, packed: its digest, that of its archive, and its length.
fn packed(rootfs: &Path, spool: &mut File, watcher: Watcher<'_>) -> Result<(Digest, Digest, u64), Cause> {
    let file = File::open(rootfs).map_err(|error| written(&error))?;
    let packed = Hashing::new(BufWriter::with_capacity(1 << 20, spool));
    let encoder = GzEncoder::new(packed, flate2::Compression::new(GZIP_LEVEL));
    let mut archive = Hashing::new(encoder);
    let whole = archive::pack(&file, &mut archive, watcher);
    whole.map_err(|error| failed(ErrorCode::OperationFailed, &error, None))?;
    let (encoder, diff_id) = archive.into_parts();
    let mut packed = encoder.finish().map_err(|error| written(&error))?;
    packed.flush().map_err(|error| written(&error))?;
    let (digest, bytes) = packed.finish();
    Ok((digest, diff_id, bytes))
}

fn descriptor(media_type: &str, digest: Digest, bytes: u64) -> Value {
    json!({"mediaType": media_type, "digest": format!("sha256:{digest}"), "size": bytes})
}

fn config_of(manifest: &ImageManifest, diff_id: Digest) -> Value {
    let mut process = BTreeMap::new();
    let settings = &manifest.exec;
    let env: Vec<String> = settings.env.iter().map(|(name, value)| format!("{name}={value}")).collect();
    if !env.is_empty() {
        process.insert("Env", json!(env));
    }
    if let Some(user) = &settings.user {
        process.insert("User", json!(user));
    }
    if let Some(workdir) = &settings.workdir {
        process.insert("WorkingDir", json!(workdir));
    }
    if !manifest.command.is_empty() {
        process.insert("Cmd", json!(manifest.command));
    }
    json!({
        "architecture": manifest.arch,
        "os": "linux",
        "config": process,
        "rootfs": {"type": "layers", "diff_ids": [format!("sha256:{diff_id}")]},
        "history": [{"created_by": "banger image save"}],
    })
}

/// What the image is called: by its tag for tools of OCI layouts, in full for Docker and containerd.
fn names_of(name: &str) -> Value {
    let reference: Option<oci::Reference> = name.parse().ok();
    let tag = reference.as_ref().and_then(|reference| reference.tag().map(str::to_owned));
    let mut names = BTreeMap::from([("org.opencontainers.image.ref.name", tag.unwrap_or_else(|| "latest".to_owned()))]);
    if let Some(reference) = reference {
        names.insert("io.containerd.image.name", reference.to_string());
    }
    json!(names)
}

#[cfg(test)]
mod tests {
    use bytes::Bytes;
    use futures_util::stream;
    use oci::Options;

    use super::*;
    use crate::image::layers::{Limits, flatten};
    use crate::image::rootfs::filesystem;
    use crate::model::image::ExecSettings;
    use crate::ops::puller::{Archive, Puller};
    use crate::workshop::Registries;

    /// An image with an entry of each kind, as it would be on record.
    fn image(dir: &Path) -> ImageManifest {
        let mut tar = tar::Builder::new(Vec::new());
        let long = format!("dir/{}", "n".repeat(150));
        let entries: [(&str, tar::EntryType, &str, &[u8]); 8] = [
            ("dir/", tar::EntryType::Directory, "", b""),
            ("dir/file", tar::EntryType::Regular, "", &[7; 9000]),
            (&long, tar::EntryType::Regular, "", b"long"),
            ("dir/same", tar::EntryType::Link, "dir/file", b""),
            ("link", tar::EntryType::Symlink, "dir/file", b""),
            ("null", tar::EntryType::Char, "", b""),
            ("fifo", tar::EntryType::Fifo, "", b""),
            ("empty", tar::EntryType::Regular, "", b""),
        ];
        for (path, kind, target, content) in entries {
            let mut header = tar::Header::new_gnu();
            header.set_entry_type(kind);
            header.set_mode(0o4751);
            header.set_uid(3_000_000);
            header.set_gid(4);
            header.set_mtime(1_600_000_000);
            header.set_device_major(1).unwrap();
            header.set_device_minor(3).unwrap();
            header.set_size(content.len() as u64);
            if kind == tar::EntryType::Regular {
                let records = [("SCHILY.xattr.user.mark", &b"a\nb"[..]), ("mtime", b"1600000000.25")];
                tar.append_pax_extensions(records).unwrap();
            }
            if target.is_empty() {
                tar.append_data(&mut header, path, content).unwrap();
            } else {
                tar.append_link(&mut header, path, target).unwrap();
            }
        }
        let layer = dir.join("layer.tar");
        std::fs::write(&layer, tar.into_inner().unwrap()).unwrap();
        let bytes = std::fs::read(&layer).unwrap();
        let digest = oci::Digest::of(&bytes);
        let (compression, size) = (oci::Compression::None, bytes.len() as u64);
        let layer = oci::Layer { digest, diff_id: digest, compression, size, path: layer };
        let rootfs = flatten(&[layer], &dir.join("rootfs.ext4"), Limits::default(), Watcher::none()).unwrap();
        ImageManifest {
            name: "team/app:v1".to_owned(),
            variant: None,
            digest: rootfs.sha256,
            bytes: rootfs.bytes,
            content_bytes: rootfs.content_bytes,
            entries: rootfs.entries,
            packages: rootfs.packages,
            recipe_sha256: None,
            source: "a test".to_owned(),
            init: rootfs.init,
            arch: "amd64".to_owned(),
            exec: ExecSettings {
                env: BTreeMap::from([("A".to_owned(), "b=c".to_owned())]),
                user: Some("7:8".to_owned()),
                workdir: Some("/dir".to_owned()),
            },
            command: vec!["sh".to_owned(), "-c".to_owned()],
            origin: None,
            linked: None,
        }
    }

    async fn again(manifest: &ImageManifest, dir: &Path, format: SaveFormat) -> (Option<String>, ImageManifest) {
        let mut saved = Vec::new();
        save(manifest, &dir.join("rootfs.ext4"), format, &mut saved, Watcher::none()).unwrap();
        let registries = Registries::new(Options::default(), dir.join("cache"));
        let pieces: Vec<io::Result<Bytes>> =
            saved.chunks(70_000).map(|piece| Ok(Bytes::copy_from_slice(piece))).collect();
        let mut archive: Archive = Box::pin(stream::iter(pieces));
        let (source, called) = registries.load(&mut archive).await.unwrap();
        let fetched = registries.fetch(&source, &|_| {}).await.unwrap();
        let staging = dir.join(format!("{format:?}"));
        std::fs::create_dir(&staging).unwrap();
        (called, fetched.flatten(&staging, Watcher::none()).unwrap())
    }

    #[test]
    fn a_bundle_does_not_tell_where_its_maker_had_it() {
        for (source, told) in [
            ("docker.io/library/debian:trixie", "docker.io/library/debian:trixie"),
            ("oci:/home/me/out:v1", "oci:out:v1"),
            ("/srv/rootfs.ext4", "rootfs.ext4"),
            ("web, of team/app:v1", "web, of team/app:v1"),
            ("a recipe", "a recipe"),
        ] {
            assert_eq!(without_directories(source), told);
        }
    }

    #[tokio::test]
    async fn a_bundle_is_the_same_image_again() {
        let dir = tempfile::tempdir().unwrap();
        let manifest = image(dir.path());
        let (called, loaded) = again(&manifest, dir.path(), SaveFormat::Bundle).await;
        assert_eq!(called.as_deref(), Some("team-app-v1"));
        assert_eq!((loaded.digest, loaded.id()), (manifest.digest, manifest.id()));
        assert_eq!((loaded.exec, loaded.command), (manifest.exec, manifest.command));
    }

    #[tokio::test]
    async fn an_oci_archive_holds_the_same_tree() {
        let dir = tempfile::tempdir().unwrap();
        let manifest = image(dir.path());
        let (called, loaded) = again(&manifest, dir.path(), SaveFormat::OciArchive).await;
        assert_eq!(called.as_deref(), Some("team/app:v1"));
        assert_eq!((loaded.exec, loaded.command), (manifest.exec, manifest.command));
        let told = |rootfs: &Path| {
            let file = File::open(rootfs).unwrap();
            let records = filesystem::records(&file, Watcher::none()).unwrap();
            let place = |text: String| {
                text.split("at: ").map(|part| part.trim_start_matches(char::is_numeric)).collect::<String>()
            };
            records.iter().map(|record| place(format!("{record:?}"))).collect::<Vec<_>>()
        };
        let (before, after) = (told(&dir.path().join("rootfs.ext4")), told(&dir.path().join("OciArchive/rootfs.ext4")));
        assert_eq!(before, after);
        assert!(before.iter().any(|entry| entry.contains("3000000") && entry.contains("250000000")), "{before:#?}");
    }
}

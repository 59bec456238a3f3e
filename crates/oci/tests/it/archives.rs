//! Archives made by hand: hostile ones, old ones, packed ones.

use std::io::{Cursor, Read};

use oci::archive::{Format, pipe};
use oci::source::Choice;
use oci::{Blobs, Digest, Options, PullError, Pulled, Source, load, pull};
use serde_json::json;
use tar::{Builder, EntryType, Header};

use crate::image::{Image, Told, cache, chain, config, gzip, is_quiet, noise, options};

/// What an archive holds.
enum Entry<'a> {
    File(&'a str, Vec<u8>),
    Link(&'a str, &'a str),
    HardLink(&'a str, &'a str),
    Directory(&'a str),
    Kind(&'a str, EntryType),
}

use Entry::{Directory, File, HardLink, Kind, Link};

/// A tar of these; names go in as they are, whatever they are.
fn archive(entries: &[Entry<'_>]) -> Vec<u8> {
    let mut builder = Builder::new(Vec::new());
    for entry in entries {
        let (name, kind, link, bytes): (_, _, _, &[u8]) = match entry {
            File(name, bytes) => (name, EntryType::Regular, "", bytes),
            Link(name, to) => (name, EntryType::Symlink, *to, b""),
            HardLink(name, to) => (name, EntryType::Link, *to, b""),
            Directory(name) => (name, EntryType::Directory, "", b""),
            Kind(name, kind) => (name, *kind, "", b""),
        };
        let mut header = Header::new_gnu();
        let old = header.as_old_mut();
        old.name[..name.len()].copy_from_slice(name.as_bytes());
        old.linkname[..link.len()].copy_from_slice(link.as_bytes());
        header.set_entry_type(kind);
        header.set_device_major(0).unwrap();
        header.set_device_minor(0).unwrap();
        header.set_size(bytes.len() as u64);
        header.set_mode(0o644);
        header.set_uid(0);
        header.set_gid(0);
        header.set_mtime(0);
        header.set_cksum();
        builder.append(&header, bytes).unwrap();
    }
    builder.into_inner().unwrap()
}

fn index_of(config: &str, tags: &[&str], layers: &[&str]) -> Vec<u8> {
    serde_json::to_vec(&json!([{"Config": config, "RepoTags": tags, "Layers": layers}])).unwrap()
}

/// An archive as Docker wrote it until it wrote layouts: a directory a layer, and links where two are equal.
fn old_archive() -> Vec<u8> {
    let config = config("amd64", &[b"one", b"two", b"one"]);
    let config_name = format!("{}.json", Digest::of(&config).hex());
    let layers = ["1/layer.tar", "2/layer.tar", "3/layer.tar"];
    archive(&[
        Directory("1/"),
        File("1/VERSION", b"1.0".to_vec()),
        File("1/json", b"{}".to_vec()),
        File("1/layer.tar", b"one".to_vec()),
        HardLink("2/layer.tar", "extra"),
        Link("3/layer.tar", "../1/layer.tar"),
        File("extra", b"two".to_vec()),
        File(&config_name, config),
        File("manifest.json", index_of(&config_name, &["old:1"], &layers)),
        File("repositories", b"{}".to_vec()),
    ])
}

async fn take(bytes: &[u8], format: Format, options: &Options, blobs: &Blobs) -> Result<Pulled, PullError> {
    load(Cursor::new(bytes.to_vec()), format, &Choice::Only, options, blobs, &()).await
}

#[tokio::test]
async fn an_archive_of_the_old_kind_is_read_with_its_links() {
    let (dir, blobs) = cache();
    let pulled =
        take(&old_archive(), Format::Any, &options(), &blobs).await.unwrap_or_else(|e| panic!("{}", chain(&e)));
    let contents: Vec<_> = pulled.layers.iter().map(|layer| std::fs::read(&layer.path).unwrap()).collect();
    assert_eq!(contents, [b"one", b"two", b"one"]);
    assert_eq!(pulled.config.entrypoint, ["/e"]);
    assert!(is_quiet(dir.path()), "what nobody needs is gone");
    assert_eq!(blobs.list().unwrap().len(), 4);
    let again = take(&old_archive(), Format::Docker, &options(), &blobs).await.unwrap();
    assert_eq!(again.manifest, pulled.manifest);
}

#[tokio::test]
async fn packed_archives_and_pipes_are_read() {
    let (_dir, blobs) = cache();
    let plain = old_archive();
    for packed in [gzip(&plain), zstd::encode_all(plain.as_slice(), 1).unwrap()] {
        take(&packed, Format::Any, &options(), &blobs).await.unwrap();
    }
    // As it comes from a client, in pieces.
    let (inlet, outlet) = pipe();
    let feeding = async {
        for piece in plain.chunks(700) {
            assert!(inlet.put(Ok(bytes::Bytes::copy_from_slice(piece))).await);
        }
        drop(inlet);
    };
    let options = options();
    let loading = load(outlet, Format::Any, &Choice::Only, &options, &blobs, &());
    let ((), loaded) = tokio::join!(feeding, loading);
    loaded.unwrap();
    // One that breaks off.
    let (inlet, outlet) = pipe();
    inlet.put(Err(std::io::Error::other("the client is gone"))).await;
    let refused = load(outlet, Format::Any, &Choice::Only, &options, &blobs, &()).await.unwrap_err();
    assert!(chain(&refused).ends_with("the client is gone"), "{}", chain(&refused));
}

/// A layout's files, as entries.
fn layout(image: &Image) -> Vec<(String, Vec<u8>)> {
    let index = json!({"schemaVersion": 2, "manifests": [{"mediaType": oci::manifest::OCI_MANIFEST,
        "digest": image.digest(), "size": image.manifest.len(),
        "annotations": {"org.opencontainers.image.ref.name": "v1"}}]});
    let blobs = image.layers.iter().chain([&image.config, &image.manifest]);
    let mut files: Vec<_> =
        blobs.map(|blob| (format!("blobs/sha256/{}", Digest::of(blob).hex()), blob.clone())).collect();
    files.push(("oci-layout".into(), br#"{"imageLayoutVersion":"1.0.0"}"#.to_vec()));
    files.push(("index.json".into(), serde_json::to_vec(&index).unwrap()));
    files
}

fn packed_layout(files: &[(String, Vec<u8>)]) -> Vec<u8> {
    archive(&files.iter().map(|(name, bytes)| File(name, bytes.clone())).collect::<Vec<_>>())
}

#[tokio::test]
async fn a_layout_is_read_packed_and_as_a_directory() {
    let (dir, blobs) = cache();
    let image = Image::gzip(&[b"one", b"two"]);
    let files = layout(&image);
    let at = dir.path().join("layout");
    for (name, bytes) in &files {
        std::fs::create_dir_all(at.join(name).parent().unwrap()).unwrap();
        std::fs::write(at.join(name), bytes).unwrap();
    }
    let packed = dir.path().join("layout.tar");
    std::fs::write(&packed, packed_layout(&files)).unwrap();
    for source in [format!("oci:{}:v1", at.display()), format!("oci-archive:{}", packed.display())] {
        let (_dir, blobs) = cache();
        let told = Told::default();
        let pulled =
            pull(&source.parse().unwrap(), &options(), &blobs, &told).await.unwrap_or_else(|e| panic!("{}", chain(&e)));
        assert_eq!((pulled.manifest, pulled.layers.len(), told.count("Done")), (image.digest(), 2, 2));
    }
    let wrong: Source = format!("oci:{}:v2", at.display()).parse().unwrap();
    let refused = pull(&wrong, &options(), &blobs, &()).await.unwrap_err();
    assert!(chain(&refused).ends_with("it has no image :v2, but v1"), "{}", chain(&refused));
    // A blob that is something else, one that waits for a writer, one that is not there.
    let layer = at.join(&files[0].0);
    for (spoil, why) in [(0, "what was to be sha256:"), (1, "it is no regular file"), (2, "cannot open")] {
        std::fs::remove_file(&layer).unwrap_or_default();
        match spoil {
            0 => std::fs::write(&layer, vec![1; files[0].1.len()]).unwrap(),
            1 => rustix::fs::mkfifoat(rustix::fs::CWD, &layer, rustix::fs::Mode::RWXU).unwrap(),
            _ => {}
        }
        let source: Source = format!("oci:{}", at.display()).parse().unwrap();
        let refused = pull(&source, &options(), &blobs, &()).await.unwrap_err();
        assert!(chain(&refused).contains(why), "{}", chain(&refused));
    }
}

#[tokio::test]
async fn hostile_archives_are_refused_with_the_entry() {
    let (dir, blobs) = cache();
    let config = config("amd64", &[b"one"]);
    let name = format!("{}.json", Digest::of(&config).hex());
    let image = |layer: &'static str| File("manifest.json", index_of(&name, &[], &[layer]));
    let good = || File(&name, config.clone());
    let other = format!("{}.json", Digest::of(b"x").hex());
    let table: Vec<(Vec<Entry<'_>>, &str)> = vec![
        (vec![File("../x", vec![])], "entry ../x is refused: there is .. in its name"),
        (vec![File("a/../../x", vec![])], "entry a/../../x is refused"),
        (vec![File("/etc/passwd", vec![])], "entry /etc/passwd is refused: its name is absolute"),
        (vec![Link("a", "/etc/passwd")], "entry a is refused: it leads out of the archive"),
        (vec![Link("a/b", "../../x")], "entry a/b is refused: it leads out"),
        (vec![HardLink("a", "../x")], "entry a is refused: it leads out"),
        (vec![Kind("dev", EntryType::Char)], "entry dev is refused: it is neither"),
        (vec![Kind("pipe", EntryType::Fifo)], "entry pipe is refused: it is neither"),
        (vec![File("a", vec![1]), File("./a", vec![2])], "entry ./a is refused: there are two"),
        (vec![File("a", vec![1]), Link("a", "b")], "entry a is refused: there are two"),
        (vec![File(&other, vec![2])], "is sha256:"),
        (vec![Link("a", "b"), Link("b", "a"), good(), image("a")], "manifest.json names a, which is not there"),
        (vec![good(), image("1/layer.tar")], "manifest.json names 1/layer.tar, which is not there"),
        (vec![good(), File("l", b"other".to_vec()), image("l")], "entry l is sha256:"),
        (vec![good(), File("l", b"BZh9".to_vec()), image("l")], "entry l is refused: it is compressed otherwise"),
        (vec![good(), image("../../etc/shadow")], "which is not there"),
        (vec![File("manifest.json", b"{".to_vec())], "cannot read manifest.json"),
        (vec![File("manifest.json", vec![b' '; 5 << 20])], "more than the 4194304 bytes"),
        (vec![File("manifest.json", b"[]".to_vec())], "it holds no image"),
        (vec![File("etc/passwd", vec![])], "it holds no image"),
    ];
    for (entries, why) in table {
        let refused = take(&archive(&entries), Format::Any, &options(), &blobs).await.expect_err(why);
        assert!(chain(&refused).contains(why), "{}\n{why}", chain(&refused));
    }
    for (bytes, why) in [
        (&b""[..], "it is empty"),
        (b"\xfd7zXZ\0 and more", "xz"),
        (&gzip(&old_archive())[..400], "cannot read the archive"),
        (&old_archive()[..3000], "it ends too early"),
    ] {
        let refused = take(bytes, Format::Any, &options(), &blobs).await.expect_err(why);
        assert!(chain(&refused).contains(why), "{}\n{why}", chain(&refused));
    }
    assert!(is_quiet(dir.path()) && blobs.list().unwrap().is_empty(), "nothing of it stays");
}

#[tokio::test]
async fn bombs_end_at_a_limit() {
    let (dir, blobs) = cache();
    let mut small = options();
    small.limits.archive_entries = 100;
    small.limits.layer_bytes = 1 << 20;
    small.limits.image_bytes = 3 << 20;
    let many: Vec<_> = (0..200).map(|at| format!("f{at}")).collect();
    let many = archive(&many.iter().map(|name| File(name, vec![])).collect::<Vec<_>>());
    let refused = take(&many, Format::Any, &small, &blobs).await.unwrap_err();
    assert!(chain(&refused).contains("more than 100 entries; it was read up to f100"), "{}", chain(&refused));
    // Packed to a thousandth.
    let zeros = gzip(&archive(&[File("zeros", vec![0; 2 << 20])]));
    let refused = take(&zeros, Format::Any, &small, &blobs).await.unwrap_err();
    assert!(chain(&refused).contains("zeros has more than the 1048576 bytes"), "{}", chain(&refused));
    let several: Vec<_> = (0..5).map(|at| format!("f{at}")).collect();
    let several = archive(&several.iter().map(|name| File(name, noise(1, 900 << 10))).collect::<Vec<_>>());
    let refused = take(&several, Format::Any, &small, &blobs).await.unwrap_err();
    assert!(chain(&refused).contains("f3 has more than"), "{}", chain(&refused));
    assert!(is_quiet(dir.path()));
}

#[tokio::test]
async fn who_stops_waiting_ends_the_reading() {
    struct Endless;
    impl Read for Endless {
        fn read(&mut self, buffer: &mut [u8]) -> std::io::Result<usize> {
            buffer.fill(0);
            Ok(buffer.len())
        }
    }
    let (dir, blobs) = cache();
    let mut header = Header::new_gnu();
    header.set_path("endless").unwrap();
    header.set_size(1 << 40);
    header.set_mode(0o644);
    header.set_uid(0);
    header.set_gid(0);
    header.set_mtime(0);
    header.set_cksum();
    let stream = Cursor::new(header.as_bytes().to_vec()).chain(Endless.take(1 << 36));
    let (told, mut options) = (Told::default(), options());
    options.limits.layer_bytes = 1 << 40;
    options.limits.image_bytes = 1 << 40;
    {
        let mut loading = std::pin::pin!(load(stream, Format::Any, &Choice::Only, &options, &blobs, &told));
        while told.count("archive") == 0 {
            let polled = tokio::time::timeout(std::time::Duration::from_millis(5), loading.as_mut()).await;
            assert!(polled.is_err(), "it does not end by itself");
        }
    }
    let deadline = std::time::Instant::now() + std::time::Duration::from_secs(30);
    while !is_quiet(dir.path()) {
        assert!(std::time::Instant::now() < deadline, "somebody still reads");
        tokio::task::yield_now().await;
    }
}

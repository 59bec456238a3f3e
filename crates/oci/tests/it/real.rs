//! Debian's `docker-registry`, and archives made by skopeo and umoci. What is not installed is skipped, and said so.

use std::ffi::OsStr;
use std::io::Read;
use std::net::{TcpListener, TcpStream};
use std::path::Path;
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

use oci::credentials::{Credentials, Places};
use oci::options::{Rules, Security};
use oci::{Compression, Digest, Options, Pulled, Source, load, pull};

use crate::image::{cache, chain, noise, options};

const PROGRAMS: [&str; 3] = ["docker-registry", "skopeo", "umoci"];
/// "secret" for "user", as `htpasswd -B` writes it.
const HTPASSWD: &str = "user:$2b$04$vj9xpfoHNGNhVoM1.CCcrOi.2OX./BOh633q4s9Y4n.HJYe4HsRBW\n";

#[expect(clippy::print_stderr, reason = "a test that shows nothing says so")]
fn is_skipped(programs: &[&str]) -> bool {
    let path = std::env::var_os("PATH").unwrap_or_default();
    let missing = programs.iter().find(|program| !std::env::split_paths(&path).any(|dir| dir.join(program).is_file()));
    if let Some(missing) = missing {
        eprintln!("skipped: {missing} is not installed: scripts/packages.sh install images");
    }
    missing.is_some()
}

fn run<S: AsRef<OsStr>>(program: &str, args: impl IntoIterator<Item = S>) {
    let output = Command::new(program).args(args).stdin(Stdio::null()).output().unwrap();
    assert!(output.status.success(), "{program}: {}", String::from_utf8_lossy(&output.stderr));
}

/// A registry on loopback, and where it keeps what it has.
struct Registry {
    child: Child,
    address: String,
}

impl Registry {
    /// `http` and `auth` are parts of its configuration.
    fn start(dir: &Path, http: &str, auth: &str) -> Registry {
        let address = TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap().to_string();
        let storage = dir.join("storage");
        let config = format!(
            "version: 0.1\nlog: {{level: error}}\nstorage: {{filesystem: {{rootdirectory: {}}}}}\n\
             http: {{addr: \"{address}\", secret: x{http}}}\n{auth}",
            storage.display()
        );
        let file = dir.join("registry.yml");
        std::fs::write(&file, config).unwrap();
        let mut command = Command::new("docker-registry");
        command.arg("serve").arg(file).stdin(Stdio::null()).stdout(Stdio::null()).stderr(Stdio::null());
        let registry = Registry { child: command.spawn().unwrap(), address };
        let deadline = Instant::now() + Duration::from_secs(60);
        while TcpStream::connect(&registry.address).is_err() {
            assert!(Instant::now() < deadline, "docker-registry does not listen at {}", registry.address);
            std::thread::yield_now();
        }
        registry
    }

    fn source(&self, rest: &str) -> Source {
        format!("{}/{rest}", self.address).parse().unwrap()
    }

    /// Has what is in a layout.
    fn push(&self, from: &str, name: &str, more: &[&str]) {
        let to = format!("docker://{}/{name}", self.address);
        let fixed = ["copy", "--quiet", "--dest-tls-verify=false"];
        run("skopeo", fixed.iter().copied().chain(more.iter().copied()).chain([from, to.as_str()]));
    }
}

impl Drop for Registry {
    fn drop(&mut self) {
        self.child.kill().unwrap();
        self.child.wait().unwrap();
    }
}

/// A layout of umoci with two layers: where it is, as skopeo and banger spell it.
fn layout(dir: &Path) -> String {
    let layout = dir.join("layout");
    let image = format!("{}:v1", layout.display());
    run("umoci", ["init".as_ref(), "--layout".as_ref(), layout.as_os_str()]);
    run("umoci", ["new", "--image", &image]);
    for (at, size) in [(1, 3 << 20), (2, 1000)] {
        let mut builder = tar::Builder::new(Vec::new());
        let mut header = tar::Header::new_gnu();
        header.set_size(size);
        header.set_mode(0o644);
        header.set_cksum();
        let bytes = noise(at, usize::try_from(size).unwrap());
        builder.append_data(&mut header, format!("file{at}"), bytes.as_slice()).unwrap();
        let file = dir.join(format!("layer{at}.tar"));
        std::fs::write(&file, builder.into_inner().unwrap()).unwrap();
        run("umoci", ["raw", "add-layer", "--image", &image, &file.display().to_string()]);
    }
    run("umoci", ["config", "--image", &image, "--config.env", "A=b", "--config.user", "1:2", "--config.cmd", "sh"]);
    format!("oci:{image}")
}

/// The layers unpack to what the configuration says, and that says what umoci was told.
fn check(pulled: &Pulled, compression: Compression, what: &str) {
    assert_eq!(pulled.layers.len(), 2, "{what}");
    assert!(pulled.config.env.contains(&"A=b".to_owned()), "{what}");
    assert_eq!((pulled.config.user.as_str(), pulled.config.cmd.as_slice()), ("1:2", &["sh".to_owned()][..]), "{what}");
    for layer in &pulled.layers {
        assert_eq!(layer.compression, compression, "{what}");
        let file = std::fs::File::open(&layer.path).unwrap();
        let mut plain = Vec::new();
        match layer.compression {
            Compression::None => (&file).read_to_end(&mut plain).unwrap(),
            Compression::Gzip => flate2::read::MultiGzDecoder::new(file).read_to_end(&mut plain).unwrap(),
            Compression::Zstd => zstd::stream::read::Decoder::new(file).unwrap().read_to_end(&mut plain).unwrap(),
        };
        assert_eq!(Digest::of(&plain), layer.diff_id, "{what}");
    }
}

async fn pulled(source: &Source, options: &Options, compression: Compression) {
    let (_dir, blobs) = cache();
    let pulled = pull(source, options, &blobs, &()).await.unwrap_or_else(|error| panic!("{}", chain(&error)));
    check(&pulled, compression, &source.to_string());
}

#[tokio::test]
async fn a_real_registry_gives_what_was_pushed() {
    if is_skipped(&PROGRAMS) {
        return;
    }
    let dir = tempfile::tempdir().unwrap();
    let layout = layout(dir.path());
    let registry = Registry::start(dir.path(), "", "");
    for (name, more) in [("a/oci:v1", &[][..]), ("a/docker:v1", &["--format", "v2s2"][..])] {
        registry.push(&layout, name, more);
        pulled(&registry.source(name), &options(), Compression::Gzip).await;
    }
    // skopeo packs only what is not packed, and does not push what a registry has in another packing.
    let plain = format!("docker-archive:{}", dir.path().join("plain.tar").display());
    run("skopeo", ["copy", "--quiet", &layout, &format!("{plain}:x:v1")]);
    let empty = tempfile::tempdir().unwrap();
    let other = Registry::start(empty.path(), "", "");
    other.push(&plain, "a/zstd:v1", &["--dest-compress-format", "zstd", "--format", "oci"]);
    pulled(&other.source("a/zstd:v1"), &options(), Compression::Zstd).await;
    let (_dir, blobs) = cache();
    let one = pull(&registry.source("a/oci:v1"), &options(), &blobs, &()).await.unwrap();
    let asking = oci::registry::Registry::new(&options()).unwrap();
    let name = format!("{}/a/oci:v1", registry.address).parse().unwrap();
    assert_eq!(asking.resolve(&name).await.unwrap(), one.target);
    for (name, why) in [("a/oci:v2", "has no manifest"), ("b:v1", "has no manifest")] {
        let refused = pull(&registry.source(name), &options(), &blobs, &()).await.unwrap_err();
        assert!(chain(&refused).contains(why), "{}", chain(&refused));
    }
}

#[tokio::test]
async fn archives_of_skopeo_are_read() {
    if is_skipped(&PROGRAMS[1..]) {
        return;
    }
    let dir = tempfile::tempdir().unwrap();
    let layout = layout(dir.path());
    let from = layout;
    pulled(&from.parse().unwrap(), &options(), Compression::Gzip).await;
    let file = |name: &str| dir.path().join(name).display().to_string();
    let docker = file("docker.tar");
    run("skopeo", ["copy", "--quiet", &from, &format!("docker-archive:{docker}:x.io/a:v1")]);
    for rest in ["", ":x.io/a:v1", ":@0"] {
        pulled(&format!("docker-archive:{docker}{rest}").parse().unwrap(), &options(), Compression::None).await;
    }
    let packed = file("oci.tar");
    run("skopeo", ["copy", "--quiet", &from, &format!("oci-archive:{packed}:v1")]);
    for rest in ["", ":v1"] {
        pulled(&format!("oci-archive:{packed}{rest}").parse().unwrap(), &options(), Compression::Gzip).await;
    }
    // Through a pipe, as from `docker save`.
    let (_dir, blobs) = cache();
    let file = std::fs::File::open(&docker).unwrap();
    let only = oci::source::Choice::Only;
    let loaded = load(file, oci::archive::Format::Any, &only, &options(), &blobs, &()).await.unwrap();
    check(&loaded, Compression::None, "a pipe");
}

#[tokio::test]
async fn a_real_registry_wants_a_password() {
    if is_skipped(&PROGRAMS) {
        return;
    }
    let dir = tempfile::tempdir().unwrap();
    let layout = layout(dir.path());
    let users = dir.path().join("htpasswd");
    std::fs::write(&users, HTPASSWD).unwrap();
    let auth = format!("auth: {{htpasswd: {{realm: here, path: {}}}}}\n", users.display());
    let registry = Registry::start(dir.path(), "", &auth);
    // skopeo writes the file that is read here.
    let file = dir.path().join("auth.json");
    let login = ["login", "--tls-verify=false", "--username", "user", "--password", "secret", "--authfile"];
    let login = login.iter().map(OsStr::new).chain([file.as_os_str(), registry.address.as_ref()]);
    run("skopeo", login);
    registry.push(&layout, "x:v1", &["--dest-authfile", file.to_str().unwrap()]);
    let credentials = Credentials::at(&Places { auth_file: Some(file), ..Places::default() });
    let known = Options { credentials, ..options() };
    pulled(&registry.source("x:v1"), &known, Compression::Gzip).await;
    let (_dir, blobs) = cache();
    let refused = pull(&registry.source("x:v1"), &options(), &blobs, &()).await.unwrap_err();
    assert!(chain(&refused).contains("does not let strangers have manifest"), "{}", chain(&refused));
}

#[tokio::test]
async fn a_certificate_is_trusted_because_somebody_says_so() {
    if is_skipped(&["docker-registry", "skopeo", "umoci", "openssl"]) {
        return;
    }
    let dir = tempfile::tempdir().unwrap();
    let layout = layout(dir.path());
    let (certificate, key) = (dir.path().join("certificate.pem"), dir.path().join("key.pem"));
    let fixed = ["req", "-x509", "-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:prime256v1", "-nodes", "-days", "2"];
    let named = ["-subj", "/CN=here", "-addext", "subjectAltName=IP:127.0.0.1"];
    let named = named.into_iter().chain(["-addext", "basicConstraints=critical,CA:FALSE"]);
    let files = [OsStr::new("-keyout"), key.as_os_str(), OsStr::new("-out"), certificate.as_os_str()];
    run("openssl", fixed.into_iter().chain(named).map(OsStr::new).chain(files));
    let http = format!(", tls: {{certificate: {}, key: {}}}", certificate.display(), key.display());
    let registry = Registry::start(dir.path(), &http, "");
    registry.push(&layout, "x:v1", &[]);
    let with = |security, authorities: &[Vec<u8>]| {
        let rules = Rules { security: Some(security), ..Rules::default() };
        let mut options = Options { extra_authorities: authorities.to_vec(), ..options() };
        options.registries.insert(registry.address.clone(), rules);
        options
    };
    let source = registry.source("x:v1");
    pulled(&source, &with(Security::Unverified, &[]), Compression::Gzip).await;
    let (_dir, blobs) = cache();
    let refused = pull(&source, &with(Security::Verified, &[]), &blobs, &()).await.unwrap_err();
    assert!(refused.hint().unwrap().starts_with("trust the authority of"), "{}", chain(&refused));
    let authority = std::fs::read(certificate).unwrap();
    pulled(&source, &with(Security::Verified, &[authority]), Compression::Gzip).await;
}

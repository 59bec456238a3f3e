//! Images of registries and archives: pulled from Debian's registry on loopback, and booted.

use std::ffi::OsStr;
use std::fs;
use std::net::{TcpListener, TcpStream};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};

use super::host::{Host, eventually};

/// The program of an image that holds nothing else.
const HELLO: &str = r#"
#include <stdio.h>
#include <unistd.h>
int main(int argc, char **argv) {
    char cwd[256];
    printf("in %s as %d with %d\n", getcwd(cwd, sizeof cwd), (int) getuid(), argc - 1);
    return argc > 1 ? 7 : 0;
}
"#;

const CONTAINERFILE: &str = r#"
FROM scratch AS base
COPY busybox /bin/busybox
RUN ["/bin/busybox", "sh", "-c", "/bin/busybox --install /bin && echo built >/made"]
FROM base
ARG GREETING=none
ENV GREETING=$GREETING
USER 1000
WORKDIR /srv
CMD ["sh", "-c", "echo $GREETING; cat /made; id -u; pwd"]
"#;

/// As [`Host::new`], with directories of its own for images and what is fetched: daemons that share one would sweep
/// each other's.
pub(super) fn with_own_images() -> Host {
    let host = Host::new();
    let seed = PathBuf::from(std::env::var_os("BANGER_TEST_HOME").expect("a host was made with it just now"));
    let (images, cache) = (host.state().join("images"), host.home().join("cache"));
    for link in [&images, &cache] {
        fs::remove_file(link).unwrap();
        fs::create_dir(link).unwrap();
    }
    for entry in fs::read_dir(seed.join("cache")).unwrap().flatten() {
        std::os::unix::fs::symlink(entry.path(), cache.join(entry.file_name())).unwrap();
    }
    for image in fs::read_dir(seed.join("state/images")).unwrap().flatten() {
        let own = images.join(image.file_name());
        fs::create_dir(&own).unwrap();
        for file in fs::read_dir(image.path()).unwrap().flatten() {
            let to = own.join(file.file_name());
            if fs::hard_link(file.path(), &to).is_err() {
                fs::copy(file.path(), to).unwrap();
            }
        }
    }
    host
}

pub(super) fn run<S: AsRef<OsStr>>(program: &str, args: impl IntoIterator<Item = S>) {
    let output = Command::new(program).args(args).stdin(Stdio::null()).output().unwrap();
    assert!(output.status.success(), "{program}: {}", String::from_utf8_lossy(&output.stderr));
}

fn is_there(program: &str) -> bool {
    let path = std::env::var_os("PATH").unwrap_or_default();
    std::env::split_paths(&path).any(|dir| dir.join(program).is_file())
}

/// A registry, and a layout that images for it are made in.
pub(super) struct Registry {
    child: Child,
    address: String,
    dir: tempfile::TempDir,
}

impl Registry {
    /// Says so when one of these programs is not installed.
    #[expect(clippy::print_stderr, reason = "a test that shows nothing says so")]
    fn missing(programs: &[&str]) -> bool {
        let missing = programs.iter().find(|program| !is_there(program));
        if let Some(missing) = missing {
            eprintln!("skipped: {missing} is not installed: scripts/packages.sh install images build");
        }
        missing.is_some()
    }

    /// None where a program it needs is not installed, which is said.
    pub(super) fn start() -> Option<Registry> {
        if Registry::missing(&["docker-registry", "skopeo", "umoci", "gcc", "busybox"]) {
            return None;
        }
        let dir = tempfile::tempdir().unwrap();
        let address = TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap().to_string();
        let storage = dir.path().join("storage");
        let config = format!(
            "version: 0.1\nlog: {{level: error}}\nstorage: {{filesystem: {{rootdirectory: {}}}}}\n\
             http: {{addr: \"{address}\", secret: x}}\n",
            storage.display()
        );
        let file = dir.path().join("registry.yml");
        fs::write(&file, config).unwrap();
        let mut command = Command::new("docker-registry");
        command.arg("serve").arg(file).stdin(Stdio::null()).stdout(Stdio::null()).stderr(Stdio::null());
        let child = command.spawn().unwrap();
        eventually("docker-registry to listen", || TcpStream::connect(&address).is_ok());
        run("umoci", ["init".as_ref(), "--layout".as_ref(), dir.path().join("layout").as_os_str()]);
        Some(Registry { child, address, dir })
    }

    /// Where something of this name is put beside it.
    pub(super) fn path(&self, name: &str) -> PathBuf {
        self.dir.path().join(name)
    }

    pub(super) fn layout(&self, tag: &str) -> String {
        format!("{}:{tag}", self.dir.path().join("layout").display())
    }

    /// Has an image of these tars, configured so.
    pub(super) fn push(&self, tag: &str, tars: &[PathBuf], config: &[&str]) -> String {
        let image = self.layout(tag);
        run("umoci", ["new", "--image", &image]);
        for tar in tars {
            run("umoci", ["raw", "add-layer", "--image", &image, tar.to_str().unwrap()]);
        }
        if !config.is_empty() {
            run("umoci", ["config", "--image", &image].iter().chain(config));
        }
        let name = format!("{}/t/{tag}:v1", self.address);
        run("skopeo", ["copy", "-q", "--dest-tls-verify=false", &format!("oci:{image}"), &format!("docker://{name}")]);
        name
    }

    /// A directory as a tar.
    pub(super) fn tar(&self, name: &str, fill: impl FnOnce(&Path)) -> PathBuf {
        let (dir, tar) = (self.dir.path().join(name), self.dir.path().join(format!("{name}.tar")));
        fs::create_dir(&dir).unwrap();
        fill(&dir);
        run(
            "tar",
            [
                "--numeric-owner",
                "--owner=0",
                "--group=0",
                "-cf",
                tar.to_str().unwrap(),
                "-C",
                dir.to_str().unwrap(),
                ".",
            ],
        );
        tar
    }

    /// One static program.
    fn hello(&self) -> PathBuf {
        self.tar("hello", |dir| {
            let source = self.dir.path().join("hello.c");
            fs::write(&source, HELLO).unwrap();
            run("gcc", ["-static".as_ref(), "-o".as_ref(), dir.join("hello").as_os_str(), source.as_os_str()]);
        })
    }
}

/// Busybox, with a name for each of its programs.
pub(super) fn busybox(registry: &Registry) -> PathBuf {
    registry.tar("busybox", |dir| {
        fs::create_dir_all(dir.join("bin")).unwrap();
        fs::copy("/usr/bin/busybox", dir.join("bin/busybox")).unwrap();
        run("/usr/bin/busybox", ["--install".as_ref(), "-s".as_ref(), dir.join("bin").as_os_str()]);
        // The links lead to where it is in the image.
        for link in fs::read_dir(dir.join("bin")).unwrap().flatten().filter(|link| link.path().is_symlink()) {
            fs::remove_file(link.path()).unwrap();
            std::os::unix::fs::symlink("busybox", link.path()).unwrap();
        }
    })
}

impl Drop for Registry {
    fn drop(&mut self) {
        self.child.kill().unwrap();
        self.child.wait().unwrap();
    }
}

#[test]
fn a_program_and_nothing_else_is_an_image() {
    let Some(registry) = Registry::start() else { return };
    let host = with_own_images();
    let name =
        registry.push("scratch", &[registry.hello()], &["--config.entrypoint", "/hello", "--config.cmd", "more"]);
    // Its own command, with a status of its own; then another; then from what is here.
    let ran = host.run(&["run", "--rm", "--image", &name]).code(7);
    assert_eq!(String::from_utf8_lossy(&ran.stdout), "in /root as 0 with 1\n");
    assert_eq!(host.ok(&["run", "--rm", "--image", &name, "--pull", "never", "--", "/hello"]), "in /root as 0 with 0");
    // A new tag of the same content is one more name; always looks again, and finds nothing to do.
    run(
        "skopeo",
        [
            "copy",
            "-q",
            "--src-tls-verify=false",
            "--dest-tls-verify=false",
            &format!("docker://{name}"),
            &format!("docker://{}/t/scratch:v2", registry.address),
        ],
    );
    let second = name.replace(":v1", ":v2");
    assert_eq!(host.ok(&["image", "pull", "-q", &second]), second);
    assert_eq!(host.ok(&["run", "--rm", "--image", &name, "--pull", "always", "--", "/hello"]), "in /root as 0 with 0");
    let listed = host.ok(&["image", "list", "--format", "json"]);
    let listed: serde_json::Value = serde_json::from_str(&listed).unwrap();
    let images = listed["images"].as_array().unwrap();
    let pulled = images.iter().find(|image| image["name"] == name.as_str()).unwrap();
    assert_eq!(pulled["also"], serde_json::json!([second]));
    host.ok(&["image", "delete", "-q", &second]);
    let missing = host.run(&["run", "--rm", "--image", &second, "--pull", "never"]).code(125);
    let said = &missing.stderr;
    assert!(said.contains("no image"), "{said}");
    host.ends_clean();
}

#[test]
fn busybox_alone_is_an_image() {
    let Some(registry) = Registry::start() else { return };
    let host = with_own_images();
    let name = registry.push("busybox", &[busybox(&registry)], &["--config.cmd", "sh"]);
    let script = "echo $((6 * 7)); ls /bin | grep -c . | sed 's/[0-9][0-9]*/many/'; id -u; hostname";
    let said = host.ok(&["run", "--rm", "--name", "tiny", "--image", &name, "--", "sh", "-c", script]);
    assert_eq!(said, "42\nmany\n0\ntiny");
    // Without a command it is the image's: a shell that reads what it is given.
    let piped = host.pipe(&["run", "--rm", "--image", &name], b"echo from a pipe\n").code(0);
    assert_eq!(String::from_utf8_lossy(&piped.stdout), "from a pipe\n");
    host.ends_clean();
}

#[test]
fn user_directory_and_environment_are_the_images() {
    let Some(registry) = Registry::start() else { return };
    let host = with_own_images();
    let base = registry.tar("base", |dir| {
        fs::create_dir_all(dir.join("etc")).unwrap();
        fs::create_dir_all(dir.join("srv/app")).unwrap();
        fs::write(dir.join("etc/passwd"), "root:x:0:0::/root:/bin/sh\napp:x:1000:1000::/srv/app:/bin/sh\n").unwrap();
        fs::write(dir.join("etc/group"), "root:x:0:\napp:x:1000:\n").unwrap();
    });
    let config = ["--config.user", "app", "--config.workingdir", "/srv/app", "--config.env", "GREETING=hello"];
    let name = registry.push("user", &[base, registry.hello()], &config);
    assert_eq!(host.ok(&["run", "--rm", "--image", &name, "--", "/hello"]), "in /srv/app as 1000 with 0");
    let shown = host.ok(&["image", "show", &name]);
    assert!(shown.contains("GREETING=hello") && shown.contains("none: the agent stays process 1"), "{shown}");
    host.ends_clean();
}

#[test]
fn what_is_saved_is_loaded_again_here_and_by_others() {
    let Some(registry) = Registry::start() else { return };
    let host = with_own_images();
    let name = registry.push("saved", &[busybox(&registry)], &["--config.cmd", "sh", "--config.env", "A=b"]);
    host.ok(&["image", "pull", "-q", &name, "--name", "box"]);
    let id = |name: &str| {
        let shown: serde_json::Value =
            serde_json::from_str(&host.ok(&["image", "show", name, "--format", "json"])).unwrap();
        shown["id"].as_str().unwrap().to_owned()
    };
    let before = id("box");
    let bundle = host.run(&["image", "save", "-q", "box"]).code(0).stdout;
    host.ok(&["image", "delete", "-q", "box"]);
    assert_eq!(String::from_utf8_lossy(&host.pipe(&["image", "load", "-q"], &bundle).code(0).stdout), "box\n");
    assert_eq!(id("box"), before, "a bundle is the same image");
    assert_eq!(host.ok(&["run", "--rm", "--image", "box", "--", "sh", "-c", "echo $A"]), "b");

    let archive = registry.path("saved-again.tar");
    let to = archive.to_str().unwrap();
    host.ok(&["image", "save", "-q", "box", "--format", "oci-archive", "-o", to]);
    let layout = format!("oci:{}:again", registry.path("again").display());
    run("skopeo", ["copy", "-q", &format!("oci-archive:{to}"), &layout]);
    assert_eq!(host.ok(&["image", "load", "-q", "-i", to, "--name", "other"]), "other");
    assert_eq!(
        host.ok(&["run", "--rm", "--image", "other", "--", "sh", "-c", "echo $A; ls /bin | grep -c busybox"]),
        "b\n1"
    );

    let missing = host.run(&["image", "save", "-q", "nothing", "-o", to]).code(1);
    assert!(missing.stderr.contains("no image"), "{}", missing.stderr);
    assert!(archive.metadata().unwrap().len() > 100_000, "what was there before stays");
    host.ends_clean();
}

#[test]
fn a_containerfile_becomes_an_image() {
    if Registry::missing(&["buildah", "busybox"]) {
        return;
    }
    let host = with_own_images();
    let dir = tempfile::tempdir().unwrap();
    let context = dir.path().join("app");
    fs::create_dir(&context).unwrap();
    fs::copy("/usr/bin/busybox", context.join("busybox")).unwrap();
    fs::write(context.join("Containerfile"), CONTAINERFILE).unwrap();
    // What it keeps goes with this test, and it may run where there are no namespaces to be had.
    let storage = dir.path().join("storage.conf");
    let (graph, run) = (dir.path().join("graph"), dir.path().join("run"));
    let config = format!("[storage]\ndriver = \"vfs\"\ngraphroot = {graph:?}\nrunroot = {run:?}\n");
    fs::write(&storage, config).unwrap();
    let context = context.to_str().unwrap();
    let args = ["image", "build", "-q", context, "--build-arg", "GREETING=hello", "--builder", "buildah"];
    let mut build = host.command(&args);
    build.env("CONTAINERS_STORAGE_CONF", storage).env("BUILDAH_ISOLATION", "chroot");
    let built = build.stdin(Stdio::null()).output().unwrap();
    assert!(built.status.success(), "{}", String::from_utf8_lossy(&built.stderr));
    assert_eq!(String::from_utf8_lossy(&built.stdout), "app\n");
    assert_eq!(host.ok(&["run", "--rm", "--image", "app"]), "hello\nbuilt\n1000\n/srv");
    host.ends_clean();
}

#[test]
fn debian_with_its_init_and_without() {
    let Some(registry) = Registry::start() else { return };
    let host = with_own_images();
    // The default image's own tree, as a guest of it packs it, is Debian's as others would ship it.
    let debian = registry.dir.path().join("debian.tar");
    host.ok(&["run", "-q", "-d", "--name", "source", "--wait", "agent"]);
    // What runs in it may change a file meanwhile, which tar(1) tells with status 1.
    let script = "tar --one-file-system --xattrs -C / -c . || test $? = 1";
    let pack = ["exec", "source", "--", "sh", "-c", script];
    let mut command = host.command(&pack);
    let packed = command.stdout(fs::File::create(&debian).unwrap()).stdin(Stdio::null()).status().unwrap();
    assert!(packed.success());
    host.ok(&["rm", "-q", "source"]);
    let bare = registry.tar("bare", |dir| {
        for file in ["usr/sbin/.wh.init", "usr/lib/.wh.systemd", "etc/.wh.systemd"] {
            fs::create_dir_all(dir.join(file).parent().unwrap()).unwrap();
            fs::write(dir.join(file), "").unwrap();
        }
    });
    // Ten layers, of which each takes away what the one before brought.
    let mut layers = vec![debian.clone()];
    for number in 1..9 {
        layers.push(registry.tar(&format!("layer{number}"), |dir| {
            fs::create_dir_all(dir.join("opt")).unwrap();
            fs::write(dir.join(format!("opt/{number}")), number.to_string()).unwrap();
            if number > 1 {
                fs::write(dir.join(format!("opt/.wh.{}", number - 1)), "").unwrap();
            }
        }));
    }
    layers.push(bare);
    let whole = registry.push("debian", &[debian], &["--config.cmd", "/bin/bash"]);
    let bare = registry.push("ten", &layers, &[]);
    let script = "cat /proc/1/comm; systemctl is-system-running; ls /opt";
    assert_eq!(host.ok(&["run", "--rm", "--image", &whole, "--", "sh", "-c", script]), "systemd\nrunning");
    let script = "ls /opt; test ! -e /usr/lib/systemd; apt-get --version | head -n 1 | cut -d ' ' -f 1";
    assert_eq!(host.ok(&["run", "--rm", "--image", &bare, "--", "sh", "-c", script]), "8\napt");
    host.ends_clean();
}

#[test]
fn an_archive_comes_through_a_pipe() {
    let Some(registry) = Registry::start() else { return };
    let host = with_own_images();
    registry.push("loaded", &[registry.hello()], &["--config.entrypoint", "/hello"]);
    let archive = registry.dir.path().join("saved.tar");
    let to = format!("docker-archive:{}:team/app:dev", archive.display());
    run("skopeo", ["copy", "-q", &format!("oci:{}", registry.layout("loaded")), &to]);
    let loaded = host.pipe(&["image", "load", "-q"], &fs::read(&archive).unwrap()).code(0);
    assert_eq!(String::from_utf8_lossy(&loaded.stdout), "team/app:dev\n");
    assert_eq!(host.ok(&["image", "load", "-q", "--name", "mine", "-i", archive.to_str().unwrap()]), "mine");
    assert_eq!(host.ok(&["run", "--rm", "--image", "mine"]), "in /root as 0 with 0");
    let bad = host.pipe(&["image", "load", "-q", "--name", "bad"], &vec![7; 3 << 20]).code(1);
    let said = &bad.stderr;
    assert!(said.contains("it is no tar stream"), "{said}");
    let freed = host.ok(&["image", "prune", "-q", "--all", "--format", "json"]);
    let freed: serde_json::Value = serde_json::from_str(&freed).unwrap();
    assert!(freed["freed_bytes"].as_u64().unwrap() > 100_000, "{freed}");
    host.ends_clean();
}

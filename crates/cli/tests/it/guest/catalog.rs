//! A catalog from end to end: one host publishes its image and its kernel, another that has nothing boots them.

use std::fs;
use std::io::{BufRead, BufReader, Write};
use std::net::{TcpListener, TcpStream};
use std::path::{Path, PathBuf};

use super::host::Host;

/// Serves a directory on loopback until the test ends, and gives its address.
fn serve(site: PathBuf) -> String {
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let address = listener.local_addr().unwrap();
    std::thread::spawn(move || {
        for stream in listener.incoming().flatten() {
            // Who goes away in the middle is no failure of the server's.
            drop(answer(&stream, &site));
        }
    });
    format!("http://{address}/")
}

fn answer(mut stream: &TcpStream, site: &Path) -> std::io::Result<()> {
    let mut lines = BufReader::new(stream).lines();
    let request = lines.next().transpose()?.unwrap_or_default();
    while lines.next().transpose()?.is_some_and(|line| !line.is_empty()) {}
    let path = request.split(' ').nth(1).unwrap_or_default().trim_start_matches('/');
    match fs::File::open(site.join(path)) {
        Ok(mut file) if !path.is_empty() => {
            let length = file.metadata()?.len();
            write!(stream, "HTTP/1.1 200 OK\r\nContent-Length: {length}\r\nConnection: close\r\n\r\n")?;
            std::io::copy(&mut file, &mut stream).map(drop)
        }
        _ => write!(stream, "HTTP/1.1 404 Not Found\r\nContent-Length: 0\r\nConnection: close\r\n\r\n"),
    }
}

fn json(host: &Host, args: &[&str]) -> serde_json::Value {
    serde_json::from_str(&host.ok(&[args, &["--format", "json"]].concat())).unwrap()
}

#[test]
fn what_one_host_publishes_another_boots() {
    let publisher = Host::new();
    let key = publisher.ok(&["internal", "keygen", "--out", "catalog.pem"]);
    let bundle = ["internal", "make-bundle", "-q", "--distro", "debian-12", "--level", "1", "--out", "bundles/"];
    let image = ["--image", "debian-bookworm", "--name", "shelf", "--kernel-ref", "generic", "--description", "a test"];
    publisher.ok(&[&bundle[..], &image].concat());
    let kernel = ["--kernel", "linux-image-cloud-amd64", "--name", "generic"];
    let made = json(&publisher, &[&bundle[..], &kernel].concat());
    assert!(made["path"].as_str().unwrap().ends_with("bundles/generic-amd64.tar.zst"), "{made}");
    let publish = ["internal", "publish", "-q", "bundles", "--to", "site", "--key", "catalog.pem"];
    let published = publisher.ok(&publish);
    assert_eq!(published, "site: serial 1, 1 image, 1 kernel");

    let user = Host::bare();
    let address = serve(publisher.home().join("site"));
    user.configure(&format!("[catalog]\nsource = \"{address}\"\nkeys = [\"{key}\"]\n"));
    let listed = json(&user, &["image", "list", "--available"]);
    let entry = &listed["entries"][0];
    assert_eq!((&entry["name"], &entry["is_here"]), (&"shelf".into(), &false.into()), "{listed}");
    let pulled = user.run(&["image", "pull", "shelf", "--name", "mine"]).code(0);
    assert!(pulled.text() == "mine" && pulled.stderr.contains("banger kernel pull generic"), "{}", pulled.stderr);
    assert_eq!(user.ok(&["kernel", "pull", "-q", "generic", "--name", "current"]), "current");
    let table = user.ok(&["kernel", "list", "--available"]);
    assert!(table.lines().nth(1).is_some_and(|line| line.starts_with("generic") && line.contains("yes")), "{table}");
    let release = json(&user, &["kernel", "show", "current"])["release"].as_str().unwrap().to_owned();
    // By the catalog's name, which no image here has: it is pulled once more, and found to be the same.
    let script = "uname -r; . /etc/os-release; echo $ID";
    let run = ["run", "-q", "--rm", "--image", "shelf", "--kernel", "current", "--", "sh", "-c", script];
    assert_eq!(user.ok(&run), format!("{release}\ndebian"));
    // Once it is here by that name, nobody is asked for it.
    fs::remove_dir_all(publisher.home().join("site")).unwrap();
    let again = ["run", "-q", "--rm", "--image", "catalog:shelf", "--kernel", "current", "--", "echo", "here"];
    assert_eq!(user.ok(&again), "here");
    let shown = json(&user, &["image", "show", "mine"]);
    assert_eq!((&shown["source"], &shown["also"]), (&"catalog:shelf".into(), &serde_json::json!(["shelf"])), "{shown}");
    user.ok(&["kernel", "remove", "-q", "current"]);
    user.ends_clean();
    publisher.ends_clean();
}

/// A tar of a system with one file in it.
fn archive(dir: &Path) -> PathBuf {
    let (path, content) = (dir.join("system.tar"), b"content");
    let mut builder = tar::Builder::new(fs::File::create(&path).unwrap());
    let mut header = tar::Header::new_gnu();
    header.set_size(content.len() as u64);
    header.set_mode(0o644);
    header.set_uid(0);
    header.set_gid(0);
    header.set_mtime(0);
    builder.append_data(&mut header, "etc/content", &content[..]).unwrap();
    builder.into_inner().unwrap();
    path
}

#[test]
fn files_become_a_catalog_without_a_daemon() {
    let host = Host::bare();
    let system = fs::read(archive(host.home())).unwrap();
    let bundle = ["internal", "make-bundle", "-q", "--distro", "test", "--out", "bundles/"];
    let tarred = [&bundle[..], &["--name", "tarred", "--rootfs-tar"]].concat();
    let of_file = json(&host, &[&tarred[..], &["system.tar"]].concat());
    let piped = host.pipe(&[&tarred[..], &["-", "--format", "json"]].concat(), &system).code(0);
    assert_eq!(serde_json::from_str::<serde_json::Value>(&piped.text()).unwrap(), of_file, "the same bytes");
    let damaged = host.pipe(&[&tarred[..], &["-"]].concat(), &[7; 4096]).code(1);
    assert!(damaged.stderr.contains("cannot make a bundle:"), "{}", damaged.stderr);

    // As kernels/lean/build.sh lays it out: its release is its version.
    let modules = host.home().join("lean/lib/modules/6.1.0-lean/kernel");
    fs::create_dir_all(&modules).unwrap();
    fs::write(modules.join("one.ko"), "module").unwrap();
    fs::write(host.home().join("lean/vmlinux"), "vmlinux").unwrap();
    host.ok(&[&bundle[..], &["--name", "lean", "--kernel", "./lean"]].concat());
    let nameless = host.run(&[&bundle[..], &["--kernel", "./lean"]].concat()).code(1);
    assert!(nameless.stderr.contains("--name"), "{}", nameless.stderr);

    let key = host.ok(&["internal", "keygen", "--out", "key.pem", "--algorithm", "ecdsa-p256-sha256"]);
    assert!(key.starts_with("ecdsa-p256-sha256:"), "{key}");
    let there = host.run(&["internal", "keygen", "--out", "key.pem"]).code(1);
    assert!(there.stderr.contains("a key is not replaced"), "{}", there.stderr);
    let publish = ["internal", "publish", "--to", "site", "--key", "key.pem"];
    assert_eq!(host.ok(&[&publish[..], &["bundles"]].concat()), "site: serial 1, 1 image, 1 kernel");
    let pruned = json(&host, &[&publish[..], &["--withdraw", "tarred", "--prune"]].concat());
    assert_eq!((&pruned["serial"], pruned["removed"].as_array().unwrap().len()), (&2.into(), 1), "{pruned}");
    assert_eq!(host.run(&publish).code(1).text(), "");
    let catalog: serde_json::Value =
        serde_json::from_slice(&fs::read(host.home().join("site/catalog.json")).unwrap()).unwrap();
    assert_eq!(catalog["kernels"][0]["version"], "6.1.0-lean", "{catalog}");
    let names = |dir: &str| fs::read_dir(host.home().join(dir)).unwrap().count();
    assert_eq!((names("bundles"), names("site"), host.daemon_pid()), (2, 3, None), "nothing else is left");
    host.ends_clean();
}

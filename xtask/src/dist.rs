//! `cargo xtask dist`: builds every program and lays out an installed tree.
//!
//! ```text
//! PREFIX/bin/banger
//! PREFIX/libexec/banger/{bangerd,banger-helper,banger-agent}
//! PREFIX/share/banger/images/<recipe>/…
//! PREFIX/share/banger/kernels/<recipe>/…
//! PREFIX/share/{bash-completion,zsh,fish}/…      completions
//! PREFIX/share/systemd/user/bangerd.service      starts the daemon with its user's service manager, once enabled
//! PREFIX/share/banger/systemd/…                 units of the helper, for a system install to fill in: docs/helper.md
//! PREFIX/share/doc/banger/{README.md,CHANGELOG.md,LICENSE-*}
//! ```
//!
//! The host's programs are linked dynamically. The agent is static (it runs in any image), which needs `--target`
//! and therefore a target directory of its own: with `crt-static` and without `--target`, rustc cannot build
//! procedural macros. Static glibc loads the host's name service modules at run time for `getaddrinfo` and
//! `getpw*`, and may crash doing so; the unstripped agent is refused if it names any of them.
//!
//! A file that is already there with the same bytes and mode is left alone; any other is replaced by a rename, so a
//! program that runs from the prefix keeps its file.

use std::ffi::{OsStr, OsString};
use std::fs;
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};
use std::process::{Command, ExitCode};

use anyhow::{Context, Result, bail};

use crate::root;

/// What makes programs count. The counters are a mapped file from the start, so that also a program that is killed has
/// told what it did.
pub(crate) const INSTRUMENT: &str = "-C instrument-coverage -C llvm-args=-runtime-counter-relocation";

/// The only target that can be linked statically with the toolchains the project supports.
const STATIC_TARGET: &str = "x86_64-unknown-linux-gnu";

/// Entry points of glibc's name service switch, without leading underscores and `_r`. Parts behind them may be linked
/// all the same (`fork` refers to the switch's database weakly); without an entry nothing gets there.
const NSS_ENTRIES: [&str; 14] = [
    "getaddrinfo",
    "getnameinfo",
    "gethostbyname",
    "gethostbyname2",
    "gethostbyaddr",
    "getpwnam",
    "getpwuid",
    "getpwent",
    "getgrnam",
    "getgrgid",
    "getgrent",
    "getgrouplist",
    "initgroups",
    "getservbyname",
];

/// Where each shell looks for completions, below `share/`.
const COMPLETIONS: [(&str, &str); 3] = [
    ("banger.bash", "bash-completion/completions/banger"),
    ("_banger", "zsh/site-functions/_banger"),
    ("banger.fish", "fish/vendor_completions.d/banger.fish"),
];

const PROGRAM: u32 = 0o755;
const DATA: u32 = 0o644;

#[derive(clap::Args)]
pub(crate) struct Args {
    /// Where to lay out the tree [default: target/dist, or target/dist-dev with --profile dev]
    #[arg(long, value_name = "DIR")]
    prefix: Option<PathBuf>,
    /// Put it below this directory, from where somebody moves it to its place
    #[arg(long, value_name = "DIR", default_value = "")]
    destdir: OsString,
    /// Which cargo profile to build
    #[arg(long, value_enum, default_value = "release")]
    profile: Profile,
    /// Whether the host's programs count what they execute.
    #[arg(skip)]
    is_instrumented: bool,
}

impl Args {
    /// The release programs, where they are laid out by default.
    pub(crate) fn released() -> Args {
        Args { prefix: None, destdir: OsString::new(), profile: Profile::Release, is_instrumented: false }
    }

    /// A tree for `prefix`, built with the dev profile and laid out below `stage`.
    pub(crate) fn staged(stage: &Path, prefix: &Path) -> Args {
        Args {
            prefix: Some(prefix.to_owned()),
            destdir: stage.as_os_str().to_owned(),
            profile: Profile::Dev,
            is_instrumented: false,
        }
    }

    /// The same, of programs that count what they execute. The agent is as always: it has nowhere to write to.
    pub(crate) fn instrumented(self) -> Args {
        Args { is_instrumented: true, ..self }
    }
}

#[derive(Clone, Copy, PartialEq, Eq, clap::ValueEnum)]
enum Profile {
    Release,
    Dev,
}

impl Profile {
    fn name(self) -> &'static str {
        match self {
            Profile::Release => "release",
            Profile::Dev => "dev",
        }
    }

    /// The directory cargo uses for this profile below its target directory.
    fn directory(self) -> &'static str {
        match self {
            Profile::Release => "release",
            Profile::Dev => "debug",
        }
    }

    fn default_prefix(self) -> &'static str {
        match self {
            Profile::Release => "dist",
            Profile::Dev => "dist-dev",
        }
    }
}

pub(crate) fn run(args: &Args) -> Result<ExitCode> {
    let root = root::repository();
    let target = target_directory(&root);
    let prefix = match &args.prefix {
        Some(dir) => std::path::absolute(dir).context("cannot resolve --prefix")?,
        None => target.join(args.profile.default_prefix()),
    };

    let agent = build_agent(&root, &target)?;
    let programs = match args.is_instrumented {
        false => build_programs(&root, &target, args.profile, None)?,
        true => build_programs(&root, &target.join("coverage"), args.profile, Some(INSTRUMENT))?,
    };

    let place = prefix;
    let prefix = below(&args.destdir, &place);
    let mut layout = Layout::new(&prefix);
    layout.place(&programs.join("banger"), "bin/banger", PROGRAM)?;
    for name in ["bangerd", "banger-helper"] {
        layout.place(&programs.join(name), &format!("libexec/banger/{name}"), PROGRAM)?;
    }
    layout.place(&agent, "libexec/banger/banger-agent", PROGRAM)?;
    layout.mirror(&root.join("images"), "share/banger/images")?;
    layout.mirror(&root.join("kernels"), "share/banger/kernels")?;
    for (source, installed) in COMPLETIONS {
        layout.place(&root.join("completions").join(source), &format!("share/{installed}"), DATA)?;
    }
    let unit = root.join("systemd/bangerd.service");
    let text = fs::read_to_string(&unit).with_context(|| format!("cannot read {}", unit.display()))?;
    layout.place_bytes(unit_of(&text, &place).as_bytes(), "share/systemd/user/bangerd.service", DATA)?;
    for name in ["banger-helper.socket", "banger-helper.service"] {
        let unit = root.join("systemd").join(name);
        let text = fs::read_to_string(&unit).with_context(|| format!("cannot read {}", unit.display()))?;
        layout.place_bytes(helpers_unit_of(&text, &place).as_bytes(), &format!("share/banger/systemd/{name}"), DATA)?;
    }
    for name in ["README.md", "CHANGELOG.md", "LICENSE-MIT", "LICENSE-APACHE"] {
        layout.place(&root.join(name), &format!("share/doc/banger/{name}"), DATA)?;
    }

    println!(
        "dist: {} ({} profile): {} replaced, {} unchanged, {} removed",
        prefix.display(),
        args.profile.name(),
        layout.replaced,
        layout.unchanged,
        layout.removed
    );
    Ok(ExitCode::SUCCESS)
}

/// The absolute path `place`, below `destdir`.
fn below(destdir: &OsStr, place: &Path) -> PathBuf {
    let mut path = destdir.to_owned();
    path.push(place);
    path.into()
}

/// The unit of the tree at `prefix`.
fn unit_of(text: &str, prefix: &Path) -> String {
    text.replace("@BANGERD@", &quoted(&prefix.join("libexec/banger/bangerd")))
}

/// A unit of the helper in the tree at `prefix`; whose VMs it serves is left to whoever installs it.
fn helpers_unit_of(text: &str, prefix: &Path) -> String {
    text.replace("@HELPER@", &quoted(&prefix.join("libexec/banger/banger-helper")))
}

/// A program's path in a unit: systemd.service(5).
fn quoted(program: &Path) -> String {
    format!("\"{}\"", program.display().to_string().replace('%', "%%").replace('$', "$$"))
}

/// Cargo's target directory: `CARGO_TARGET_DIR` where set, else `target/` of the repository.
pub(crate) fn target_directory(root: &Path) -> PathBuf {
    match std::env::var_os("CARGO_TARGET_DIR") {
        Some(dir) => root.join(dir),
        None => root.join("target"),
    }
}

/// Builds the programs of the host and returns the directory that holds them.
fn build_programs(root: &Path, target: &Path, profile: Profile, flags: Option<&str>) -> Result<PathBuf> {
    let mut cargo = cargo_build(root, profile);
    if let Some(flags) = flags {
        cargo.env("RUSTFLAGS", flags);
    }
    cargo.args(["-p", "cli", "-p", "daemon", "-p", "helper", "--bins"]);
    cargo.arg("--target-dir").arg(target);
    run_command(&mut cargo)?;
    Ok(target.join(profile.directory()))
}

/// Builds the static agent, checks it, strips a copy, and returns the copy's path. Always optimised: it runs on emulated
/// processors, where a debug build is ten times larger and slower, and only an optimised build leaves unused parts of
/// glibc out.
fn build_agent(root: &Path, target: &Path) -> Result<PathBuf> {
    let profile = Profile::Release;
    let static_target = target.join("static");
    let mut cargo = cargo_build(root, profile);
    cargo.args(["-p", "agent", "--target", STATIC_TARGET]);
    cargo.arg("--target-dir").arg(&static_target);
    cargo.env("RUSTFLAGS", "-C target-feature=+crt-static");
    // The symbols are wanted for the check below; the copy that ships is stripped here instead.
    cargo.env("CARGO_PROFILE_RELEASE_STRIP", "none");
    run_command(&mut cargo)?;

    let built = static_target.join(STATIC_TARGET).join(profile.directory()).join("banger-agent");
    let symbols = Command::new("nm")
        .arg("--defined-only")
        .arg("--format=posix")
        .arg(&built)
        .output()
        .context("cannot run nm (package binutils)")?;
    if !symbols.status.success() {
        bail!("nm failed on {}: {}", built.display(), symbols.status);
    }
    let forbidden = name_service_symbols(&String::from_utf8_lossy(&symbols.stdout));
    if !forbidden.is_empty() {
        bail!("the static agent uses glibc's name service switch: {}", forbidden.join(", "));
    }

    let stripped = built.with_extension("stripped");
    let mut strip = Command::new("strip");
    strip.arg("-o").arg(&stripped).arg(&built);
    run_command(&mut strip)?;
    Ok(stripped)
}

/// The symbols of an `nm --format=posix` listing that belong to the name service switch.
fn name_service_symbols(listing: &str) -> Vec<String> {
    let mut found: Vec<String> = listing
        .lines()
        .filter_map(|line| line.split_whitespace().next())
        .map(|symbol| symbol.split('@').next().unwrap_or(symbol))
        .filter(|symbol| {
            let plain = symbol.trim_start_matches('_');
            NSS_ENTRIES.contains(&plain.strip_suffix("_r").unwrap_or(plain))
        })
        .map(str::to_owned)
        .collect();
    found.sort();
    found.dedup();
    found
}

fn cargo_build(root: &Path, profile: Profile) -> Command {
    let cargo = std::env::var_os("CARGO").unwrap_or_else(|| "cargo".into());
    let mut command = Command::new(cargo);
    command.current_dir(root).args(["build", "--locked", "--profile", profile.name()]);
    command
}

fn run_command(command: &mut Command) -> Result<()> {
    let status = command.status().with_context(|| format!("cannot run {}", command.get_program().display()))?;
    if !status.success() {
        let args: Vec<_> = command.get_args().map(OsStr::to_string_lossy).collect();
        bail!("{} {} failed: {status}", command.get_program().display(), args.join(" "));
    }
    Ok(())
}

/// The tree being laid out, and what it took.
struct Layout<'a> {
    prefix: &'a Path,
    replaced: usize,
    unchanged: usize,
    removed: usize,
}

impl<'a> Layout<'a> {
    fn new(prefix: &'a Path) -> Self {
        Layout { prefix, replaced: 0, unchanged: 0, removed: 0 }
    }

    /// Puts a copy of `source` at `relative` below the prefix, unless it is there already.
    fn place(&mut self, source: &Path, relative: &str, mode: u32) -> Result<()> {
        let wanted = fs::read(source).with_context(|| format!("cannot read {}", source.display()))?;
        self.place_bytes(&wanted, relative, mode)
    }

    /// The same with what is at hand.
    fn place_bytes(&mut self, wanted: &[u8], relative: &str, mode: u32) -> Result<()> {
        let destination = self.prefix.join(relative);
        if is_same(&destination, wanted, mode) {
            self.unchanged += 1;
            return Ok(());
        }
        let directory =
            destination.parent().with_context(|| format!("{} has no parent directory", destination.display()))?;
        make_directories(directory)?;
        let name = destination.file_name().with_context(|| format!("{} has no file name", destination.display()))?;
        let temporary = directory.join(format!(".{}.{}", name.to_string_lossy(), std::process::id()));
        replace(&temporary, &destination, wanted, mode).inspect_err(|_| {
            // The error that matters is the one being returned; a leftover would only be a hidden file.
            drop(fs::remove_file(&temporary));
        })?;
        self.replaced += 1;
        Ok(())
    }

    /// Makes the directory at `relative` hold what `source` holds, and nothing else.
    fn mirror(&mut self, source: &Path, relative: &str) -> Result<()> {
        if !source.exists() {
            return Ok(());
        }
        let mut kept = Vec::new();
        for file in files_beneath(source)? {
            let inside = file.strip_prefix(source).context("file outside its directory")?;
            let mode =
                fs::metadata(&file).with_context(|| format!("cannot look at {}", file.display()))?.permissions().mode();
            let mode = if mode & 0o111 == 0 { DATA } else { PROGRAM };
            self.place(&file, &format!("{relative}/{}", inside.display()), mode)?;
            kept.push(inside.to_path_buf());
        }
        let destination = self.prefix.join(relative);
        if destination.exists() {
            for file in files_beneath(&destination)? {
                let inside = file.strip_prefix(&destination).context("file outside its directory")?;
                if !kept.iter().any(|path| path == inside) {
                    fs::remove_file(&file).with_context(|| format!("cannot remove {}", file.display()))?;
                    self.removed += 1;
                }
            }
        }
        Ok(())
    }
}

/// Makes what is missing of `directory`, open to every user whatever the umask is.
fn make_directories(directory: &Path) -> Result<()> {
    if directory.is_dir() {
        return Ok(());
    }
    if let Some(parent) = directory.parent() {
        make_directories(parent)?;
    }
    fs::create_dir(directory)
        .and_then(|()| fs::set_permissions(directory, fs::Permissions::from_mode(PROGRAM)))
        .with_context(|| format!("cannot make {}", directory.display()))
}

fn is_same(path: &Path, wanted: &[u8], mode: u32) -> bool {
    let Ok(metadata) = fs::symlink_metadata(path) else {
        return false;
    };
    metadata.is_file()
        && metadata.permissions().mode() & 0o7777 == mode
        && fs::read(path).is_ok_and(|held| held == wanted)
}

/// Writes `wanted` beside its destination and renames it into place.
fn replace(temporary: &Path, destination: &Path, wanted: &[u8], mode: u32) -> Result<()> {
    fs::write(temporary, wanted).with_context(|| format!("cannot write {}", temporary.display()))?;
    fs::set_permissions(temporary, fs::Permissions::from_mode(mode))
        .with_context(|| format!("cannot set the mode of {}", temporary.display()))?;
    fs::rename(temporary, destination).with_context(|| format!("cannot replace {}", destination.display()))
}

/// Every regular file beneath `directory`, in order.
fn files_beneath(directory: &Path) -> Result<Vec<PathBuf>> {
    let mut files = Vec::new();
    let mut open = vec![directory.to_path_buf()];
    while let Some(dir) = open.pop() {
        for entry in fs::read_dir(&dir).with_context(|| format!("cannot list {}", dir.display()))? {
            let path = entry.with_context(|| format!("cannot list {}", dir.display()))?.path();
            if path.is_dir() {
                open.push(path);
            } else {
                files.push(path);
            }
        }
    }
    files.sort();
    Ok(files)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn name_service_symbols_are_found_and_others_are_not() {
        let listing = "main T 1000 10\n__getpwnam_r@GLIBC_2.2.5 T 2000 10\ngetaddrinfo T 3000 10\n\
                       getpid T 4000 10\n_ZN4core3fmt9getprefix T 5000 10\n";
        assert_eq!(name_service_symbols(listing), ["__getpwnam_r", "getaddrinfo"]);
        assert!(name_service_symbols("getpid T 1 1\n__getgroups T 1 1\ngethostbyname3_context t 1 1\n").is_empty());
    }

    #[test]
    fn the_unit_names_the_place_where_the_tree_will_be() {
        assert_eq!(below(OsStr::new("/tmp/stage"), Path::new("/usr/local")), Path::new("/tmp/stage/usr/local"));
        assert_eq!(below(OsStr::new(""), Path::new("/usr/local")), Path::new("/usr/local"));
        let unit = unit_of("[Service]\nExecStart=@BANGERD@\n", Path::new("/usr/local"));
        assert_eq!(unit, "[Service]\nExecStart=\"/usr/local/libexec/banger/bangerd\"\n");
    }

    #[test]
    fn mirror_copies_modes_skips_what_is_there_and_removes_what_is_not() -> Result<()> {
        let scratch = Scratch::new("mirror")?;
        let (from, to) = (scratch.0.join("from"), scratch.0.join("to"));
        fs::create_dir_all(from.join("a"))?;
        fs::write(from.join("a/list"), "x")?;
        fs::write(from.join("hook"), "#!/bin/sh\n")?;
        fs::set_permissions(from.join("hook"), fs::Permissions::from_mode(0o700))?;

        let mut first = Layout::new(&to);
        first.mirror(&from, "share")?;
        assert_eq!((first.replaced, first.unchanged, first.removed), (2, 0, 0));
        let mode = fs::metadata(to.join("share/hook"))?.permissions().mode();
        assert_eq!(mode & 0o7777, PROGRAM);

        fs::remove_file(from.join("a/list"))?;
        fs::write(from.join("hook"), "#!/bin/bash\n")?;
        let mut second = Layout::new(&to);
        second.mirror(&from, "share")?;
        assert_eq!((second.replaced, second.unchanged, second.removed), (1, 0, 1));

        let mode = fs::metadata(to.join("share"))?.permissions().mode();
        assert_eq!(mode & 0o7777, PROGRAM);

        let mut third = Layout::new(&to);
        third.mirror(&from, "share")?;
        assert_eq!((third.replaced, third.unchanged, third.removed), (0, 1, 0));
        Ok(())
    }

    /// A directory of this test alone, removed when it ends.
    struct Scratch(PathBuf);

    impl Scratch {
        fn new(name: &str) -> Result<Self> {
            let path = std::env::temp_dir().join(format!("xtask-{name}-{}", std::process::id()));
            fs::create_dir_all(&path)?;
            Ok(Scratch(path))
        }
    }

    impl Drop for Scratch {
        fn drop(&mut self) {
            drop(fs::remove_dir_all(&self.0));
        }
    }
}

//! `banger cp`: files between this host and a VM that runs.
//!
//! ```text
//! in:   look at both ends ─► pack (a thread) ─► PUT tree ─► the guest unpacks
//! out:  look at both ends ─► GET tree ─► unpack (a thread): nothing of the stream is believed, see `tree::unpack`
//! ```

use std::ffi::OsStr;
use std::fs::FileType;
use std::io::{self, Write};
use std::os::fd::OwnedFd;
use std::os::unix::ffi::OsStrExt;
use std::os::unix::fs::{FileTypeExt, MetadataExt};
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, PoisonError};

use bytes::Bytes;
use rustix::fs::{CWD, Mode, OFlags};
use rustix::io::Errno;
use serde::Serialize;
use tree::pack::{Fidelity, Packed, What, pack};
use tree::unpack::{Policy, Unpacked, unpack};
use tree::{LeftOut, TreeError};
use wire::api::{ErrorCode, FileKind, GuestFile, TreeDone, Unit};
use wire::size::human;

use crate::args::Act;
use crate::client::{Chunks, encode, path};
use crate::cmd::App;
use crate::cmd::vm::{offer_start, started};
use crate::copy::{Ends, Found, Here, Named, Placed, There, place};
use crate::error::{Failure, Io};
use crate::interrupt::Since;
use crate::output::{self, Format};
use crate::pipe::{self, Pipe};
use crate::progress::{TICK, Track};
use crate::terminal;

const EXAMPLES: &str = "\
Examples:
  banger cp notes.txt web:/root/        a file into a VM
  banger cp web:/var/log/syslog .       a file out of it
  banger cp ./src web:/srv/app          a tree: /srv/app/src when /srv/app is
                                        there, else /srv/app itself
  banger cp ./src/. web:/srv/app        what is in it
  banger cp web:/etc - | tar t          a tar stream on standard output
  banger cp - web:/opt < tree.tar       one from standard input, unpacked

Where things go is as with docker cp; paths in a VM begin at its root.
Symbolic links are copied as links. Without -a, what arrives is yours on this
host and root's in a VM. Devices and pipes do not come out of a VM, sockets go
nowhere; what is not copied is named. Of /proc and /sys, files and directories
in them come out, and nothing goes in.

A file is replaced once the new one is whole: a copy that breaks off leaves the
old one. Of a tree, the files that had arrived stay.";

/// What, and where to.
#[derive(Debug, clap::Args)]
#[command(after_help = EXAMPLES)]
pub(crate) struct Args {
    #[command(flatten)]
    pub(crate) ends: Ends,
    /// Keep owners, setuid bits and all attributes (on this host: as root only)
    #[arg(short, long)]
    archive: bool,
    /// Copy what SOURCE leads to when it is a symbolic link
    #[arg(short = 'L', long)]
    follow_link: bool,
    /// Start the VM first when it is off
    #[arg(long)]
    start: bool,
    #[command(flatten)]
    pub(crate) act: Act,
}

/// How it came out, for programs.
#[derive(Debug, Serialize)]
struct Copied {
    source: String,
    destination: String,
    /// Of file content, holes not counted.
    bytes: u64,
    /// Devices, pipes, sockets, and files of the kernel's that cannot be read.
    left_out: u64,
}

/// What arrived: bytes of content, and what did not.
type Moved = (u64, LeftOut);

/// Copies.
pub(crate) async fn run(app: &App, args: Args) -> Result<u8, Failure> {
    let since = app.interrupts.start();
    let vm = args.ends.there().vm.clone();
    if args.start {
        started(app, &vm, since).await?;
    }
    let copied = match &args.ends {
        Ends::In { from: Here::Path(from), to } => push(app, &args, from, to, since).await,
        Ends::In { from: Here::Tar, to } => push_tar(app, to, since).await,
        Ends::Out { from, to: Here::Path(to) } => pull(app, &args, from, to, since).await,
        Ends::Out { from, to: Here::Tar } => return pull_tar(app, &args, from, since).await,
    };
    let (source, destination) = args.ends.shown();
    let (bytes, left_out) = match copied {
        Ok(copied) => copied,
        Err(failure) => {
            let failure = failure.part_of(&format!("copy {source} to {destination}"));
            return Err(offer_start(app, failure, &vm, since).await);
        }
    };
    if let Some(warning) = missing(&source, &left_out) {
        app.out.warn(&warning);
    }
    app.out.aside(&format!("copied {} from {source} to {destination}", human(bytes)));
    let copied = Copied { source, destination, bytes, left_out: left_out.count };
    match app.out.format {
        Format::Table => {}
        Format::Json => app.out.json(&copied)?,
        Format::Name => app.out.line(&copied.destination)?,
    }
    Ok(0)
}

/// What was left out of `source`, for people.
fn missing(source: &str, left_out: &LeftOut) -> Option<String> {
    let more = match left_out.count.saturating_sub(left_out.names.len() as u64) {
        0 => String::new(),
        more => format!(" and {more} more"),
    };
    let names = left_out.names.join(", ");
    (left_out.count > 0).then(|| {
        format!("not copied from {source}: {names}{more} (devices, pipes, sockets or unreadable files of the kernel)")
    })
}

fn refused(why: impl Into<String>) -> Failure {
    Failure::new(ErrorCode::BadRequest, why)
}

fn unreadable(path: &Path, error: io::Error) -> Failure {
    if error.kind() == io::ErrorKind::NotFound {
        return Failure::new(ErrorCode::NotFound, "there is no such file on this host");
    }
    Failure::new(ErrorCode::OperationFailed, format!("cannot look at {}: {}", path.display(), Io(error)))
}

async fn look(app: &App, vm: &str, at: &str, follow: bool, since: Since) -> Result<GuestFile, Failure> {
    let target = format!("{}?path={}&follow={follow}", path("vms", vm, "/file"), encode(at));
    app.interrupts.guard(since, app.client.get(&target)).await
}

/// The directory that holds `path`, and its last component.
fn parted(path: &str) -> (&str, &str) {
    match path.trim_end_matches('/').rsplit_once('/') {
        Some(("", name)) => ("/", name),
        Some(parts) => parts,
        None => ("/", ""),
    }
}

/// Copies a file or a tree of this host.
async fn push(app: &App, args: &Args, from: &Path, to: &There, since: Since) -> Result<Moved, Failure> {
    let source = Named::of(from.as_os_str().as_bytes());
    let follow = args.follow_link || source.is_directory;
    let source_path = PathBuf::from(OsStr::from_bytes(source.path));
    let meta = if follow { std::fs::metadata(&source_path) } else { std::fs::symlink_metadata(&source_path) };
    let meta = meta.map_err(|error| unreadable(from, error))?;
    if source.is_directory && !meta.is_dir() {
        return Err(refused("the source is not a directory"));
    }
    if is_special(meta.file_type()) {
        return Err(refused("the source is a device, a pipe or a socket"));
    }
    let found = look(app, &to.vm, &to.path, true, since).await?;
    let kind = match found.kind {
        FileKind::Missing => Found::Nothing,
        FileKind::Directory => Found::Directory,
        FileKind::File | FileKind::Symlink => Found::File,
        FileKind::Special => Found::Special,
    };
    let placed = place(source, meta.is_dir(), kind, to.path.ends_with('/'));
    let placed = placed.map_err(refused)?;
    let real = found.path.as_deref().unwrap_or(&to.path);
    let (directory, called) = match &placed {
        Placed::Inside(name) => (real, name.as_deref().map(|name| name.as_bytes().to_vec())),
        Placed::Itself => {
            let (parent, name) = parted(real);
            if look(app, &to.vm, parent, true, since).await?.kind != FileKind::Directory {
                return Err(refused(format!("there is no directory {parent} in {}", to.vm)));
            }
            (parent, Some(name.as_bytes().to_vec()))
        }
    };
    // Without a name it is what is in it that goes: the directory itself is called `.`.
    let packed = match source.name {
        Some(_) => std::path::absolute(&source_path),
        None => std::fs::canonicalize(&source_path),
    };
    let packed = packed.map_err(|error| unreadable(from, error))?;
    let packed = if called.is_some() { packed } else { packed.join(".") };
    let fidelity = if args.archive { Fidelity::Whole } else { Fidelity::Plain };
    let packing = Packing { path: packed, follow: follow && called.is_some(), called, fidelity };
    let total = meta.is_file().then_some(meta.len());
    let (bytes, packed) = send(app, to, directory, move |to| packing.run(to), total, since).await?;
    Ok((bytes, packed.unwrap_or_default().left_out))
}

/// What a thread is to pack.
struct Packing {
    path: PathBuf,
    follow: bool,
    called: Option<Vec<u8>>,
    fidelity: Fidelity,
}

impl Packing {
    fn run(&self, to: impl Write) -> Result<Packed, TreeError> {
        let root = rustix::fs::openat(CWD, "/", OFlags::PATH | OFlags::DIRECTORY | OFlags::CLOEXEC, Mode::empty())
            .map_err(TreeError::during("open", b"/"))?;
        let path = self.path.as_os_str().as_bytes();
        pack(&root, &What { path, follow: self.follow, called: self.called.as_deref(), fidelity: self.fidelity }, to)
    }
}

/// Sends what `fill` writes: what it says at its end, and how many bytes of content arrived.
async fn send<T: Send + 'static>(
    app: &App,
    to: &There,
    directory: &str,
    fill: impl FnOnce(Counting) -> Result<T, TreeError> + Send + 'static,
    total: Option<u64>,
    since: Since,
) -> Result<(u64, Option<T>), Failure> {
    let sent = Arc::new(AtomicU64::new(0));
    let outcome = Arc::new(Mutex::new(None));
    let (counter, result) = (Arc::clone(&sent), Arc::clone(&outcome));
    let body = pipe::filled_by(move |pipe| {
        let filled = fill(Counting { pipe, sent: counter });
        let shown = filled.as_ref().map(drop).map_err(|error| io::Error::other(error.to_string()));
        *result.lock().unwrap_or_else(PoisonError::into_inner) = Some(filled);
        shown
    });
    let put = put(app, to, directory, body, &sent, total, since).await;
    match (put, outcome.lock().unwrap_or_else(PoisonError::into_inner).take()) {
        // It broke because this end gave up: that end cannot know why.
        (Err(Failure::Told(_)), Some(Err(error))) if error.source.kind() != io::ErrorKind::BrokenPipe => {
            Err(Failure::from_error(ErrorCode::OperationFailed, &error))
        }
        (put, filled) => Ok((put?, filled.and_then(Result::ok))),
    }
}

async fn put(
    app: &App,
    to: &There,
    directory: &str,
    body: Chunks,
    sent: &AtomicU64,
    total: Option<u64>,
    since: Since,
) -> Result<u64, Failure> {
    let target = format!("{}?path={}", path("vms", &to.vm, "/tree"), encode(directory));
    let mut track = app.progress.track(&to.vm);
    track.stage("copy");
    let mut asked = std::pin::pin!(app.client.put_tar::<TreeDone>(&target, body));
    let done = app.interrupts.guard(since, async {
        loop {
            tokio::select! {
                done = &mut asked => return done,
                () = tokio::time::sleep(TICK) => show(&mut track, sent.load(Ordering::Relaxed), total),
            }
        }
    });
    let done = done.await?;
    track.finish();
    Ok(done.bytes)
}

fn show(track: &mut Track, moved: u64, total: Option<u64>) {
    // Headers are counted too: a small file's amount never passes its end.
    track.amount(total.map_or(moved, |total| moved.min(total)), total, Unit::Bytes);
    track.tick();
}

/// Counts what is written through it.
struct Counting {
    pipe: Pipe,
    sent: Arc<AtomicU64>,
}

impl Write for Counting {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        let count = self.pipe.write(bytes)?;
        self.sent.fetch_add(count as u64, Ordering::Relaxed);
        Ok(count)
    }

    fn flush(&mut self) -> io::Result<()> {
        self.pipe.flush()
    }
}

/// Sends the tar stream of standard input.
async fn push_tar(app: &App, to: &There, since: Since) -> Result<Moved, Failure> {
    if terminal::stdin_is_terminal() {
        return Err(refused("a tar stream is expected on standard input, which is a terminal"));
    }
    match look(app, &to.vm, &to.path, true, since).await?.kind {
        FileKind::Directory => {}
        FileKind::Missing => return Err(refused(format!("there is no directory {} in {}", to.path, to.vm))),
        _ => return Err(refused("the destination is not a directory")),
    }
    let fill = |mut to: Counting| {
        let copied = io::copy(&mut io::stdin().lock(), &mut to).and_then(|_| to.flush());
        copied.map_err(TreeError::during("read", b"standard input"))
    };
    let (bytes, _) = send(app, to, &to.path, fill, None, since).await?;
    Ok((bytes, LeftOut::default()))
}

fn is_special(kind: FileType) -> bool {
    kind.is_fifo() || kind.is_socket() || kind.is_char_device() || kind.is_block_device()
}

/// What is where a guest's file is to go on this host, and its path with links resolved.
fn look_here(path: &Path) -> Result<(Found, PathBuf), Failure> {
    let unresolved = || (Found::Nothing, path.to_path_buf());
    match std::fs::metadata(path) {
        Ok(meta) if meta.is_dir() => Ok((Found::Directory, path.to_path_buf())),
        Ok(meta) => {
            let real = std::fs::canonicalize(path).map_err(|error| unreadable(path, error))?;
            Ok((if is_special(meta.file_type()) { Found::Special } else { Found::File }, real))
        }
        Err(error) if error.kind() == io::ErrorKind::NotFound => match std::fs::symlink_metadata(path) {
            Ok(_) => Err(refused("the destination is a symbolic link that leads nowhere")),
            Err(_) => Ok(unresolved()),
        },
        Err(error) => Err(unreadable(path, error)),
    }
}

/// Whether `directory` is this host's root, however it is named.
fn is_root(directory: &Path) -> Result<bool, Failure> {
    let inode = |path: &Path| -> Result<(u64, u64), Failure> {
        let meta = std::fs::metadata(path).map_err(|error| unreadable(path, error))?;
        Ok((meta.dev(), meta.ino()))
    };
    Ok(inode(directory)? == inode(Path::new("/"))?)
}

/// Copies a file or a tree of a guest.
async fn pull(app: &App, args: &Args, from: &There, to: &Path, since: Since) -> Result<Moved, Failure> {
    let source = Named::of(from.path.as_bytes());
    let follow = args.follow_link || source.is_directory;
    let file = source_of(app, from, follow, since).await?;
    let is_directory = file.kind == FileKind::Directory;
    if source.is_directory && !is_directory {
        return Err(refused("the source is not a directory"));
    }
    let (found, real) = look_here(to)?;
    let has_slash = to.as_os_str().as_bytes().ends_with(b"/");
    let placed = place(source, is_directory, found, has_slash).map_err(refused)?;
    if placed == Placed::Inside(None) && is_root(&real)? {
        // It would replace this host's accounts, libraries and settings with the guest's; nobody means that.
        let failure = refused("what is in a directory of a guest does not go over the root of this host");
        return Err(failure.hint("name a directory for it: one that is not there yet is made"));
    }
    let (directory, called) = match placed {
        Placed::Inside(name) => (real, name),
        Placed::Itself => {
            let name = real.file_name().map(OsStr::to_os_string);
            let name = name.ok_or_else(|| refused("there is no such directory"))?;
            let parent = real.parent().filter(|parent| !parent.as_os_str().is_empty()).unwrap_or(Path::new("."));
            (parent.to_path_buf(), Some(name))
        }
    };
    let opened = open_directory(&directory)?;
    let policy = Policy::hostile(args.archive).called(called.as_ref().map(|name| name.as_bytes().to_vec()));
    let is_content = called.is_none() || source.name.is_none();
    let asked = std::str::from_utf8(source.path).unwrap_or("/");
    let (asked, policy) = match (is_content, called) {
        // The root has no name that could be replaced: what is in it goes into a directory made for it.
        (true, Some(name)) => (format!("{asked}/."), made(&opened, &name, args.archive)?),
        (true, None) => (format!("{asked}/."), Target { directory: opened, policy }),
        (false, _) => (asked.to_owned(), Target { directory: opened, policy }),
    };
    // Files of the kernel's claim to have none.
    let total = (file.kind == FileKind::File && file.bytes > 0).then_some(file.bytes);
    let unpacked = receive(app, &from.vm, &asked, follow, policy, total, since).await?;
    Ok((unpacked.bytes, unpacked.left_out))
}

/// Where a stream is unpacked, and how far it is believed.
struct Target {
    directory: OwnedFd,
    policy: Policy,
}

fn open_directory(directory: &Path) -> Result<OwnedFd, Failure> {
    let flags = OFlags::RDONLY | OFlags::DIRECTORY | OFlags::CLOEXEC;
    rustix::fs::openat(CWD, directory, flags, Mode::empty()).map_err(|errno| match errno {
        Errno::NOENT => refused(format!("there is no directory {} on this host", directory.display())),
        errno => unreadable(directory, errno.into()),
    })
}

fn made(parent: &OwnedFd, name: &OsStr, archive: bool) -> Result<Target, Failure> {
    let flags = OFlags::RDONLY | OFlags::DIRECTORY | OFlags::NOFOLLOW | OFlags::CLOEXEC;
    let directory = rustix::fs::mkdirat(parent, name, Mode::from_raw_mode(0o755))
        .and_then(|()| rustix::fs::openat(parent, name, flags, Mode::empty()))
        .map_err(|errno| {
            let message = format!("cannot make the directory {}: {}", name.display(), Io(errno.into()));
            Failure::new(ErrorCode::OperationFailed, message)
        })?;
    Ok(Target { directory, policy: Policy::hostile(archive) })
}

/// What is to be copied out of a guest.
async fn source_of(app: &App, from: &There, follow: bool, since: Since) -> Result<GuestFile, Failure> {
    let file = look(app, &from.vm, &from.path, follow, since).await?;
    match file.kind {
        FileKind::Missing => Err(Failure::new(ErrorCode::NotFound, format!("there is no such file in {}", from.vm))),
        FileKind::Special => Err(refused("the source is a device, a pipe or a socket")),
        FileKind::File | FileKind::Directory | FileKind::Symlink => Ok(file),
    }
}

async fn receive(
    app: &App,
    vm: &str,
    asked: &str,
    follow: bool,
    into: Target,
    total: Option<u64>,
    since: Since,
) -> Result<Unpacked, Failure> {
    let feed = pipe::read_by(move |from| unpack(into.directory, into.policy, from));
    let mut track = app.progress.track(vm);
    track.stage("copy");
    let mut received = 0_u64;
    let stream = pump(app, vm, asked, follow, since, async |bytes: Bytes| {
        received += bytes.len() as u64;
        show(&mut track, received, total);
        // When it wants no more, it knows why.
        Ok(feed.put(bytes).await)
    });
    let pumped = stream.await;
    let unpacked = match feed.finish().await {
        Some(unpacked) => unpacked,
        None => return Err(Failure::new(ErrorCode::Internal, "the thread that unpacks died")),
    };
    // A stream that broke off is no reason of its own.
    pumped?;
    track.finish();
    unpacked.map_err(|error| Failure::from_error(ErrorCode::OperationFailed, &error))
}

/// Writes the tar stream of a file or a tree to standard output.
async fn pull_tar(app: &App, args: &Args, from: &There, since: Since) -> Result<u8, Failure> {
    if output::stdout_is_terminal() {
        return Err(refused("a tar stream is not for a terminal: lead standard output somewhere else"));
    }
    let written = async {
        let follow = args.follow_link || Named::of(from.path.as_bytes()).is_directory;
        source_of(app, from, follow, since).await?;
        pump(app, &from.vm, &from.path, follow, since, async |bytes: Bytes| output::raw(&bytes).map(|()| true)).await
    };
    match written.await {
        Ok(()) => Ok(0),
        Err(failure) => {
            let failure = failure.part_of(&format!("copy {} to -", from.shown()));
            Err(offer_start(app, failure, &from.vm, since).await)
        }
    }
}

/// Gives a guest's tar stream to `take`, until that wants no more.
async fn pump(
    app: &App,
    vm: &str,
    asked: &str,
    follow: bool,
    since: Since,
    mut take: impl AsyncFnMut(Bytes) -> Result<bool, Failure>,
) -> Result<(), Failure> {
    let target = format!("{}?path={}&follow={follow}", path("vms", vm, "/tree"), encode(asked));
    let mut answer = app.interrupts.guard(since, app.client.tree(&target)).await?;
    while let Some(bytes) = app.interrupts.guard(since, answer.bytes()).await? {
        if !app.interrupts.guard(since, take(bytes)).await? {
            break;
        }
    }
    Ok(())
}

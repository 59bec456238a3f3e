//! One helper with a world of its own: a state directory whose owner is nobody, a runtime directory, a network namespace.

use std::fs::{self, File};
use std::io::{BufRead, BufReader, Write};
use std::os::fd::{AsFd, OwnedFd};
use std::os::unix::fs::{MetadataExt, OpenOptionsExt, PermissionsExt, chown};
use std::os::unix::net::UnixStream;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

use sys::packet;
use tempfile::TempDir;
use wire::helper::*;
use wire::id::{BootId, ImageId, VmId};
use wire::naming::{self, Slot};

/// Who the VMs belong to. Nobody on the machine that tests.
pub(crate) const OWNER: (u32, u32) = (47_110, 47_111);
const PATIENCE: Duration = Duration::from_secs(30);

pub(crate) struct Ground {
    /// Programs and state. Root's alone, all the way.
    home: TempDir,
    /// Short, for sockets.
    pub(crate) run: TempDir,
    listener: OwnedFd,
    helper: Child,
    pub(crate) slots: Vec<Slot>,
}

/// One boot of one VM, with its files on the host.
pub(crate) struct Machine {
    pub(crate) vm: VmId,
    pub(crate) boot: BootId,
    pub(crate) slot: Slot,
}

/// A reply with the descriptors that came beside it.
pub(crate) type Replied<C> = Result<(<C as Call>::Reply, Vec<OwnedFd>), Failure>;

pub(crate) fn is_root() -> bool {
    rustix::process::geteuid().is_root()
}

/// Waits until `found` finds something.
pub(crate) fn until<T>(what: &str, mut found: impl FnMut() -> Option<T>) -> T {
    let deadline = Instant::now() + PATIENCE;
    loop {
        if let Some(found) = found() {
            return found;
        }
        assert!(Instant::now() < deadline, "waiting for: {what}");
        std::thread::sleep(Duration::from_millis(2));
    }
}

pub(crate) fn build() -> String {
    build_id(env!("CARGO_PKG_VERSION"), env!("BANGER_COMMIT"))
}

/// A directory with the real programs.
pub(crate) fn firecracker() -> PathBuf {
    std::env::var_os("BANGER_TEST_FIRECRACKER").expect("scripts/test.sh sets BANGER_TEST_FIRECRACKER").into()
}

/// A directory that nobody but root can change, all the way: the target directory, wherever the checkout is not in a place for
/// everybody.
fn roots_alone() -> &'static Path {
    let is_roots = |dir: &Path| fs::metadata(dir).is_ok_and(|meta| meta.uid() == 0 && meta.mode() & 0o022 == 0);
    let places = [env!("CARGO_TARGET_TMPDIR"), "/root", "/opt"].map(Path::new);
    let found = places.into_iter().find(|place| place.is_dir() && place.ancestors().all(is_roots));
    found.expect("a directory that is root's alone")
}

impl Ground {
    /// With the probe as its VMM.
    pub(crate) fn new() -> Ground {
        Ground::with(|programs| {
            let program = programs.join("firecracker");
            // Where there is no compiler, somebody else has built it.
            if let Some(built) = std::env::var_os("BANGER_TEST_PROBE") {
                fs::copy(built, program).unwrap();
                return;
            }
            let source = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/it/probe.c");
            let built = Command::new("cc")
                .args(["-static", "-O1", "-Wall", "-Werror", "-o"])
                .args([&program, &source])
                .status();
            assert!(built.unwrap().success());
        })
    }

    /// With a VMM that `install` puts into a directory as `firecracker`.
    pub(crate) fn with(install: impl FnOnce(&Path)) -> Ground {
        let home = TempDir::with_prefix_in("helper-", roots_alone()).unwrap();
        let run = TempDir::with_prefix("bh-").unwrap();
        for dir in [home.path(), run.path()] {
            fs::set_permissions(dir, fs::Permissions::from_mode(0o755)).unwrap();
        }
        for dir in ["programs", "state", "cache"] {
            fs::create_dir(home.path().join(dir)).unwrap();
        }
        for dir in ["state", "cache"] {
            own(&home.path().join(dir), 0o700);
        }
        let programs = home.path().join("programs");
        fs::copy(firecracker().join("jailer"), programs.join("jailer")).unwrap();
        install(&programs);
        let listener = packet::listen_at(&run.path().join("helper.sock")).unwrap();
        let helper = start(&listener, home.path(), run.path());
        Ground { home, run, listener, helper, slots: Vec::new() }
    }

    pub(crate) fn state(&self) -> PathBuf {
        self.home.path().join("state")
    }

    pub(crate) fn program(&self, name: &str) -> PathBuf {
        self.home.path().join("programs").join(name)
    }

    pub(crate) fn run_dir(&self) -> PathBuf {
        self.run.path().join("run")
    }

    pub(crate) fn socket(&self) -> PathBuf {
        self.run.path().join("helper.sock")
    }

    pub(crate) fn pid(&self) -> u32 {
        self.helper.id()
    }

    /// Kills the helper by a signal to its process group, and starts another on the same socket.
    pub(crate) fn restart(&mut self, signal: rustix::process::Signal) {
        let group = rustix::process::Pid::from_child(&self.helper);
        rustix::process::kill_process_group(group, signal).unwrap();
        self.helper.wait().unwrap();
        self.helper = start(&self.listener, self.home.path(), self.run.path());
    }

    /// Ends the helper for good, as the last step before a sweep.
    pub(crate) fn stop(&mut self) {
        self.helper.kill().unwrap();
        self.helper.wait().unwrap();
    }

    /// A connection that has been greeted.
    pub(crate) fn client(&self) -> Client {
        let client = self.stranger();
        client.call(Hello { build: build() }, &[]).unwrap();
        client
    }

    /// A connection.
    pub(crate) fn stranger(&self) -> Client {
        Client(packet::connect_to(&self.socket(), PATIENCE).unwrap())
    }

    /// A VM whose files are on the host, with a number that no other test uses.
    pub(crate) fn machine(&mut self, number: u8) -> Machine {
        let slot = Slot::try_from(9000 + u16::from(number)).unwrap();
        self.slots.push(slot);
        let machine = Machine { vm: VmId::from_random([number; 8]), boot: BootId::from_random([number; 8]), slot };
        let (disk, image) =
            (naming::vm_disk(&self.state(), &machine.vm), naming::image_rootfs(&self.state(), &image()));
        for (path, bytes, mode) in [(&disk, "disk", 0o660), (&image, "image", 0o644)] {
            fs::create_dir_all(path.parent().unwrap()).unwrap();
            if !path.exists() {
                fs::write(path, bytes).unwrap();
            }
            own(path, mode);
        }
        machine
    }

    /// The files such a VM is started with, and descriptors for them.
    pub(crate) fn files(&self, machine: &Machine) -> (Vec<JailFile>, Vec<OwnedFd>) {
        let disk = File::options().read(true).write(true).open(naming::vm_disk(&self.state(), &machine.vm)).unwrap();
        let image_file = File::open(naming::image_rootfs(&self.state(), &image())).unwrap();
        (vec![JailFile::Disk {}, JailFile::Image { image: image() }], vec![disk.into(), image_file.into()])
    }

    pub(crate) fn console(&self, machine: &Machine) -> PathBuf {
        self.home.path().join(format!("console-{}", machine.slot))
    }

    pub(crate) fn output(&self, machine: &Machine) -> OwnedFd {
        File::options().append(true).create(true).mode(0o600).open(self.console(machine)).unwrap().into()
    }

    /// Makes the jail and starts its VMM.
    pub(crate) fn boot(&self, client: &Client, machine: &Machine, nic: Nic) -> (VmmRuns, OwnedFd) {
        client.create(machine).unwrap();
        let (files, fds) = self.files(machine);
        let (runs, pidfds) = self.spawn(client, machine, files, fds, nic).unwrap();
        let [pidfd] = <[OwnedFd; 1]>::try_from(pidfds).unwrap();
        (runs, pidfd)
    }

    pub(crate) fn spawn(
        &self,
        client: &Client,
        machine: &Machine,
        files: Vec<JailFile>,
        fds: Vec<OwnedFd>,
        nic: Nic,
    ) -> Replied<SpawnVmm> {
        let request = SpawnVmm { boot: machine.boot.clone(), files, nic, limits: Limits::default() };
        let (out, error) = (self.output(machine), self.output(machine));
        let all: Vec<_> = [out, error].into_iter().chain(fds).collect();
        client.call(request, &all)
    }

    /// Asks for a start, and does not wait for the answer.
    pub(crate) fn send_spawn(&self, client: &Client, machine: &Machine, files: Vec<JailFile>, fds: Vec<OwnedFd>) {
        let request = SpawnVmm { boot: machine.boot.clone(), files, nic: Nic::None, limits: Limits::default() };
        let (out, error) = (self.output(machine), self.output(machine));
        let all: Vec<_> = [out, error].into_iter().chain(fds).collect();
        client.send(request, &all);
    }

    /// Talks to the probe in the machine's jail.
    pub(crate) fn probe(&self, machine: &Machine) -> Probe {
        let path = naming::jail_sockets_dir(&self.run_dir(), &machine.boot).join(naming::API_SOCKET);
        let stream = until("the probe's socket", || UnixStream::connect(&path).ok());
        Probe { reader: BufReader::new(stream.try_clone().unwrap()), stream }
    }

    /// Checks that nothing of any jail is left: processes, mounts, directories, interfaces.
    pub(crate) fn assert_clean(&self) {
        for slot in &self.slots {
            let uid = naming::vm_uid(*slot).to_string();
            // One that has been killed may wait for its parent to collect it.
            until(&format!("no process of {uid}"), || processes_of(&uid).is_empty().then_some(()));
        }
        let mounts = fs::read_to_string("/proc/self/mountinfo").unwrap();
        assert!(!mounts.contains(&*self.run.path().to_string_lossy()), "{mounts}");
        let left: Vec<_> =
            fs::read_dir(self.run_dir().join("jails")).unwrap().map(|e| e.unwrap().file_name()).collect();
        assert!(left.is_empty(), "{left:?}");
        let stage: Vec<_> =
            fs::read_dir(self.run_dir().join("stage")).unwrap().map(|e| e.unwrap().file_name()).collect();
        assert!(stage.is_empty(), "{stage:?}");
    }

    /// What interfaces the helper sees.
    pub(crate) fn interfaces(&self) -> String {
        fs::read_to_string(format!("/proc/{}/net/dev", self.pid())).unwrap()
    }
}

impl Drop for Ground {
    /// Whatever a test that failed has left is swept away.
    fn drop(&mut self) {
        self.helper.kill().ok();
        self.helper.wait().ok();
        for slot in &self.slots {
            for pid in processes_of(&naming::vm_uid(*slot).to_string()) {
                let pid = rustix::process::Pid::from_raw(pid).unwrap();
                rustix::process::kill_process(pid, rustix::process::Signal::KILL).ok();
            }
        }
    }
}

/// The processes whose real user id is `uid`.
pub(crate) fn processes_of(uid: &str) -> Vec<i32> {
    let mut found = Vec::new();
    for entry in fs::read_dir("/proc").unwrap() {
        let name = entry.unwrap().file_name();
        let Some(pid) = name.to_str().and_then(|name| name.parse().ok()) else { continue };
        let status = fs::read_to_string(format!("/proc/{pid}/status")).unwrap_or_default();
        let line = status.lines().find_map(|line| line.strip_prefix("Uid:"));
        if line.and_then(|line| line.split_ascii_whitespace().next()) == Some(uid) {
            found.push(pid);
        }
    }
    found
}

fn start(listener: &OwnedFd, home: &Path, run: &Path) -> Child {
    let words = "LISTEN_PID=$$ LISTEN_FDS=1 exec \"$@\" 3<&0 </dev/null";
    let mut command = Command::new("unshare");
    command.args(["--net", "sh", "-c", words, "sh", env!("CARGO_BIN_EXE_banger-helper"), "serve"]);
    command.args(["--owner", &format!("{}:{}", OWNER.0, OWNER.1)]);
    for name in ["state", "cache"] {
        command.arg(format!("--{name}")).arg(home.join(name));
    }
    for name in ["firecracker", "jailer"] {
        command.arg(format!("--{name}")).arg(home.join("programs").join(name));
    }
    command.arg("--run").arg(run.join("run"));
    command.stdin(Stdio::from(listener.try_clone().unwrap()));
    std::os::unix::process::CommandExt::process_group(&mut command, 0).spawn().unwrap()
}

pub(crate) fn image() -> ImageId {
    "0123456789abcdef".parse().unwrap()
}

/// Gives a file of the state directory, and the directories over it, to the owner.
pub(crate) fn own(path: &Path, mode: u32) {
    fs::set_permissions(path, fs::Permissions::from_mode(mode)).unwrap();
    for path in path.ancestors().take_while(|path| path.metadata().is_ok() && !path.ends_with("tmp")).take(4) {
        if path.file_name().is_some_and(|name| name.to_string_lossy().starts_with("helper-")) {
            break;
        }
        let gid = path.metadata().unwrap().gid();
        let gid = if gid == 0 { OWNER.1 } else { gid };
        chown(path, Some(OWNER.0), Some(gid)).unwrap();
    }
}

pub(crate) struct Client(pub(crate) OwnedFd);

impl Client {
    pub(crate) fn call<C: Call>(&self, request: C, fds: &[OwnedFd]) -> Replied<C> {
        self.send(request, fds);
        let mut buffer = vec![0; PACKET_BYTES_MAX];
        let received = packet::receive(&self.0, &mut buffer).unwrap();
        match serde_json::from_slice::<Answer<C::Reply>>(&buffer[..received.bytes]).unwrap() {
            Answer::Done(reply) => Ok((reply, received.fds)),
            Answer::Refused(failure) => Err(failure),
        }
    }

    fn send(&self, request: impl Call, fds: &[OwnedFd]) {
        let envelope = Envelope { operation: None, request: request.into() };
        let borrowed: Vec<_> = fds.iter().map(AsFd::as_fd).collect();
        packet::send(&self.0, &serde_json::to_vec(&envelope).unwrap(), &borrowed).unwrap();
    }

    pub(crate) fn create(&self, machine: &Machine) -> Result<JailReady, Failure> {
        let request = CreateJail { vm: machine.vm.clone(), boot: machine.boot.clone(), slot: machine.slot };
        self.call(request, &[]).map(|(reply, _)| reply)
    }

    pub(crate) fn destroy(&self, machine: &Machine) -> Result<Gone, Failure> {
        self.call(DestroyJail { boot: machine.boot.clone() }, &[]).map(|(reply, _)| reply)
    }
}

/// The code that took a VMM over.
pub(crate) struct Probe {
    stream: UnixStream,
    reader: BufReader<UnixStream>,
}

/// What a system call gave: its result or error, and what it wrote.
pub(crate) type Called = (Result<i64, i32>, Vec<Vec<u8>>);

impl Probe {
    /// Makes a system call in the jail.
    pub(crate) fn call_whole(&mut self, number: libc::c_long, arguments: &str) -> Called {
        writeln!(self.stream, "{number} {arguments}").unwrap();
        let mut line = String::new();
        self.reader.read_line(&mut line).unwrap();
        let mut words = line.split_ascii_whitespace();
        let result: i64 = words.next().unwrap_or_else(|| panic!("it died of {number} {arguments}")).parse().unwrap();
        let errno: i32 = words.next().unwrap().parse().unwrap();
        let byte = |hex: &[u8]| u8::from_str_radix(std::str::from_utf8(hex).unwrap(), 16).unwrap();
        let wrote = words.map(|hex| hex.as_bytes().chunks(2).map(byte).collect()).collect();
        (if errno == 0 { Ok(result) } else { Err(errno) }, wrote)
    }

    pub(crate) fn call(&mut self, number: libc::c_long, arguments: &str) -> Result<i64, i32> {
        self.call_whole(number, arguments).0
    }

    pub(crate) fn open(&mut self, path: &str, flags: i32) -> Result<i64, i32> {
        self.call(libc::SYS_openat, &format!("{} s:{path} {flags} 0600", libc::AT_FDCWD))
    }
}

//! A scripted daemon on a real socket, records to answer with, and a home directory for one test.

use std::io::{BufRead, BufReader, Read, Write};
use std::os::unix::net::{UnixListener, UnixStream};
use std::path::Path;
use std::process::{Command, Output};
use std::sync::{Arc, Condvar, Mutex};
use std::time::{Duration, SystemTime};

use rustix::event::{PollFd, PollFlags};
use serde::Serialize;
use serde_json::{Value, json};
use tempfile::TempDir;
use wire::agent::message::ExitStatus;
use wire::attach::{self, Ended, HEADER_BYTES, Kind};

/// How long anything may take: it ends what hangs, also where many other programs want the processor.
pub(crate) const DEADLINE: Duration = Duration::from_secs(60);

/// A request as it arrived.
#[derive(Debug, Clone)]
pub(crate) struct Request {
    pub(crate) line: String,
    pub(crate) body: Vec<u8>,
}

type Handler = Box<dyn Fn(&Request, &mut Connection) + Send + Sync>;

/// One connection, to be answered on.
pub(crate) struct Connection {
    stream: UnixStream,
    log: Arc<Log>,
}

/// What was asked, in order.
#[derive(Default)]
pub(crate) struct Log {
    requests: Mutex<Vec<Request>>,
    more: Condvar,
}

impl Log {
    /// Waits until a request begins with `line`.
    pub(crate) fn wait_for(&self, line: &str) -> Request {
        let guard = self.requests.lock().unwrap();
        let find = |requests: &Vec<Request>| requests.iter().find(|request| request.line.starts_with(line)).cloned();
        let (guard, _) = self.more.wait_timeout_while(guard, DEADLINE, |requests| find(requests).is_none()).unwrap();
        find(&guard).unwrap_or_else(|| panic!("nobody asked {line}; asked was {:?}", lines(&guard)))
    }

    /// What was sent with each request that begins with `line`.
    pub(crate) fn bodies(&self, line: &str) -> Vec<Value> {
        let requests = self.requests.lock().unwrap();
        let asked = requests.iter().filter(|request| request.line.starts_with(line));
        asked.map(|request| serde_json::from_slice(&request.body).unwrap()).collect()
    }

    pub(crate) fn lines(&self) -> Vec<String> {
        lines(&self.requests.lock().unwrap())
    }
}

fn lines(requests: &[Request]) -> Vec<String> {
    requests.iter().map(|request| request.line.clone()).collect()
}

impl Connection {
    pub(crate) fn json(&mut self, status: u16, body: &impl Serialize) {
        let body = serde_json::to_vec(body).unwrap();
        let head =
            format!("HTTP/1.1 {status} X\r\ncontent-type: application/json\r\ncontent-length: {}\r\n\r\n", body.len());
        let _ = self.stream.write_all(&[head.as_bytes(), &body].concat());
    }

    pub(crate) fn error(&mut self, status: u16, code: &str, message: &str) {
        self.json(status, &json!({"error": {"code": code, "message": message}}));
    }

    /// Begins an answer that ends with the connection.
    pub(crate) fn open(&mut self) {
        let _ = self.stream.write_all(b"HTTP/1.1 200 OK\r\n\r\n");
    }

    pub(crate) fn bytes(&mut self, bytes: &[u8]) -> bool {
        self.stream.write_all(bytes).is_ok()
    }

    pub(crate) fn event(&mut self, event: &Value) {
        self.bytes(format!("{event}\n").as_bytes());
    }

    /// The path of the socket this came in by.
    pub(crate) fn socket(&self) -> std::path::PathBuf {
        self.stream.local_addr().unwrap().as_pathname().unwrap().to_owned()
    }

    pub(crate) fn log(&self) -> Arc<Log> {
        Arc::clone(&self.log)
    }

    /// Agrees to the attach protocol; the connection is its stream from here.
    pub(crate) fn attach(&mut self) {
        self.attach_with("");
    }

    /// The same in a VM with a workspace.
    pub(crate) fn attach_to_workspace(&mut self) {
        self.attach_with(&format!("{}: true\r\n", attach::WORKSPACE_HEADER));
    }

    fn attach_with(&mut self, header: &str) {
        let protocol = attach::PROTOCOL;
        self.bytes(format!("HTTP/1.1 101 X\r\nconnection: upgrade\r\nupgrade: {protocol}\r\n{header}\r\n").as_bytes());
    }

    pub(crate) fn send(&mut self, kind: Kind, payload: &[u8]) -> bool {
        let length = u32::try_from(payload.len()).unwrap();
        self.bytes(&[&attach::header(kind, length)[..], payload].concat())
    }

    pub(crate) fn grant(&mut self, bytes: u32) {
        self.send(Kind::InputCredit, &bytes.to_le_bytes());
    }

    pub(crate) fn receive(&mut self) -> Option<(Kind, Vec<u8>)> {
        let mut header = [0; HEADER_BYTES];
        self.stream.read_exact(&mut header).ok()?;
        let (kind, length) = attach::parse_header(header).unwrap();
        let mut payload = vec![0; length];
        self.stream.read_exact(&mut payload).ok()?;
        Some((kind, payload))
    }

    pub(crate) fn exited(&mut self, status: ExitStatus) {
        self.ended(&Ended::Exited { status });
    }

    pub(crate) fn ended(&mut self, ended: &Ended) {
        self.send(Kind::Ended, &serde_json::to_vec(ended).unwrap());
    }
}

/// A home directory, with a daemon in it when one was scripted.
pub(crate) struct Home {
    pub(crate) dir: TempDir,
    pub(crate) log: Arc<Log>,
}

/// A daemon being scripted: later routes win.
pub(crate) struct Script {
    routes: Vec<(String, Handler)>,
    /// Every other connection, the first one too, is closed with what was asked in it.
    is_dying: bool,
}

impl Script {
    /// A daemon with one running VM, an image and a kernel.
    pub(crate) fn new() -> Script {
        Script { routes: Vec::new(), is_dying: false }
            .answer("GET /v1/status", &status())
            .answer("GET /v1/vms ", &json!({"vms": [vm("web", "running"), vm("db", "stopped")]}))
            .answer("GET /v1/vms?brief=true ", &json!({"vms": [vm("web", "running"), vm("db", "stopped")]}))
            .answer("GET /v1/vms/web ", &vm("web", "running"))
            .answer("GET /v1/vms/fox ", &vm("fox", "running"))
            .answer("GET /v1/images/debian-bookworm ", &image())
            .answer("GET /v1/kernels/debian-cloud ", &kernel())
            .answer("GET /v1/images ", &json!({"images": [image()]}))
            .answer("GET /v1/templates ", &json!({"is_enabled": true, "fell_back": 1, "templates": [template()]}))
            .answer("DELETE /v1/templates/", &json!({"keys": [template()["key"]], "freed_bytes": 123_456_789}))
            .answer("GET /v1/kernels ", &json!({"kernels": [kernel()]}))
            .answer("POST /v1/vms ", &json!({"operation": OP, "vm": null, "subject": "fox"}))
            .answer(
                "POST /v1/vms/fox/wait",
                &json!({"level": "system", "failed_units": [], "note": null, "elapsed_ms": 10}),
            )
            .answer("POST /v1/workspaces/inspect ", &inspection())
            .answer("POST /v1/vms/fox/workspace ", &json!({"operation": OP, "vm": null, "subject": "fox"}))
            .answer("GET /v1/vms/fox/workspace ", &workspace_status(0))
            .answer("DELETE /v1/vms/", &json!({"operation": OP, "vm": null, "subject": "fox"}))
            .on("GET /v1/operations/", |_, connection| {
                connection.open();
                connection.event(&finished("succeeded", &Value::Null));
            })
    }

    pub(crate) fn on(
        mut self,
        line: &str,
        handler: impl Fn(&Request, &mut Connection) + Send + Sync + 'static,
    ) -> Script {
        self.routes.insert(0, (line.to_owned(), Box::new(handler)));
        self
    }

    pub(crate) fn answer(self, line: &str, body: &Value) -> Script {
        let body = body.clone();
        self.on(line, move |_, connection| connection.json(200, &body))
    }

    pub(crate) fn refuse(self, line: &str, status: u16, code: &'static str, message: &'static str) -> Script {
        self.on(line, move |_, connection| connection.error(status, code, message))
    }

    /// As daemons do that die one after the other: every other connection is closed before anybody has read from it.
    pub(crate) fn dying(self) -> Script {
        Script { is_dying: true, ..self }
    }

    /// Begins to listen.
    pub(crate) fn run(self) -> Home {
        let home = Home::empty();
        let run = home.dir.path().join("run");
        std::fs::create_dir_all(&run).unwrap();
        let listener = UnixListener::bind(run.join("bangerd.sock")).unwrap();
        let (log, routes) = (Arc::clone(&home.log), Arc::new(self.routes));
        std::thread::spawn(move || {
            for (number, stream) in listener.incoming().enumerate() {
                let (log, routes, stream) = (Arc::clone(&log), Arc::clone(&routes), stream.unwrap());
                if self.is_dying && number % 2 == 0 {
                    // Closed with bytes in it, which is what the other end is told.
                    rustix::event::poll(&mut [PollFd::new(&stream, PollFlags::IN)], None).unwrap();
                    continue;
                }
                std::thread::spawn(move || serve(stream, &log, &routes));
            }
        });
        home
    }
}

fn serve(stream: UnixStream, log: &Arc<Log>, routes: &[(String, Handler)]) {
    let mut reader = BufReader::new(stream.try_clone().unwrap());
    let Some(request) = read_request(&mut reader) else { return };
    let line = format!("{} ", request.line);
    {
        log.requests.lock().unwrap().push(request.clone());
        log.more.notify_all();
    }
    let mut connection = Connection { stream, log: Arc::clone(log) };
    match routes.iter().find(|(route, _)| line.starts_with(route)) {
        Some((_, handler)) => handler(&request, &mut connection),
        None => connection.error(404, "not_found", &format!("nothing is scripted for {}", request.line)),
    }
    let _ = connection.stream.shutdown(std::net::Shutdown::Write);
}

fn read_request(reader: &mut BufReader<UnixStream>) -> Option<Request> {
    let mut next = || {
        let mut line = String::new();
        (reader.read_line(&mut line).ok()? > 0).then(|| line.trim_end().to_owned())
    };
    let first = next()?;
    let line = first.rsplit_once(' ')?.0.to_owned();
    let (mut length, mut is_chunked) = (0, false);
    loop {
        let header = next()?.to_ascii_lowercase();
        match header.split_once(": ") {
            None => break,
            Some(("content-length", value)) => length = value.parse().unwrap(),
            Some(("transfer-encoding", "chunked")) => is_chunked = true,
            Some(_) => {}
        }
    }
    let mut body = vec![0; length];
    reader.read_exact(&mut body).ok()?;
    while is_chunked {
        let mut size = String::new();
        reader.read_line(&mut size).ok()?;
        let size = usize::from_str_radix(size.trim_end(), 16).ok()?;
        let mut chunk = vec![0; size + 2];
        reader.read_exact(&mut chunk).ok()?;
        body.extend_from_slice(&chunk[..size]);
        is_chunked = size > 0;
    }
    Some(Request { line, body })
}

impl Home {
    /// Without a daemon.
    pub(crate) fn empty() -> Home {
        Home { dir: tempfile::tempdir().unwrap(), log: Arc::default() }
    }

    pub(crate) fn path(&self) -> &Path {
        self.dir.path()
    }

    /// `banger` with nothing of the tester's environment.
    pub(crate) fn banger(&self, args: &[&str]) -> Command {
        let mut command = Command::new(env!("CARGO_BIN_EXE_banger"));
        self.surround(&mut command);
        command.args(args);
        command
    }

    pub(crate) fn surround(&self, command: &mut Command) {
        command.env_clear().env("BANGER_HOME", self.path()).env("COLUMNS", "80").env("PATH", "/usr/bin:/bin");
        command.env("HOME", self.path()).current_dir(self.path()).stdin(std::process::Stdio::null());
    }

    /// Runs `banger` to its end: status and both outputs, with this home as `$HOME`.
    pub(crate) fn transcript(&self, args: &[&str]) -> String {
        transcript(self, &self.banger(args).output().unwrap())
    }
}

pub(crate) fn transcript(home: &Home, output: &Output) -> String {
    let text = |bytes: &[u8]| {
        String::from_utf8_lossy(bytes)
            .replace(home.path().to_str().unwrap(), "$HOME")
            .replace(env!("CARGO_PKG_VERSION"), "$VERSION")
    };
    let status = output.status.code().map_or_else(|| output.status.to_string(), |code| code.to_string());
    format!("status {status}\n--- stdout\n{}--- stderr\n{}", text(&output.stdout), text(&output.stderr))
}

/// The answer to what begins an operation.
pub(crate) fn begun(subject: &str) -> Value {
    json!({"operation": OP, "vm": null, "subject": subject})
}

/// The commit everything here is at.
pub(crate) const COMMIT: &str = "0123456789abcdef0123456789abcdef01234567";

pub(crate) const OP: &str = "op-00000000000000aa";

fn minutes_ago(minutes: u64) -> u64 {
    let now = SystemTime::now().duration_since(SystemTime::UNIX_EPOCH).unwrap();
    u64::try_from(now.as_millis()).unwrap() - minutes * 60_000 - 5_000
}

pub(crate) fn status() -> Value {
    json!({
        "version": {"version": env!("CARGO_PKG_VERSION"), "commit": "unknown"}, "pid": 1, "mode": "session",
        "socket": "/run/bangerd.sock", "state_dir": "/state", "uptime_ms": 61_000, "running_vms": 1,
        "defaults": {"image": "debian-bookworm", "kernel": "debian-cloud", "vcpus": 2, "memory_mib": 2048, "disk_bytes": 8_u64 << 30},
    })
}

/// A VM whose id is the hexadecimal of its name.
pub(crate) fn vm(name: &str, state: &str) -> Value {
    let digits: String = name.bytes().map(|byte| format!("{byte:02x}")).collect();
    json!({
        "id": format!("{digits:0<16}"), "name": name, "state": state,
        "image": "debian-bookworm", "image_id": "1111111111111111", "kernel": "debian-cloud", "kernel_id": "2222222222222222",
        "vcpus": 2, "memory_mib": 2048, "disk_bytes": 8_u64 << 30, "disk_allocated_bytes": 1_288_490_189_u64,
        "nat": false, "publish": if name == "web" { json!([{"host_port": 8080, "guest_port": 80}]) } else { json!([]) },
        "stop_after_ms": null, "idle": null, "restart": "no", "restarts": null,
        "boot": null, "last_error": null, "operation": null, "workspace": null, "created_at_ms": minutes_ago(3),
    })
}

/// A template as `GET /v1/templates` gives it.
pub(crate) fn template() -> Value {
    json!({
        "key": "0123456789abcdef", "image": "debian-bookworm", "kernel": "linux-image-cloud-amd64", "vcpus": 2,
        "memory_mib": 2048, "disk_bytes": 8_u64 << 30, "nat": true, "bytes": 123_456_789, "uses": 12,
        "created_at_ms": minutes_ago(180), "used_at_ms": minutes_ago(120)
    })
}

pub(crate) fn image() -> Value {
    json!({
        "id": "1111111111111111", "name": "debian-bookworm", "variant": "minimal", "digest": "11", "bytes": 1_288_490_189_u64,
        "allocated_bytes": 1_073_741_824_u64, "arch": "amd64", "source": "recipe debian-bookworm", "init": "/sbin/init",
        "created_at_ms": minutes_ago(130), "used_by": ["web"],
    })
}

pub(crate) fn kernel() -> Value {
    json!({
        "id": "2222222222222222", "name": "debian-cloud", "release": "6.1.0-56-cloud-amd64", "arch": "amd64",
        "vmlinux_sha256": "22", "vmlinux_bytes": 33_554_432, "module_count": 420, "source": "linux-image-cloud-amd64",
        "facts": {"OVERLAY_FS": "m"}, "created_at_ms": minutes_ago(60 * 24 * 3), "used_by": [],
    })
}

pub(crate) fn finished(state: &str, error: &Value) -> Value {
    json!({"event": "finished", "operation": operation(state, error)})
}

pub(crate) fn operation(state: &str, error: &Value) -> Value {
    json!({
        "id": OP, "kind": "vm.start", "subject": "fox", "state": state, "reason": null, "steps": [], "error": error,
        "started_at_ms": minutes_ago(1), "ended_at_ms": null,
    })
}

pub(crate) fn step(name: &str, state: &str) -> Value {
    json!({"event": "step", "step": {"name": name, "state": state, "started_at_ms": null, "ended_at_ms": null}})
}

/// A workspace of a repository at `/`, which is everywhere.
pub(crate) fn workspace() -> Value {
    json!({
        "guest_path": "/root/repo", "host_path": "/", "head_commit": COMMIT, "base_commit": COMMIT, "branch": "main",
        "mode": "overlay", "include_untracked": false, "from": null, "depth": 10, "prepared_at_ms": minutes_ago(3),
        "exported": null,
    })
}

/// Both sides of it, with so many changes in the guest that were not exported.
pub(crate) fn workspace_status(changes: u64) -> Value {
    let change = |number: u64| json!({"change": "modified", "path": format!("file {number}")});
    json!({
        "workspace": workspace(),
        "host": {"head_commit": COMMIT, "head_moved": false, "changes": 0, "changed": [], "problem": null},
        "guest": {
            "head_commit": COMMIT, "commits": 0, "changes": changes, "changed": (0..changes).map(change).collect::<Vec<_>>(),
            "exported": false, "problem": null,
        },
    })
}

/// What would travel of a plain repository.
pub(crate) fn inspection() -> Value {
    json!({
        "root": "/src/app", "mode": "overlay", "base_commit": COMMIT, "branch": "main", "files": 2, "bytes": 3000,
        "untracked_left_out": 0, "secrets": [], "submodules": [], "tooling": [], "devcontainer": null, "warnings": [],
        "paths": null,
    })
}

/// A session; its exit status is null while it runs.
pub(crate) fn session(name: &str, exit_status: Value) -> Value {
    let is_over = !exit_status.is_null();
    json!({
        "vm": "web",
        "name": name, "state": if is_over { "ended" } else { "running" }, "command": format!("npm run {name}"),
        "terminal": name == "sh", "pid": 42, "exit_status": exit_status, "started_at_ms": minutes_ago(7),
        "ended_at_ms": if is_over { json!(minutes_ago(2)) } else { Value::Null }, "output_bytes": 123, "clients": 1,
    })
}

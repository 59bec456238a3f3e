//! A machine whose guest speaks the real agent protocol over the boot's socket, and little else.

use std::path::PathBuf;
use std::sync::atomic::{AtomicBool, AtomicU32, AtomicU64, Ordering};
use std::sync::{Arc, Mutex};

use daemon::model::machine::ExitReason;
use daemon::vmm::Launch;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{UnixListener, UnixStream};
use tokio::sync::watch;
use wire::agent::GENERATION;
use wire::agent::frame::{
    Channel, Decoder, FROM_HOST_MAX, Head, Kind, NONCE_BYTES, PREAMBLE_BYTES, Tag, encode, preamble_reply,
};
use wire::agent::message::{
    BootConfig, Configured, Ending, Event, Failure, Health, Hello, Readiness, Reply, Request, Stage,
};
use wire::agent::renewal::Renewed;
use wire::api::KillSignal;

/// How a guest behaves.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Behaviour {
    /// As it should.
    Answers,
    /// Prints something and never says hello.
    Silent,
    /// Prints something and ends at once.
    Dies,
    /// Answers, and does not power off when asked; its VMM does not end of a signal it can ignore.
    Stubborn,
    /// Answers, and reboots instead of growing its filesystem.
    RebootsToGrow,
    /// Boots as it should; what was saved is refused.
    CannotGoOn,
    /// Boots as it should; going on from what was saved it says nothing.
    SilentWhenSaved,
    /// Boots as it should; going on from what was saved it answers, and does not become another machine.
    CannotRenew,
    /// Its channel breaks when it is configured: before it hears of that, and again before it has answered.
    LosesChannel,
    /// Ends when it is configured.
    DiesConfigured,
}

/// What the guest changed of its image, which nobody reads here.
pub(crate) const LAYER: &[u8] = b"a layer";

pub(crate) struct Machine {
    pub(crate) vm: String,
    /// The VM and the boot that its guest takes itself for.
    pub(crate) named: Mutex<[String; 2]>,
    /// Where its disk is.
    disk: PathBuf,
    /// Whether it was let go on, where it began as what was saved.
    goes_on: watch::Sender<bool>,
    began_as_saved: bool,
    /// Whether its NIC carries frames.
    pub(crate) is_plugged: AtomicBool,
    is_frozen: AtomicBool,
    socket: PathBuf,
    behaviour: Behaviour,
    exit: watch::Sender<Option<ExitReason>>,
    says: watch::Sender<Option<Event>>,
    is_configured: AtomicBool,
    /// How often it was asked to be configured.
    pub(crate) asked: AtomicU32,
    is_paused: AtomicBool,
    /// What its filesystem was grown to last.
    pub(crate) disk_bytes: AtomicU64,
    /// What its clock was set to last.
    pub(crate) clock_ns: AtomicU64,
    /// What its NIC carried.
    pub(crate) nic_bytes: AtomicU64,
    /// Commands that run in it.
    pub(crate) execs: AtomicU32,
    /// What it was configured with.
    pub(crate) config: Mutex<Option<BootConfig>>,
    /// Whether it wrote its disk out.
    pub(crate) is_synced: AtomicBool,
}

impl Machine {
    pub(crate) fn boot(runtime: &tokio::runtime::Handle, launch: &Launch, behaviour: Behaviour) -> Arc<Machine> {
        let [vm, boot, disk] = launch.argv.as_slice() else { panic!("not planned here: {:?}", launch.argv) };
        let saved: Option<[String; 2]> =
            launch.saved.as_ref().map(|saved| serde_json::from_slice(&std::fs::read(&saved.devices).unwrap()).unwrap());
        let is_saved = saved.is_some();
        let machine = Arc::new(Machine {
            vm: vm.clone(),
            named: Mutex::new(saved.unwrap_or_else(|| [vm.clone(), boot.clone()])),
            disk: disk.into(),
            goes_on: watch::Sender::new(!is_saved),
            began_as_saved: is_saved,
            is_plugged: AtomicBool::new(!is_saved),
            is_frozen: AtomicBool::new(false),
            socket: launch.agent_socket(),
            behaviour,
            exit: watch::Sender::new(None),
            says: watch::Sender::new(None),
            is_configured: AtomicBool::new(is_saved),
            asked: AtomicU32::new(0),
            is_paused: AtomicBool::new(false),
            disk_bytes: AtomicU64::new(0),
            clock_ns: AtomicU64::new(0),
            nic_bytes: AtomicU64::new(0),
            execs: AtomicU32::new(0),
            config: Mutex::default(),
            is_synced: AtomicBool::new(false),
        });
        let _guard = runtime.enter();
        // As QEMU: what another VMM of this boot left is in nobody's way.
        sys::fs::remove_file(&machine.socket).unwrap();
        let listener = UnixListener::bind(&machine.socket).unwrap();
        let console = std::fs::write(&launch.console_log, b"booting\n\x1b[2Jno root device\n");
        // As QEMU: what a full disk does not take of a console is lost, and the machine runs.
        assert!(console.is_ok() || console.is_err_and(|error| error.kind() == std::io::ErrorKind::StorageFull));
        if behaviour == Behaviour::Dies {
            machine.end(ExitReason::Ended { code: Some(1) });
        }
        let serving = Arc::clone(&machine);
        runtime.spawn(async move {
            let ended = serving.ended();
            tokio::select! {
                _ = ended => {}
                () = serving.serve(listener) => {}
            }
        });
        machine
    }

    pub(crate) fn is_alive(&self) -> bool {
        self.exit.borrow().is_none()
    }

    pub(crate) fn is_paused(&self) -> bool {
        self.is_paused.load(Ordering::SeqCst)
    }

    pub(crate) fn hold(&self, is_paused: bool) {
        self.is_paused.store(is_paused, Ordering::SeqCst);
    }

    pub(crate) fn end(&self, how: ExitReason) {
        self.exit.send_if_modified(|exit| {
            let is_first = exit.is_none();
            exit.get_or_insert(how);
            is_first
        });
    }

    /// Whether a signal makes its VMM end.
    pub(crate) fn ends_of(&self, signal: KillSignal) -> bool {
        self.behaviour != Behaviour::Stubborn || signal == KillSignal::Kill
    }

    pub(crate) async fn ended(&self) -> ExitReason {
        let mut exit = self.exit.subscribe();
        let exit = exit.wait_for(Option::is_some).await.unwrap();
        exit.clone().unwrap()
    }

    /// Says how it will end, then ends; as a guest does whose user powers off or reboots.
    pub(crate) async fn finish(&self, how: Ending) {
        self.says.send_replace(Some(Event::Ending { how }));
        // The task that serves writes it, then ends the machine.
        self.ended().await;
    }

    /// Lets what was saved go on.
    pub(crate) fn go_on(&self) -> Result<(), String> {
        assert!(self.began_as_saved, "it was booted");
        if self.behaviour == Behaviour::CannotGoOn {
            return Err("these devices are not its own".to_owned());
        }
        self.goes_on.send_replace(true);
        Ok(())
    }

    /// What is saved of it: who its guest takes itself for.
    pub(crate) fn saved(&self) -> Vec<u8> {
        assert!(self.is_paused(), "it runs while it is saved");
        serde_json::to_vec(&*self.named.lock().unwrap()).unwrap()
    }

    /// Leaves a mark on the disk. One that is full takes none.
    fn write(&self, mark: &str) {
        let file = std::fs::File::options().append(true).open(&self.disk);
        let written = file.and_then(|mut file| std::io::Write::write_all(&mut file, mark.as_bytes()));
        assert!(written.is_ok() || written.is_err_and(|error| error.kind() == std::io::ErrorKind::StorageFull));
    }

    async fn serve(&self, listener: UnixListener) {
        loop {
            let (socket, _) = listener.accept().await.unwrap();
            let is_silent = self.began_as_saved && self.behaviour == Behaviour::SilentWhenSaved;
            if self.behaviour == Behaviour::Silent || is_silent {
                std::future::pending::<()>().await;
            }
            self.goes_on.subscribe().wait_for(|goes_on| *goes_on).await.unwrap();
            self.talk(socket).await;
        }
    }

    async fn talk(&self, mut socket: UnixStream) {
        let mut preamble = [0; PREAMBLE_BYTES];
        if socket.read_exact(&mut preamble).await.is_err() {
            return;
        }
        let nonce: [u8; NONCE_BYTES] = preamble[PREAMBLE_BYTES - NONCE_BYTES..].try_into().unwrap();
        let tag = Tag::of(&nonce);
        let stage = if self.is_configured.load(Ordering::SeqCst) { Stage::Serving } else { Stage::Unconfigured };
        let [vm, boot] = self.named.lock().unwrap().clone();
        let hello =
            Hello { generation: GENERATION, version: "fake".into(), vm, boot, stage, uptime_ms: 1, secret: None };
        let mut out = preamble_reply(&nonce).to_vec();
        put(&mut out, Kind::Hello, 0, &hello, tag);
        if socket.write_all(&out).await.is_err() {
            return;
        }
        let mut decoder = Decoder::new(tag, FROM_HOST_MAX);
        let mut buffer = [0; 4096];
        let mut says = self.says.subscribe();
        loop {
            let mut out = Vec::new();
            let mut is_over = None;
            if let Some(Event::Ending { how }) = says.borrow_and_update().clone() {
                put(&mut out, Kind::Event, 0, &Event::Ending { how }, tag);
                is_over = Some(how);
            }
            while let Some(frame) = decoder.next_frame().unwrap() {
                if frame.head.kind != Kind::Open {
                    continue;
                }
                let request: Request = serde_json::from_slice(&frame.payload).unwrap();
                if self.is_paused() && request == Request::Health {
                    // Asked when it still ran.
                    continue;
                }
                let is_asked = matches!(request, Request::Configure(_));
                let asked = if is_asked { self.asked.fetch_add(1, Ordering::SeqCst) + 1 } else { 0 };
                match (self.behaviour, asked) {
                    (Behaviour::LosesChannel, 1) => return,
                    (Behaviour::DiesConfigured, 1) => return self.end(ExitReason::Ended { code: Some(0) }),
                    _ => {}
                }
                put_content(&mut out, &request, frame.head.stream, tag);
                let (reply, ends) = self.answer(request);
                if (self.behaviour, asked) == (Behaviour::LosesChannel, 2) {
                    return;
                }
                put(&mut out, Kind::Reply, frame.head.stream, &reply, tag);
                if let Some(how) = ends {
                    put(&mut out, Kind::Event, 0, &Event::Ending { how }, tag);
                    is_over = Some(how);
                }
            }
            if socket.write_all(&out).await.is_err() {
                return;
            }
            if is_over.is_some() {
                self.end(ExitReason::Ended { code: Some(0) });
                return;
            }
            tokio::select! {
                read = socket.read(&mut buffer) => match read {
                    Ok(0) | Err(_) => return,
                    Ok(count) => decoder.push(&buffer[..count]),
                },
                _ = says.changed() => {}
            }
        }
    }

    fn answer(&self, request: Request) -> (Reply, Option<Ending>) {
        assert!(!self.is_paused(), "a paused guest answers nothing: {request:?}");
        match request {
            Request::SetClock { unix_ns } => {
                self.clock_ns.store(unix_ns, Ordering::SeqCst);
                (Reply::Done { bytes: 0 }, None)
            }
            Request::GrowDisk { .. } if self.behaviour == Behaviour::RebootsToGrow => {
                (Reply::Done { bytes: 0 }, Some(Ending::Reboot))
            }
            Request::GrowDisk { bytes } => {
                self.disk_bytes.store(bytes, Ordering::SeqCst);
                (Reply::Done { bytes: 0 }, None)
            }
            Request::Configure(config) => {
                if !self.is_configured.swap(true, Ordering::SeqCst) {
                    self.write(BOOTED);
                    *self.config.lock().unwrap() = Some(*config);
                } else {
                    assert_eq!(self.behaviour, Behaviour::LosesChannel, "configured twice");
                }
                let warnings = vec!["no /etc/ssh in the image".to_owned()];
                (
                    Reply::Configured(Configured { init: Some("/sbin/init".into()), warnings, ..Default::default() }),
                    None,
                )
            }
            Request::Await { .. } => (Reply::Ready(Readiness::default()), None),
            Request::Freeze { quiesce } => {
                self.is_frozen.store(quiesce, Ordering::SeqCst);
                (Reply::Done { bytes: 0 }, None)
            }
            Request::Layer => (Reply::Done { bytes: LAYER.len() as u64 }, None),
            Request::Hold => (Reply::Done { bytes: 0 }, None),
            Request::Renew(_) if self.behaviour == Behaviour::CannotRenew => {
                (Reply::Failed(Failure::Refused { why: "its clock stands still".into() }), None)
            }
            Request::Renew(renewal) => {
                assert!(self.began_as_saved && !self.is_plugged.load(Ordering::SeqCst), "renewed before it is seen");
                *self.named.lock().unwrap() = [renewal.vm, renewal.boot];
                *self.config.lock().unwrap() = Some(renewal.config);
                self.write(RENEWED);
                (Reply::Renewed(Renewed::default()), None)
            }
            Request::Health => {
                let (received_bytes, execs) =
                    (self.nic_bytes.load(Ordering::SeqCst), self.execs.load(Ordering::SeqCst));
                let (received_bytes, sent_bytes) = (Some(received_bytes), Some(0));
                (Reply::Health(Health { execs, received_bytes, sent_bytes, ..Health::default() }), None)
            }
            Request::Sync => {
                self.is_synced.store(true, Ordering::SeqCst);
                (Reply::Done { bytes: 0 }, None)
            }
            Request::Shutdown { how } => {
                (Reply::Done { bytes: 0 }, (self.behaviour != Behaviour::Stubborn).then_some(how))
            }
            other => panic!("not asked of this guest: {other:?}"),
        }
    }
}

/// What a guest leaves on its disk when it boots.
pub(crate) const BOOTED: &str = " booted";
/// What it leaves when it becomes another machine.
pub(crate) const RENEWED: &str = " renewed";

/// What comes before the answer.
fn put_content(out: &mut Vec<u8>, request: &Request, stream: u32, tag: Tag) {
    if *request == Request::Layer {
        encode(out, Head { kind: Kind::Data, channel: Channel::Output, stream }, LAYER, tag);
    }
}

fn put(out: &mut Vec<u8>, kind: Kind, stream: u32, message: &impl serde::Serialize, tag: Tag) {
    let head = Head { kind, channel: Channel::Input, stream };
    encode(out, head, &serde_json::to_vec(message).unwrap(), tag);
}

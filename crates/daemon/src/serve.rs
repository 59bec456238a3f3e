//! A daemon's life: from the lock to the last connection.

use std::os::unix::fs::PermissionsExt;
use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

use daemon::api::{About, Api, router};
use daemon::config::Config;
use daemon::supervise::spawn;
use daemon::{doctor, reconcile};
use tokio::net::UnixListener;
use tokio::signal::unix::{SignalKind, signal};
use tokio_util::sync::CancellationToken;

use crate::lock::{self, Claim};
use crate::setup::{Daemon, StartError, Surroundings, kvm_in_words, level, version, wire};

/// How long requests under way may take once the daemon is ending.
const DRAIN: Duration = Duration::from_secs(2);
/// A log of an earlier daemon beyond this is begun anew.
const LOG_BYTES_MAX: u64 = 8 << 20;

/// Runs until nobody needs the daemon.
pub(crate) async fn run(surroundings: Surroundings) -> Result<(), StartError> {
    let dirs = &surroundings.dirs;
    sys::fs::create_private_dir(&dirs.state)?;
    sys::fs::create_private_dir(&dirs.cache)?;
    surroundings.claim_run_dir()?;
    let (lock_file, socket) = (dirs.daemon_lock(), dirs.daemon_socket());
    let claimed = lock::claim(&lock_file, &socket);
    let held = match claimed.map_err(|source| StartError::Lock { path: lock_file, source })? {
        Claim::Ours(held) => held,
        Claim::Theirs => return Ok(()),
    };
    shorten_log(&dirs.daemon_log());
    let config = Config::load(&dirs.config_file())?;
    let qemu = surroundings.qemu();
    let resolved = surroundings.resolve(&config, qemu.kvm())?;
    tracing_subscriber::fmt()
        .with_max_level(level(resolved.log_level.value))
        .with_writer(std::io::stderr)
        .with_ansi(false)
        .with_target(false)
        // A log on a full disk loses lines; told of that on the same stream, the subscriber would panic.
        .log_internal_errors(false)
        .init();
    let idle_exit = resolved.idle_exit();
    let daemon = wire(&surroundings, config, qemu, &resolved)?;
    let waking = daemon.activity.begin();
    daemon.host.supervisors.adopt_all().await?;
    reconcile::sweep_boots(&daemon.host).await?;
    daemon.engine.recover().await?;
    // Whoever gets an answer may end the daemon the next moment.
    let told = told_to_end();
    let listener = listen(&socket)?;
    let shutdown = CancellationToken::new();
    let api = api(&surroundings, &daemon, shutdown.clone());
    let (activity, engine) = (daemon.activity.clone(), Arc::clone(&daemon.engine));
    background(daemon);
    drop(waking);
    tracing::info!(pid = std::process::id(), version = version().version, "listening at {}", socket.display());
    let drain = CancellationToken::new();
    let server = axum::serve(listener, router(api)).with_graceful_shutdown(drain.clone().cancelled_owned());
    let server = spawn("api", async move {
        if let Err(error) = server.await {
            tracing::error!(%error, "the API ended");
        }
    });
    let why = tokio::select! {
        () = activity.idle_for(idle_exit) => "idle",
        () = shutdown.cancelled() => "asked to",
        () = told => "told to by a signal",
    };
    tracing::info!("ending: {why}; VMs go on");
    engine.end_unasked().await;
    // New clients find no socket and start a daemon, which waits for the lock.
    sys::fs::remove_file(&socket)?;
    drain.cancel();
    if tokio::time::timeout(DRAIN, server).await.is_err() {
        tracing::debug!("requests under way are broken off");
    }
    drop(held);
    Ok(())
}

/// The log is this process's standard error; what grew too long under earlier daemons is cut off.
fn shorten_log(log: &Path) {
    let is_long = std::fs::metadata(log).is_ok_and(|meta| meta.len() > LOG_BYTES_MAX);
    if is_long && let Err(error) = std::fs::File::options().write(true).open(log).and_then(|file| file.set_len(0)) {
        tracing::warn!(%error, "the log cannot be shortened");
    }
}

fn listen(socket: &Path) -> Result<UnixListener, StartError> {
    // The lock is ours: whatever is there was left by a daemon that died.
    sys::fs::remove_file(socket)?;
    let failed = |source| StartError::Listen { path: socket.to_path_buf(), source };
    let listener = UnixListener::bind(socket).map_err(failed)?;
    // The directory is private already; the mode says so to whoever looks.
    let mode = std::fs::metadata(socket).map_err(failed)?.permissions().mode();
    if mode & 0o077 != 0 {
        sys::fs::set_mode(socket, 0o600)?;
    }
    Ok(listener)
}

fn api(surroundings: &Surroundings, daemon: &Daemon, shutdown: CancellationToken) -> Api {
    let (path, kvm, autostart) = (surroundings.path.clone(), daemon.kvm.clone(), daemon.host.autostart.clone());
    let (vmm, mode) = (daemon.vmm.clone(), daemon.mode.clone());
    let doctor = move |known| {
        let vmm = (mode.clone(), vmm.clone());
        doctor::report(&doctor::probe(known, &path, kvm_in_words(&kvm), vmm, autostart()))
    };
    Api {
        host: Arc::clone(&daemon.host),
        engine: Arc::clone(&daemon.engine),
        activity: daemon.activity.clone(),
        about: Arc::new(About {
            version: version(),
            socket: surroundings.dirs.daemon_socket(),
            started: sys::clock::monotonic(),
            doctor: Box::new(doctor),
            configuration: daemon.configuration.clone(),
            shutdown,
        }),
    }
}

/// What goes on beside requests: boots that guests ask for, what VMs' policies ask for, and the sweep.
fn background(daemon: Daemon) {
    let Daemon { host, engine, reboots, activity, .. } = daemon;
    spawn("idle VMs", reconcile::idle::keep_looking(Arc::clone(&engine)));
    spawn("restarts", reconcile::restart::keep_restarting(Arc::clone(&engine), activity.begin()));
    spawn("reboots", engine.serve_reboots(reboots));
    spawn("sweep", async move { reconcile::keep_sweeping(&host).await });
}

/// SIGTERM or SIGINT, from this call on.
fn told_to_end() -> impl Future<Output = ()> {
    let signals = (signal(SignalKind::terminate()), signal(SignalKind::interrupt()));
    async move {
        let (Ok(mut terminate), Ok(mut interrupt)) = signals else {
            tracing::warn!("signals cannot be waited for");
            return std::future::pending().await;
        };
        tokio::select! {
            _ = terminate.recv() => {}
            _ = interrupt.recv() => {}
        }
    }
}

//! Long work on files: on a thread of its own, with progress, ended by Ctrl-C between two pieces so that nothing half made
//! stays.

use std::io;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};

use wire::api::{ErrorCode, Unit};

use crate::cmd::App;
use crate::error::Failure;
use crate::progress::TICK;

/// Is told of the bytes that were gone through, and ends the work with an error.
pub(super) type Watch<'a> = dyn FnMut(u64) -> io::Result<()> + 'a;

/// Does `act` for `subject` and shows it as `stage`.
pub(super) async fn work<T: Send + 'static>(
    app: &App,
    subject: &str,
    stage: &str,
    act: impl FnOnce(&mut Watch<'_>) -> Result<T, Failure> + Send + 'static,
) -> Result<T, Failure> {
    let (done, stop) = (Arc::new(AtomicU64::new(0)), Arc::new(AtomicBool::new(false)));
    let (counted, told) = (Arc::clone(&done), Arc::clone(&stop));
    let mut worker = tokio::task::spawn_blocking(move || {
        act(&mut |bytes| {
            counted.fetch_add(bytes, Ordering::Relaxed);
            if told.load(Ordering::Relaxed) { Err(io::Error::other("interrupted")) } else { Ok(()) }
        })
    });
    let since = app.interrupts.start();
    let mut track = app.progress.track(subject);
    track.stage(stage);
    let ended = loop {
        tokio::select! {
            ended = &mut worker => break ended,
            () = tokio::time::sleep(TICK) => {
                stop.store(app.interrupts.after(since).is_some(), Ordering::Relaxed);
                track.amount(done.load(Ordering::Relaxed), None, Unit::Bytes);
                track.tick();
            }
        }
    };
    track.finish();
    match ended {
        Ok(Ok(made)) => Ok(made),
        Ok(Err(failure)) => {
            app.interrupts.check(since)?;
            Err(failure)
        }
        Err(_) => Err(Failure::new(ErrorCode::Internal, "a defect: a worker thread panicked")),
    }
}

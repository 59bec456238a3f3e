//! Operations, watched to their end: progress for the person who waits, Ctrl-C as a cancellation that is waited for.

use std::time::Duration;

use tokio::time::{Instant, MissedTickBehavior, interval, sleep};
use wire::api::{ApiError, Begun, ErrorCode, Operation, OperationEvent, OperationState, StepReport, StepState};
use wire::id::OpId;

use crate::client::{Answer, path};
use crate::cmd::App;
use crate::error::Failure;
use crate::interrupt::Since;
use crate::progress::{TICK, Track};

/// How long a lost daemon is looked for before the watch is given up; it resumes what it had begun.
const LOST_DAEMON_TIMEOUT: Duration = Duration::from_secs(30);

/// Between two looks for it.
const LOST_DAEMON_POLL: Duration = Duration::from_millis(200);

/// How long a watch must have lasted for its loss to be a new one.
const SETTLED: Duration = Duration::from_secs(5);

/// What Ctrl-C does to the operation that is watched.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum OnInterrupt {
    /// Cancels it and waits until it is unwound.
    Cancel,
    /// Leaves it alone: somebody else began it.
    Leave,
    /// Nothing: it must be finished.
    Ignore,
}

/// Begins an operation with `begin` and follows it to its end, saying what happens to `subject`.
///
/// # Errors
/// When it cannot be begun, fails or is cancelled.
pub(crate) async fn perform(
    app: &App,
    subject: &str,
    since: Since,
    begin: impl Future<Output = Result<Begun, Failure>>,
) -> Result<Begun, Failure> {
    app.interrupts.check(since)?;
    let mut track = app.progress.track(subject);
    let begun = app.interrupts.guard_twice(since, begin).await?;
    track.rename(&begun.subject);
    follow(app, &begun.operation, &mut track, since, OnInterrupt::Cancel).await?;
    track.finish();
    Ok(begun)
}

/// Follows an operation to its end.
///
/// # Errors
/// With its first cause when it did not succeed; when the daemon is lost for good; when a person gave up waiting.
pub(crate) async fn follow(
    app: &App,
    operation: &OpId,
    track: &mut Track,
    since: Since,
    on_interrupt: OnInterrupt,
) -> Result<Operation, Failure> {
    let mut asked_to_cancel = None;
    let mut lost_since: Option<Instant> = None;
    loop {
        let target = path("operations", operation.as_str(), "/events");
        let ended = match app.interrupts.guard_twice(since, app.client.stream(&target)).await {
            Ok(mut events) => {
                let began = Instant::now();
                let watched =
                    watch(app, operation, &mut events, track, since, on_interrupt, &mut asked_to_cancel).await;
                if began.elapsed() > SETTLED {
                    lost_since = None;
                }
                lost_since.get_or_insert_with(Instant::now);
                watched
            }
            Err(failure) => Err(failure),
        };
        match ended {
            Ok(Some(operation)) => {
                let ended = outcome(operation, asked_to_cancel);
                if matches!(ended, Err(Failure::Interrupted { .. })) {
                    track.end_stage();
                    track.note("cancelled; what was begun is undone");
                }
                return ended;
            }
            Ok(None) if lost_for(&mut lost_since) <= LOST_DAEMON_TIMEOUT => {}
            Ok(None) => return Err(cut_off(operation)),
            Err(failure) if failure.code() == Some(ErrorCode::DaemonUnavailable) => {
                if lost_for(&mut lost_since) > LOST_DAEMON_TIMEOUT {
                    return Err(failure);
                }
            }
            Err(failure) => return Err(failure),
        }
        track.stage("waiting for the daemon to come back");
        track.tick();
        let pause = async {
            sleep(LOST_DAEMON_POLL).await;
            Ok(())
        };
        app.interrupts.guard_twice(since, pause).await?;
    }
}

fn lost_for(lost_since: &mut Option<Instant>) -> Duration {
    lost_since.get_or_insert_with(Instant::now).elapsed()
}

fn cut_off(operation: &OpId) -> Failure {
    let message = format!("cannot follow {operation}: the daemon keeps breaking off");
    Failure::new(ErrorCode::DaemonUnavailable, message).hint("see its log: banger daemon status")
}

/// Reads events until the operation ends; none when the stream ends before.
async fn watch(
    app: &App,
    operation: &OpId,
    events: &mut Answer,
    track: &mut Track,
    since: Since,
    on_interrupt: OnInterrupt,
    cancelled: &mut Option<i32>,
) -> Result<Option<Operation>, Failure> {
    let mut ticks = interval(TICK);
    ticks.set_missed_tick_behavior(MissedTickBehavior::Skip);
    loop {
        let nth = if cancelled.is_some() { 2 } else { 1 };
        tokio::select! {
            biased;
            signal = app.interrupts.nth(since, nth), if on_interrupt != OnInterrupt::Ignore => {
                if on_interrupt == OnInterrupt::Leave {
                    return Err(Failure::Interrupted { signal });
                }
                if cancelled.is_some() {
                    app.out.note(&format!("the daemon goes on unwinding: banger op watch {operation}"));
                    return Err(Failure::Interrupted { signal });
                }
                *cancelled = Some(signal);
                track.stage("cancelling");
                track.note("cancelling; what was begun is being taken back");
                cancel(app, operation).await?;
            }
            _ = ticks.tick() => track.tick(),
            event = events.record::<OperationEvent>() => match event? {
                None => return Ok(None),
                Some(OperationEvent::Finished { operation }) => return Ok(Some(operation)),
                Some(event) => show(event, track),
            },
        }
    }
}

/// Asks for an operation to be cancelled; one that just ended needs no asking.
async fn cancel(app: &App, operation: &OpId) -> Result<(), Failure> {
    match app.client.delete::<Operation>(&path("operations", operation.as_str(), "")).await {
        Ok(_) => Ok(()),
        Err(failure) if failure.code() == Some(ErrorCode::WrongState) => Ok(()),
        Err(failure) => Err(failure),
    }
}

fn show(event: OperationEvent, track: &mut Track) {
    match event {
        OperationEvent::Step { step } => show_step(&step, track),
        OperationEvent::Progress { part: Some(part), done, total, .. } => {
            track.part(&part, done, total.unwrap_or(done))
        }
        OperationEvent::Progress { step, stage, part: None, done, total, unit } => {
            match stage {
                Some(stage) => track.stage(&stage),
                None => track.stage(&step),
            }
            track.amount(done, total, unit);
        }
        OperationEvent::Warning { message } => track.warn(&message),
        OperationEvent::Finished { .. } => {}
    }
}

fn show_step(step: &StepReport, track: &mut Track) {
    match step.state {
        StepState::Running => track.stage(&step.name),
        StepState::Undoing => track.stage(&format!("undo {}", step.name)),
        StepState::Succeeded | StepState::Failed | StepState::Undone | StepState::UndoFailed => track.end_stage(),
        StepState::Pending => {}
    }
}

/// What an ended operation means for whoever asked for it.
fn outcome(operation: Operation, cancelled: Option<i32>) -> Result<Operation, Failure> {
    let cause = |code, words: &str| {
        let message = format!("{} of {} {words}", operation.kind, operation.subject);
        let mut error = operation.error.clone().unwrap_or_else(|| ApiError::new(code, message));
        error.operation.get_or_insert_with(|| operation.id.clone());
        error
    };
    match operation.state {
        OperationState::Succeeded => Ok(operation),
        OperationState::Stuck => {
            let error = cause(ErrorCode::OperationFailed, "failed, and so did taking it back");
            Err(Failure::from(error).hint(format!("look at what is left: banger op show {}", operation.id)))
        }
        OperationState::Running | OperationState::Unwinding | OperationState::Unwound => {
            let error = cause(ErrorCode::OperationFailed, "failed");
            match cancelled {
                Some(signal) if error.code == ErrorCode::Cancelled => Err(Failure::Interrupted { signal }),
                _ => Err(error.into()),
            }
        }
    }
}

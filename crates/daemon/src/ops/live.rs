//! One operation as it can be watched: its steps, its last progress, its end.

use std::collections::{BTreeMap, VecDeque};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use tokio::sync::broadcast;
use tokio_util::sync::CancellationToken;
use wire::api::{Operation, OperationEvent, OperationState, StepReport, StepState, Unit};
use wire::id::VmId;

use crate::saga::{self, Edge, EdgeKind, Observer, Progress};

/// Events a slow watcher may be behind; one that is slower gets the present state again.
const EVENTS_BEHIND: usize = 256;
/// Least time between two progress events of one stage: people read no faster.
const PROGRESS_EVERY: Duration = Duration::from_millis(100);

/// An operation that is being driven.
pub(super) struct Live {
    pub(super) cancel: CancellationToken,
    vm: Option<VmId>,
    state: Mutex<State>,
    events: broadcast::Sender<OperationEvent>,
}

struct State {
    operation: Operation,
    /// The last of each part, and of the whole.
    progress: BTreeMap<Option<String>, (OperationEvent, Instant)>,
    warnings: Vec<String>,
    is_over: bool,
}

impl Live {
    pub(super) fn new(operation: Operation, vm: Option<VmId>) -> Arc<Live> {
        let (events, _) = broadcast::channel(EVENTS_BEHIND);
        let state = State { operation, progress: BTreeMap::new(), warnings: Vec::new(), is_over: false };
        Arc::new(Live { cancel: CancellationToken::new(), vm, state: Mutex::new(state), events })
    }

    fn state(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// The VM it holds.
    pub(super) fn vm(&self) -> Option<&VmId> {
        self.vm.as_ref()
    }

    /// As it stands.
    pub(super) fn operation(&self) -> Operation {
        self.state().operation.clone()
    }

    /// It ended.
    pub(super) fn finish(&self, operation: Operation) {
        let mut state = self.state();
        state.operation = operation.clone();
        state.is_over = true;
        self.publish(OperationEvent::Finished { operation });
    }

    /// Nobody watching is fine.
    fn publish(&self, event: OperationEvent) {
        drop(self.events.send(event));
    }

    /// The present state as events, and what follows it.
    fn snapshot(&self) -> (VecDeque<OperationEvent>, broadcast::Receiver<OperationEvent>) {
        let state = self.state();
        let begun = state.operation.steps.iter().filter(|step| step.state != StepState::Pending);
        let mut events: VecDeque<_> = begun.map(|step| OperationEvent::Step { step: step.clone() }).collect();
        events.extend(state.warnings.iter().map(|message| OperationEvent::Warning { message: message.clone() }));
        if state.is_over {
            events.push_back(OperationEvent::Finished { operation: state.operation.clone() });
        } else {
            events.extend(state.progress.values().map(|(event, _)| event.clone()));
        }
        (events, self.events.subscribe())
    }
}

impl Observer for Live {
    fn edge(&self, edge: &Edge) {
        let mut state = self.state();
        let operation = &mut state.operation;
        if matches!(edge.kind, EdgeKind::Failed { .. }) {
            operation.state = OperationState::Unwinding;
        }
        if let Some(step) = advance(&mut operation.steps, edge) {
            state.progress.clear();
            self.publish(OperationEvent::Step { step });
        }
    }

    fn progress(&self, step: &'static str, progress: Progress) {
        let event = OperationEvent::Progress {
            step: step.to_owned(),
            stage: progress.stage,
            part: progress.part.clone(),
            done: progress.done,
            total: progress.total,
            unit: match progress.unit {
                saga::Unit::Bytes => Unit::Bytes,
                saga::Unit::Percent => Unit::Percent,
                saga::Unit::Items => Unit::Items,
            },
        };
        let mut state = self.state();
        let now = sys::clock::monotonic();
        let is_complete = progress.total == Some(progress.done);
        if let Some((last, at)) = state.progress.get(&progress.part)
            && !is_complete
            && (progress.part.is_some() || stage_of(last) == stage_of(&event))
            && now.duration_since(*at) < PROGRESS_EVERY
        {
            return;
        }
        state.progress.insert(progress.part, (event.clone(), now));
        self.publish(event);
    }

    fn warning(&self, step: &'static str, message: &str) {
        tracing::warn!(step, message, "an operation warns");
        let mut state = self.state();
        state.warnings.push(message.to_owned());
        self.publish(OperationEvent::Warning { message: message.to_owned() });
    }
}

fn stage_of(event: &OperationEvent) -> Option<&String> {
    match event {
        OperationEvent::Progress { stage, .. } => stage.as_ref(),
        OperationEvent::Step { .. } | OperationEvent::Warning { .. } | OperationEvent::Finished { .. } => None,
    }
}

/// Takes `edge` into account and gives its step as it stands then.
fn advance(steps: &mut [StepReport], edge: &Edge) -> Option<StepReport> {
    let step = steps.iter_mut().find(|step| step.name == edge.step)?;
    match &edge.kind {
        EdgeKind::Started => {
            step.state = StepState::Running;
            step.started_at_ms.get_or_insert(edge.at_ms);
        }
        EdgeKind::Succeeded => {
            step.state = StepState::Succeeded;
            step.ended_at_ms = Some(edge.at_ms);
        }
        EdgeKind::Failed { .. } => {
            step.state = StepState::Failed;
            step.ended_at_ms = Some(edge.at_ms);
        }
        EdgeKind::UndoStarted => step.state = StepState::Undoing,
        EdgeKind::Undone => step.state = StepState::Undone,
        EdgeKind::UndoFailed { .. } => step.state = StepState::UndoFailed,
    }
    Some(step.clone())
}

/// The steps of an operation after `edges`.
pub(super) fn reports(names: &[impl AsRef<str>], edges: &[Edge]) -> Vec<StepReport> {
    let pending = |name: &str| StepReport {
        name: name.to_owned(),
        state: StepState::Pending,
        started_at_ms: None,
        ended_at_ms: None,
    };
    let mut steps: Vec<_> = names.iter().map(|name| pending(name.as_ref())).collect();
    for edge in edges {
        advance(&mut steps, edge);
    }
    steps
}

/// What happens to one operation, the present state first; ends after `Finished`.
pub struct Watch {
    queue: VecDeque<OperationEvent>,
    source: Option<(Arc<Live>, broadcast::Receiver<OperationEvent>)>,
}

impl Watch {
    pub(super) fn of_live(live: Arc<Live>) -> Watch {
        let (queue, receiver) = live.snapshot();
        Watch { queue, source: Some((live, receiver)) }
    }

    pub(super) fn of_ended(operation: Operation) -> Watch {
        let steps = operation.steps.iter().filter(|step| step.state != StepState::Pending);
        let mut queue: VecDeque<_> = steps.map(|step| OperationEvent::Step { step: step.clone() }).collect();
        queue.push_back(OperationEvent::Finished { operation });
        Watch { queue, source: None }
    }

    /// The next event; none after the last.
    pub async fn next(&mut self) -> Option<OperationEvent> {
        loop {
            if let Some(event) = self.queue.pop_front() {
                if matches!(event, OperationEvent::Finished { .. }) {
                    self.source = None;
                    self.queue.clear();
                }
                return Some(event);
            }
            let (live, receiver) = self.source.as_mut()?;
            match receiver.recv().await {
                Ok(event) => self.queue.push_back(event),
                Err(broadcast::error::RecvError::Lagged(_)) => {
                    let (queue, fresh) = live.snapshot();
                    self.queue = queue;
                    *receiver = fresh;
                }
                Err(broadcast::error::RecvError::Closed) => self.source = None,
            }
        }
    }

    /// The same as a stream.
    pub fn into_stream(self) -> impl futures_util::Stream<Item = OperationEvent> + Send {
        futures_util::stream::unfold(self, |mut watch| async move { watch.next().await.map(|event| (event, watch)) })
    }
}

//! How far a bundle is on its way into the cache.

use oci::{Digest, LayerState};

use crate::model::progress::{OnProgress, Progress};

/// Turns the reports about one file into those of an operation.
pub(super) struct Gauge<'a> {
    report: OnProgress<'a>,
}

impl<'a> Gauge<'a> {
    pub(super) fn new(report: OnProgress<'a>) -> Gauge<'a> {
        report(Progress::Stage("fetch bundle".into()));
        Gauge { report }
    }
}

impl oci::Progress for Gauge<'_> {
    fn layer(&self, _: &Digest, state: LayerState<'_>) {
        match state {
            LayerState::Coming { done_bytes, total_bytes } => {
                (self.report)(Progress::Bytes { done: done_bytes, total: Some(total_bytes) });
            }
            LayerState::Elsewhere => (self.report)(Progress::Stage("wait for another pull of the same".into())),
            LayerState::Retrying { cause, pause } => {
                let pause_ms = u64::try_from(pause.as_millis()).unwrap_or(u64::MAX);
                let stage = format!("again in {}: {cause}", wire::duration::human(pause_ms));
                (self.report)(Progress::Stage(stage.into()));
            }
            LayerState::Cached | LayerState::Done => {}
        }
    }
}

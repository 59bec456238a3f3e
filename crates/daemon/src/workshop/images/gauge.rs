//! How far a pull is, as one line: layers that are here, bytes of all of them.

use std::collections::HashMap;
use std::sync::{Mutex, PoisonError};

use oci::manifest::Descriptor;
use oci::{Digest, LayerState};

use crate::model::progress::{OnProgress, Progress};

/// Turns the reports of a pull's layers into those of an operation.
pub(super) struct Gauge<'a> {
    report: OnProgress<'a>,
    layers: Mutex<HashMap<Digest, Layer>>,
}

/// How it stands with one layer.
#[derive(Debug, Clone, Copy)]
struct Layer {
    bytes: u64,
    done_bytes: u64,
    is_here: bool,
}

impl<'a> Gauge<'a> {
    pub(super) fn new(report: OnProgress<'a>) -> Gauge<'a> {
        Gauge { report, layers: Mutex::default() }
    }

    fn tell(&self, stage: Option<String>) {
        let layers = self.layers.lock().unwrap_or_else(PoisonError::into_inner);
        let here = layers.values().filter(|layer| layer.is_here).count();
        let (done, total) =
            layers.values().fold((0, 0), |(done, total), layer| (done + layer.done_bytes, total + layer.bytes));
        let stage = stage.unwrap_or_else(|| format!("fetch layers, {here} of {} here", layers.len()));
        drop(layers);
        (self.report)(Progress::Stage(stage.into()));
        (self.report)(Progress::Bytes { done, total: Some(total) });
    }
}

impl oci::Progress for Gauge<'_> {
    fn layers(&self, layers: &[Descriptor]) {
        let new = |layer: &Descriptor| (layer.digest, Layer { bytes: layer.size, done_bytes: 0, is_here: false });
        *self.layers.lock().unwrap_or_else(PoisonError::into_inner) = layers.iter().map(new).collect();
        self.tell(None);
    }

    fn layer(&self, layer: &Digest, state: LayerState<'_>) {
        let short = layer.hex()[..12].to_owned();
        let stage = match state {
            LayerState::Elsewhere => Some(format!("wait for another pull of layer {short}")),
            LayerState::Retrying { cause, pause } => {
                Some(format!("layer {short} again in {}: {cause}", wire::duration::human(pause.as_millis() as u64)))
            }
            LayerState::Coming { .. } | LayerState::Cached | LayerState::Done => None,
        };
        if let Some(known) = self.layers.lock().unwrap_or_else(PoisonError::into_inner).get_mut(layer) {
            match state {
                LayerState::Coming { done_bytes, .. } => known.done_bytes = done_bytes,
                LayerState::Cached | LayerState::Done => {
                    known.done_bytes = known.bytes;
                    known.is_here = true;
                }
                LayerState::Elsewhere | LayerState::Retrying { .. } => {}
            }
        }
        self.tell(stage);
    }

    fn archive(&self, done_bytes: u64, total_bytes: Option<u64>) {
        (self.report)(Progress::Stage("read archive".into()));
        (self.report)(Progress::Bytes { done: done_bytes, total: total_bytes });
    }
}

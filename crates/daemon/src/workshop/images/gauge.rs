//! How far a pull is: layers that are here, bytes of all of them, and of each that comes.

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

    /// Takes a report into account; gives what moved.
    fn note(&self, layer: &Digest, state: LayerState<'_>) -> Option<Layer> {
        let mut layers = self.layers.lock().unwrap_or_else(PoisonError::into_inner);
        let known = layers.get_mut(layer)?;
        match state {
            LayerState::Coming { done_bytes, .. } => known.done_bytes = done_bytes,
            LayerState::Cached | LayerState::Done => {
                known.done_bytes = known.bytes;
                known.is_here = true;
            }
            LayerState::Elsewhere | LayerState::Retrying { .. } => return None,
        }
        Some(*known)
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
        let now = self.note(layer, state);
        self.tell(stage);
        if let Some(now) = now {
            (self.report)(Progress::Part { name: short, done: now.done_bytes, total: now.bytes });
        }
    }

    fn archive(&self, done_bytes: u64, total_bytes: Option<u64>) {
        (self.report)(Progress::Stage("read archive".into()));
        (self.report)(Progress::Bytes { done: done_bytes, total: total_bytes });
    }
}

#[cfg(test)]
mod tests {
    use oci::Progress as _;

    use super::*;

    #[test]
    fn each_layer_is_told_and_all_of_them() {
        let told = Mutex::new(Vec::new());
        let report = |progress: Progress| {
            told.lock().unwrap().push(match progress {
                Progress::Stage(stage) => stage.into_owned(),
                Progress::Bytes { done, total } => format!("{done} of {}", total.unwrap()),
                Progress::Part { name, done, total } => format!("{name}: {done} of {total}"),
                Progress::Percent(percent) => panic!("{percent} % of what?"),
            });
        };
        let layer = |text: &str, size| Descriptor {
            media_type: "application/vnd.oci.image.layer.v1.tar".to_owned(),
            digest: Digest::of(text.as_bytes()),
            size,
            platform: None,
            annotations: None,
        };
        let (one, two) = (layer("one", 100), layer("two", 50));
        let gauge = Gauge::new(&report);
        gauge.layers(&[one.clone(), two.clone()]);
        gauge.layer(&one.digest, LayerState::Cached);
        gauge.layer(&two.digest, LayerState::Coming { done_bytes: 20, total_bytes: 50 });
        let short = |layer: &Descriptor| layer.digest.hex()[..12].to_owned();
        assert_eq!(
            *told.lock().unwrap(),
            [
                "fetch layers, 0 of 2 here".to_owned(),
                "0 of 150".to_owned(),
                "fetch layers, 1 of 2 here".to_owned(),
                "100 of 150".to_owned(),
                format!("{}: 100 of 100", short(&one)),
                "fetch layers, 1 of 2 here".to_owned(),
                "120 of 150".to_owned(),
                format!("{}: 20 of 50", short(&two)),
            ]
        );
    }
}

//! What goes on while a person waits, on standard error.
//!
//! | standard error | what is shown |
//! |---|---|
//! | a terminal | one line that moves: a bar with sizes and rates where there is an amount, else the stage and its time; a stage of over a second leaves a line behind; below it a line for each of several things that go on at once |
//! | something else | one plain line for each stage of over a second, its seconds at the end |
//! | `--quiet` | nothing but warnings |

use std::cell::RefCell;
use std::collections::BTreeMap;
use std::rc::Rc;
use std::time::{Duration, Instant};

use indicatif::{MultiProgress, ProgressBar, ProgressDrawTarget, ProgressStyle};
use wire::api::Unit;

use crate::clock;
use crate::output::{self, Output, printable};
use crate::table::elapsed;

/// How long something may take before a moving line is drawn.
const PATIENCE: Duration = Duration::from_millis(300);

/// How long a stage must last to be worth a line.
const NOTEWORTHY: Duration = Duration::from_secs(1);

/// Most lines for things that go on at once.
const PARTS_SHOWN: usize = 8;

/// How often [`Track::tick`] wants to be called.
pub(crate) const TICK: Duration = Duration::from_millis(100);

/// Where progress goes; one for each command.
#[derive(Debug, Clone)]
pub(crate) struct Progress {
    output: Output,
    mode: Mode,
}

#[derive(Debug, Clone)]
enum Mode {
    Quiet,
    Plain(Rc<RefCell<Open>>),
    Live(MultiProgress),
}

/// Which stage's line is begun and not ended, in the plain form.
#[derive(Debug, Default)]
struct Open(Option<String>);

/// The progress of one thing.
#[derive(Debug)]
pub(crate) struct Track {
    progress: Progress,
    subject: String,
    began: Instant,
    stage: Option<Stage>,
    bar: Option<ProgressBar>,
    parts: BTreeMap<String, ProgressBar>,
}

#[derive(Debug)]
struct Stage {
    label: String,
    began: Instant,
    amount: Option<Amount>,
}

#[derive(Debug, Clone, Copy, PartialEq)]
struct Amount {
    done: u64,
    total: Option<u64>,
    unit: Unit,
}

impl Progress {
    /// As standard error and `output` want it.
    pub(crate) fn new(output: Output) -> Progress {
        let mode = if output.quiet {
            Mode::Quiet
        } else if output::stderr_is_terminal() {
            Mode::Live(MultiProgress::with_draw_target(ProgressDrawTarget::stderr_with_hz(10)))
        } else {
            Mode::Plain(Rc::default())
        };
        Progress { output, mode }
    }

    /// Begins to follow `subject`.
    pub(crate) fn track(&self, subject: &str) -> Track {
        Track {
            progress: self.clone(),
            subject: printable(subject),
            began: clock::now(),
            stage: None,
            bar: None,
            parts: BTreeMap::new(),
        }
    }

    /// Says a line between whatever moves.
    fn say(&self, say: impl FnOnce(Output)) {
        match &self.mode {
            Mode::Quiet => say(self.output),
            Mode::Plain(open) => {
                if open.borrow_mut().0.take().is_some() {
                    output::fragment("\n");
                }
                say(self.output);
            }
            Mode::Live(bars) => above(bars, || say(self.output)),
        }
    }
}

impl Track {
    /// What is followed turned out to be called `subject`.
    pub(crate) fn rename(&mut self, subject: &str) {
        self.subject = printable(subject);
    }

    /// A new stage; the one before is over.
    pub(crate) fn stage(&mut self, label: &str) {
        let label = printable(label).replace('_', " ");
        if self.stage.as_ref().is_some_and(|stage| stage.label == label) {
            return;
        }
        self.end_stage();
        self.stage = Some(Stage { label, began: clock::now(), amount: None });
        self.tick();
    }

    /// How far the stage is.
    pub(crate) fn amount(&mut self, done: u64, total: Option<u64>, unit: Unit) {
        if let Some(stage) = &mut self.stage {
            stage.amount = Some(Amount { done, total, unit });
        }
    }

    /// How far one of several things is that go on at once. It has a line until it is done, on a terminal.
    pub(crate) fn part(&mut self, name: &str, done: u64, total: u64) {
        let Mode::Live(bars) = &self.progress.mode else { return };
        if done >= total {
            if let Some(bar) = self.parts.remove(name) {
                bar.finish_and_clear();
                bars.remove(&bar);
            }
            return;
        }
        let is_due = clock::now().duration_since(self.began) >= PATIENCE && self.parts.len() < PARTS_SHOWN;
        if let Some(bar) = self.parts.get(name) {
            bar.set_position(done);
        } else if is_due {
            let style = ProgressStyle::with_template("  {msg} [{bar:20}] {bytes}/{total_bytes}");
            let bar = bars.add(ProgressBar::new(total).with_message(printable(name)));
            bar.set_style(style.expect("the template is well formed").progress_chars("=> "));
            bar.set_position(done);
            self.parts.insert(name.to_owned(), bar);
        }
    }

    /// `future`, with what moves drawn while it goes on.
    pub(crate) async fn during<T>(&mut self, future: impl Future<Output = T>) -> T {
        let mut future = std::pin::pin!(future);
        loop {
            tokio::select! {
                result = &mut future => return result,
                () = tokio::time::sleep(TICK) => self.tick(),
            }
        }
    }

    /// A warning, on a line of its own.
    pub(crate) fn warn(&self, message: &str) {
        let line = format!("{}: {message}", self.subject);
        self.progress.say(|output| output.warn(&line));
    }

    /// A remark, on a line of its own.
    pub(crate) fn note(&self, message: &str) {
        let line = format!("{}: {message}", self.subject);
        self.progress.say(|output| output.note(&line));
    }

    /// The stage is over.
    pub(crate) fn end_stage(&mut self) {
        let Some(stage) = self.stage.take() else { return };
        let took = clock::now().duration_since(stage.began);
        if took < NOTEWORTHY {
            return;
        }
        let line = format!("{}: {} {}", self.subject, stage.label, elapsed(took));
        match &self.progress.mode {
            Mode::Quiet => {}
            Mode::Plain(open) => {
                let begun = open.borrow_mut().0.take();
                match begun {
                    Some(begun) if begun == self.line_start(&stage.label) => {
                        output::fragment(&format!("{}\n", elapsed(took)))
                    }
                    Some(_) => output::fragment(&format!("\n{line}\n")),
                    None => self.progress.output.note(&line),
                }
            }
            Mode::Live(bars) => above(bars, || self.progress.output.aside(&line)),
        }
    }

    /// Everything is over: what moved is gone.
    pub(crate) fn finish(mut self) {
        self.rest();
    }

    /// Nothing moves until the next stage: something else is printed now.
    pub(crate) fn rest(&mut self) {
        self.end_stage();
        self.clear();
    }

    fn clear(&mut self) {
        let parts = std::mem::take(&mut self.parts).into_values();
        for bar in parts.chain(self.bar.take()) {
            bar.finish_and_clear();
            if let Mode::Live(bars) = &self.progress.mode {
                bars.remove(&bar);
            }
        }
    }

    fn line_start(&self, label: &str) -> String {
        format!("{}: {label} ... ", self.subject)
    }

    /// Draws what moves.
    pub(crate) fn tick(&mut self) {
        let Some(stage) = &self.stage else { return };
        let now = clock::now();
        match &self.progress.mode {
            Mode::Quiet => {}
            Mode::Plain(open) => {
                let free = open.borrow().0.is_none();
                if free && now.duration_since(stage.began) >= NOTEWORTHY {
                    let start = self.line_start(&stage.label);
                    output::fragment(&start);
                    open.borrow_mut().0 = Some(start);
                }
            }
            Mode::Live(bars) => {
                if now.duration_since(self.began) < PATIENCE {
                    return;
                }
                let bar = self.bar.get_or_insert_with(|| bars.add(ProgressBar::new_spinner()));
                draw(bar, &self.subject, stage, now);
            }
        }
    }
}

impl Drop for Track {
    fn drop(&mut self) {
        self.clear();
        // A line that was begun and is given up still ends.
        if let (Mode::Plain(open), Some(stage)) = (&self.progress.mode, &self.stage)
            && open.borrow_mut().0.take_if(|begun| *begun == self.line_start(&stage.label)).is_some()
        {
            output::fragment("\n");
        }
    }
}

/// Says something above what moves. A terminal that hung up is none any more: indicatif would panic over its EIO, and
/// nothing begun would be taken back.
fn above(bars: &MultiProgress, say: impl FnOnce()) {
    if output::stderr_is_terminal() {
        bars.suspend(say);
    }
}

fn draw(bar: &ProgressBar, subject: &str, stage: &Stage, now: Instant) {
    // First, because each of the settings below may draw.
    bar.set_message(format!("{subject}: {} {}", stage.label, elapsed(now.duration_since(stage.began))));
    let template = match stage.amount {
        Some(Amount { total: Some(_), unit: Unit::Bytes, .. }) => {
            "{spinner} {msg} [{bar:20}] {bytes}/{total_bytes} {bytes_per_sec}"
        }
        Some(Amount { total: None, unit: Unit::Bytes, .. }) => "{spinner} {msg} {bytes} {bytes_per_sec}",
        Some(Amount { unit: Unit::Percent, .. }) => "{spinner} {msg} [{bar:20}] {percent} %",
        Some(Amount { total: Some(_), unit: Unit::Items, .. }) => "{spinner} {msg} [{bar:20}] {pos}/{len}",
        Some(Amount { total: None, unit: Unit::Items, .. }) => "{spinner} {msg} {pos}",
        None => "{spinner} {msg}",
    };
    let style = ProgressStyle::with_template(template).expect("the templates above are well formed");
    bar.set_style(style.progress_chars("=> ").tick_chars("-\\|/ "));
    if let Some(amount) = stage.amount {
        let total = if amount.unit == Unit::Percent { Some(100) } else { amount.total };
        match total {
            Some(total) => bar.set_length(total),
            None => bar.unset_length(),
        }
        if amount.done < bar.position() {
            bar.reset();
        }
        bar.set_position(amount.done);
    }
    bar.tick();
}

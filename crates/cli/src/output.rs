//! The only printer: records on standard output, everything else on standard error.
//!
//! Text that came from a guest goes through [`printable`] before a terminal sees it. Colour is anstream's business:
//! only on a terminal, never with `NO_COLOR`.

use std::io::{self, IsTerminal, Write};

use anstyle::{AnsiColor, Style};
use clap::ValueEnum;
use rustix::fs::FileType;
use serde::Serialize;
use wire::api::{ApiError, ErrorBody, ErrorCode};

use crate::error::{Failure, Io};

/// How records are printed. (Comments on the variants are no docs: `--help` would show them.)
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, ValueEnum)]
pub(crate) enum Format {
    // For people.
    #[default]
    Table,
    // One document, failures included.
    Json,
    // One name a line.
    Name,
}

/// Where a guest's output goes.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Outlet {
    /// Each stream to ours.
    Own,
    /// All of it to standard error.
    Error,
    /// Nowhere.
    None,
}

/// What every colour begins with.
const ESCAPE: char = '\x1b';

const DIM: Style = Style::new().dimmed();
const ALARM: Style = AnsiColor::Red.on_default().bold();
const CAUTION: Style = AnsiColor::Yellow.on_default().bold();

/// Prints for one command.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Output {
    /// How records are printed.
    pub(crate) format: Format,
    /// Whether remarks stay unsaid.
    pub(crate) quiet: bool,
}

impl Output {
    /// Writes `text` to standard output as it is.
    pub(crate) fn text(self, text: &str) -> Result<(), Failure> {
        let write = |out: &mut dyn Write| out.write_all(text.as_bytes()).and_then(|()| out.flush());
        // Looking for colours to take away is slow; most text has none.
        let has_colours = text.contains(ESCAPE);
        let written = if has_colours { write(&mut anstream::stdout().lock()) } else { write(&mut io::stdout().lock()) };
        written.map_err(stdout_failed)
    }

    /// Writes a line to standard output.
    pub(crate) fn line(self, line: &str) -> Result<(), Failure> {
        self.text(&format!("{line}\n"))
    }

    /// Writes `record` to standard output as JSON.
    pub(crate) fn json<T: Serialize>(self, record: &T) -> Result<(), Failure> {
        let text = serde_json::to_string_pretty(record).expect("records are plain data");
        let mut out = io::stdout().lock();
        writeln!(out, "{text}").and_then(|()| out.flush()).map_err(stdout_failed)
    }

    /// Prints `record` as the format asks: `table` and `name` are made only when wanted.
    pub(crate) fn record<T: Serialize>(
        self,
        record: &T,
        table: impl FnOnce(&T) -> String,
        name: impl FnOnce(&T) -> String,
    ) -> Result<(), Failure> {
        match self.format {
            Format::Json => self.json(record),
            Format::Table => self.text(&table(record)),
            Format::Name => self.text(&name(record)),
        }
    }

    /// Says something on standard error, unless quiet.
    pub(crate) fn note(self, line: &str) {
        if !self.quiet {
            complain(&format!("{}\n", printable(line)));
        }
    }

    /// The same, less loudly.
    pub(crate) fn aside(self, line: &str) {
        if !self.quiet {
            complain(&format!("{DIM}{}{DIM:#}\n", printable(line)));
        }
    }

    /// Warns on standard error, quiet or not.
    pub(crate) fn warn(self, line: &str) {
        complain(&format!("banger: {CAUTION}warning:{CAUTION:#} {}\n", printable(line)));
    }

    /// Tells a failure: on standard output too when the format is JSON.
    pub(crate) fn error(self, error: &ApiError) {
        if self.format == Format::Json {
            // Nobody may be left to read it; the exit status still says it.
            drop(self.json(&ErrorBody { error: error.clone() }));
        }
        self.tell(error);
    }

    /// Tells a failure on standard error only.
    pub(crate) fn tell(self, error: &ApiError) {
        let mut text = format!("{ALARM}banger:{ALARM:#} {}", printable_lines(&error.message));
        if let Some(operation) = &error.operation {
            text.push_str(&format!(" {DIM}({operation}){DIM:#}"));
        }
        text.push('\n');
        for line in error.hint.iter().flat_map(|hint| hint.lines()) {
            text.push_str(&format!("hint: {}\n", printable(line)));
        }
        complain(&text);
    }
}

/// Writes to standard error; when that is gone there is nobody to tell.
fn complain(text: &str) {
    drop(anstream::stderr().lock().write_all(text.as_bytes()));
}

/// Writes a piece of a line to standard error.
pub(crate) fn fragment(text: &str) {
    complain(text);
}

/// Writes a message of clap's, which knows which stream it is for.
pub(crate) fn usage(error: &clap::Error) -> Result<(), Failure> {
    error.print().map_err(stdout_failed)
}

/// Writes bytes to standard output as they are.
pub(crate) fn raw(bytes: &[u8]) -> Result<(), Failure> {
    let mut out = io::stdout().lock();
    out.write_all(bytes).and_then(|()| out.flush()).map_err(stdout_failed)
}

/// Whether standard output is a terminal.
pub(crate) fn stdout_is_terminal() -> bool {
    io::stdout().is_terminal()
}

/// Whether a person looks at standard output, or something that wants colours as one does.
pub(crate) fn stdout_is_shown() -> bool {
    stdout_is_terminal() || anstream::stdout().current_choice() != anstream::ColorChoice::Never
}

/// Whether what was written to standard output is safe now: a file is made durable, whatever reads a pipe has it. A device
/// keeps nothing.
pub(crate) fn stdout_keeps() -> Result<bool, Failure> {
    let stdout = io::stdout();
    let stat = rustix::fs::fstat(&stdout).map_err(|errno| stdout_failed(errno.into()))?;
    match FileType::from_raw_mode(stat.st_mode) {
        FileType::RegularFile => {
            rustix::fs::fdatasync(&stdout).map_err(|errno| stdout_failed(errno.into()))?;
            Ok(true)
        }
        FileType::Fifo | FileType::Socket => Ok(true),
        _ => Ok(false),
    }
}

/// Whether standard error is a terminal.
pub(crate) fn stderr_is_terminal() -> bool {
    io::stderr().is_terminal()
}

/// What a failed write to standard output means.
pub(crate) fn stdout_failed(error: io::Error) -> Failure {
    if error.kind() == io::ErrorKind::BrokenPipe {
        return Failure::OutputClosed;
    }
    Failure::new(ErrorCode::Exhausted, format!("cannot write to standard output: {}", Io(error)))
}

/// `text` on one line and without anything a terminal would act on: control characters become `\x1b` and the like, so
/// do the marks that turn the direction of writing (Unicode Standard Annex 9).
pub(crate) fn printable(text: &str) -> String {
    escape(text, |_| false)
}

/// The same, line ends and tabs kept.
pub(crate) fn printable_lines(text: &str) -> String {
    escape(text, |letter| matches!(letter, '\n' | '\t'))
}

fn escape(text: &str, keep: impl Fn(char) -> bool) -> String {
    let mut escaped = String::with_capacity(text.len());
    for letter in text.chars() {
        match letter {
            _ if keep(letter) => escaped.push(letter),
            '\u{202a}'..='\u{202e}' | '\u{2066}'..='\u{2069}' | '\u{200e}' | '\u{200f}' => {
                escaped.push_str(&format!("\\u{{{:x}}}", u32::from(letter)));
            }
            _ if letter.is_control() => escaped.push_str(&format!("\\x{:02x}", u32::from(letter))),
            _ => escaped.push(letter),
        }
    }
    escaped
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_terminal_is_not_driven_by_a_guest() {
        assert_eq!(printable("a\x1b[31mb\nc\u{9b}d\u{202e}e\x7f"), "a\\x1b[31mb\\x0ac\\x9bd\\u{202e}e\\x7f");
        assert_eq!(printable_lines("a\tb\nc\rd"), "a\tb\nc\\x0dd");
        assert_eq!(printable("grüße"), "grüße");
    }
}

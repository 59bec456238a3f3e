//! The terminal on standard input: its size, raw mode, and the promise that it is given back as it was found.
//!
//! [`RawMode`] restores on drop. A panic aborts without dropping, so [`restore`] also runs in the panic hook; the signals
//! that end a process are caught by whoever holds the guard.

use std::io::{IsTerminal, stdin};
use std::sync::Mutex;

use rustix::termios::{OptionalActions, Termios, tcgetattr, tcgetpgrp, tcgetwinsize, tcsetattr};
use wire::agent::message::TerminalSize;

use crate::error::Io;
use crate::settings::variable;

/// What a terminal that does not tell its size is taken for.
const SIZE_UNKNOWN: TerminalSize = TerminalSize { rows: 24, cols: 80 };

/// Terminals that a guest can be expected to know (Debian's ncurses-base). One it does not know is none to its programs;
/// all of today's are close enough to xterm-256color, which it takes others for.
const KNOWN: [&str; 14] = [
    "ansi",
    "dumb",
    "linux",
    "rxvt",
    "screen",
    "screen-256color",
    "tmux",
    "tmux-256color",
    "vt100",
    "vt220",
    "xterm",
    "xterm-256color",
    "xterm-color",
    "xterm-mono",
];

/// The modes to go back to, while raw mode is on.
static FOUND: Mutex<Option<Termios>> = Mutex::new(None);

/// The terminal cannot be used.
#[derive(Debug, thiserror::Error)]
#[error("cannot {act} the terminal")]
pub(crate) struct TerminalError {
    act: &'static str,
    #[source]
    source: Io,
}

/// Raw mode, until dropped.
#[derive(Debug)]
pub(crate) struct RawMode(());

impl RawMode {
    /// Switches the terminal on standard input to raw mode (termios(3), `cfmakeraw`).
    ///
    /// # Errors
    /// When it is no terminal or refuses.
    pub(crate) fn enter() -> Result<RawMode, TerminalError> {
        let found = tcgetattr(stdin()).map_err(|e| TerminalError { act: "read the modes of", source: e.into() })?;
        *FOUND.lock().unwrap_or_else(std::sync::PoisonError::into_inner) = Some(found);
        let raw = RawMode(());
        raw.again()?;
        Ok(raw)
    }

    /// Switches to raw mode once more, after the process was stopped and continued.
    ///
    /// # Errors
    /// When the terminal refuses.
    pub(crate) fn again(&self) -> Result<(), TerminalError> {
        let modes = FOUND.lock().unwrap_or_else(std::sync::PoisonError::into_inner).clone();
        let Some(mut modes) = modes else { return Ok(()) };
        modes.make_raw();
        tcsetattr(stdin(), OptionalActions::Now, &modes)
            .map_err(|e| TerminalError { act: "set the modes of", source: e.into() })
    }
}

impl Drop for RawMode {
    fn drop(&mut self) {
        restore();
    }
}

/// Gives the terminal back as it was found; does nothing when it was not taken. Never blocks.
pub(crate) fn restore() {
    if let Ok(mut found) = FOUND.try_lock()
        && let Some(modes) = found.take()
    {
        // A terminal that is gone needs no restoring.
        let _ = tcsetattr(stdin(), OptionalActions::Now, &modes);
    }
}

/// Whether a person types on standard input.
pub(crate) fn stdin_is_terminal() -> bool {
    stdin().is_terminal()
}

/// Whether standard input may be read without being stopped for it: a background job must not touch its terminal
/// (termios(3), `SIGTTIN`).
pub(crate) fn stdin_may_be_read() -> bool {
    !stdin_is_terminal() || tcgetpgrp(stdin()).is_ok_and(|group| group == rustix::process::getpgrp())
}

/// Says in a command's `env` which terminal this is, unless that was said already.
pub(crate) fn name(env: &mut Vec<(String, String)>) {
    let here = |name| variable(name).and_then(|value| value.into_string().ok()).filter(|value| !value.is_empty());
    let term = here("TERM").filter(|term| KNOWN.contains(&term.as_str()));
    for (name, value) in [("TERM", term), ("COLORTERM", here("COLORTERM"))] {
        if let Some(value) = value
            && !env.iter().any(|(set, _)| set == name)
        {
            env.push((name.to_owned(), value));
        }
    }
}

/// The terminal's size.
pub(crate) fn size() -> TerminalSize {
    let size = tcgetwinsize(std::io::stdout()).or_else(|_| tcgetwinsize(stdin()));
    match size {
        Ok(size) if size.ws_row > 0 && size.ws_col > 0 => TerminalSize { rows: size.ws_row, cols: size.ws_col },
        _ => SIZE_UNKNOWN,
    }
}

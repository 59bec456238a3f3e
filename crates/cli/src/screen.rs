//! A terminal taken over whole for a page that is shown again and again, and given back as it was.

use std::time::Duration;

use rustix::event::{PollFd, PollFlags, Timespec, poll};
use tokio::sync::mpsc;
use wire::agent::message::TerminalSize;

use crate::error::Failure;
use crate::output::raw;
use crate::terminal::{self, RawMode};

/// Another screen, without the cursor (xterm control sequences, "DEC Private Mode Set").
const ENTER: &[u8] = b"\x1b[?1049h\x1b[?25l\x1b[2J";
/// The one from before, with it.
const LEAVE: &[u8] = b"\x1b[?25h\x1b[?1049l";

/// What a person pressed.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Key {
    /// `q`, Ctrl-C, Ctrl-D, or there is no keyboard any more.
    End,
    /// Anything else: show it now.
    Other,
}

/// The terminal, until dropped.
pub(crate) struct Screen {
    keys: mpsc::UnboundedReceiver<Key>,
    /// None when standard input is no terminal: then signals end the page.
    raw: Option<RawMode>,
}

impl Screen {
    /// Takes the terminal over.
    ///
    /// # Errors
    /// When it refuses.
    pub(crate) fn open() -> Result<Screen, Failure> {
        let (sender, keys) = mpsc::unbounded_channel();
        let raw_mode = terminal::stdin_is_terminal().then(RawMode::enter).transpose()?;
        if raw_mode.is_some() {
            // Ends with the page: nobody receives then.
            tokio::task::spawn_blocking(move || read_keys(&sender));
        }
        raw(ENTER)?;
        Ok(Screen { keys, raw: raw_mode })
    }

    /// Shows `page`, as much of it as fits.
    ///
    /// # Errors
    /// When the terminal is gone.
    pub(crate) fn show(&mut self, page: &str, size: TerminalSize) -> Result<(), Failure> {
        let mut text = String::from("\x1b[H");
        for (index, line) in page.lines().take(usize::from(size.rows)).enumerate() {
            if index > 0 {
                text.push_str("\r\n");
            }
            text.extend(line.chars().take(usize::from(size.cols)));
            text.push_str("\x1b[K");
        }
        text.push_str("\x1b[J");
        raw(text.as_bytes())
    }

    /// Waits for a key. Cancel-safe.
    pub(crate) async fn key(&mut self) -> Key {
        if self.raw.is_none() {
            return std::future::pending().await;
        }
        self.keys.recv().await.unwrap_or(Key::End)
    }
}

impl Drop for Screen {
    fn drop(&mut self) {
        // A terminal that is gone needs no restoring.
        drop(raw(LEAVE));
    }
}

/// How long the reader of keys may notice late that nobody wants them any more.
const LISTEN: Duration = Duration::from_millis(100);

fn read_keys(keys: &mpsc::UnboundedSender<Key>) {
    let patience = Timespec { tv_sec: 0, tv_nsec: i64::from(LISTEN.subsec_nanos()) };
    while !keys.is_closed() {
        let stdin = rustix::stdio::stdin();
        match poll(&mut [PollFd::new(&stdin, PollFlags::IN)], Some(&patience)) {
            Ok(0) | Err(rustix::io::Errno::INTR) => continue,
            Ok(_) => {}
            Err(_) => return,
        }
        let mut bytes = [0; 64];
        let Ok(count @ 1..) = rustix::io::read(stdin, &mut bytes) else {
            return;
        };
        let is_end = bytes.iter().take(count).any(|byte| matches!(byte, b'q' | b'Q' | 3 | 4));
        if keys.send(if is_end { Key::End } else { Key::Other }).is_err() {
            return;
        }
    }
}

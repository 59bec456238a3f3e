//! Words of a guest, made fit to be kept and shown: bounded in length and number, without control characters that a
//! terminal would obey.

use wire::agent::message::{Configured, Event, Failure, FileStat, Health, Hello, LISTENERS_MAX, Readiness, Reply};
use wire::agent::renewal::Renewed;
use wire::agent::session::{COMMAND_LEN_MAX, NAME_LEN_MAX, SESSIONS_MAX, SessionRecord, SessionReply};
use wire::api::plain;

/// Most characters of a name or a version.
const NAME_CHARS: usize = 128;
/// Most characters of a sentence.
const LINE_CHARS: usize = 1024;
/// Most characters of a path: `PATH_MAX`.
const PATH_CHARS: usize = 4096;
/// Most entries of a list.
const ENTRIES: usize = 256;

/// At most `chars` characters of `text` on one line; control characters become the replacement character.
#[must_use]
pub fn line(text: &str, chars: usize) -> String {
    let clean = |c: char| if c.is_control() { char::REPLACEMENT_CHARACTER } else { c };
    let mut out: String = text.chars().take(chars).map(clean).collect();
    if text.chars().nth(chars).is_some() {
        out.push('…');
    }
    out
}

fn names(list: Vec<String>) -> Vec<String> {
    list.into_iter().take(ENTRIES).map(|text| line(&text, NAME_CHARS)).collect()
}

fn lines(list: Vec<String>) -> Vec<String> {
    list.into_iter().take(ENTRIES).map(|text| line(&text, LINE_CHARS)).collect()
}

fn timeline(stages: Vec<(String, u64)>) -> Vec<(String, u64)> {
    stages.into_iter().take(ENTRIES).map(|(name, ms)| (line(&name, NAME_CHARS), ms)).collect()
}

/// What comes from a guest, bounded.
pub(crate) trait Tame {
    /// The same with every text and list bounded.
    fn tame(self) -> Self;
}

impl Tame for Hello {
    fn tame(self) -> Hello {
        Hello {
            version: line(&self.version, NAME_CHARS),
            vm: line(&self.vm, NAME_CHARS),
            boot: line(&self.boot, NAME_CHARS),
            generation: self.generation,
            stage: self.stage,
            uptime_ms: self.uptime_ms,
            secret: self.secret.map(|secret| line(&secret, NAME_CHARS)),
        }
    }
}

impl Tame for Event {
    fn tame(self) -> Event {
        match self {
            Event::Ending { how } => Event::Ending { how },
            Event::Warning { message } => Event::Warning { message: line(&message, LINE_CHARS) },
        }
    }
}

impl Tame for Reply {
    fn tame(self) -> Reply {
        match self {
            Reply::Configured(configured) => Reply::Configured(configured.tame()),
            Reply::Renewed(renewed) => Reply::Renewed(renewed.tame()),
            Reply::Ready(readiness) => Reply::Ready(readiness.tame()),
            Reply::Health(health) => {
                Reply::Health(Health { kernel_boot_id: line(&health.kernel_boot_id, NAME_CHARS), ..health })
            }
            Reply::Listeners(mut listeners) => {
                listeners.is_cut |= listeners.sockets.len() > LISTENERS_MAX;
                listeners.sockets.truncate(LISTENERS_MAX);
                Reply::Listeners(listeners)
            }
            Reply::Session(session) => Reply::Session(session.tame()),
            Reply::Failed(failure) => Reply::Failed(failure.tame()),
            Reply::Stat(stat) => Reply::Stat(stat.tame()),
            Reply::Started { .. } | Reply::Exited(_) | Reply::Surveyed(_) | Reply::Done { .. } => self,
        }
    }
}

impl Tame for FileStat {
    /// A path that would have to be changed is no path any more.
    fn tame(self) -> FileStat {
        FileStat { path: self.path.filter(|path| line(path, PATH_CHARS) == *path), ..self }
    }
}

impl Tame for Configured {
    fn tame(self) -> Configured {
        Configured {
            init: self.init.map(|init| line(&init, LINE_CHARS)),
            timeline: timeline(self.timeline),
            warnings: lines(self.warnings),
        }
    }
}

impl Tame for Renewed {
    fn tame(self) -> Renewed {
        Renewed { timeline: timeline(self.timeline), warnings: lines(self.warnings) }
    }
}

impl Tame for Readiness {
    fn tame(self) -> Readiness {
        Readiness {
            failed_units: names(self.failed_units),
            note: self.note.map(|note| line(&note, LINE_CHARS)),
            uptime_ms: self.uptime_ms,
        }
    }
}

impl Tame for SessionReply {
    fn tame(self) -> SessionReply {
        match self {
            SessionReply::Session(record) => SessionReply::Session(record.tame()),
            SessionReply::Sessions { sessions } => SessionReply::Sessions {
                sessions: sessions.into_iter().take(SESSIONS_MAX).map(SessionRecord::tame).collect(),
            },
        }
    }
}

impl Tame for SessionRecord {
    fn tame(self) -> SessionRecord {
        SessionRecord { name: line(&self.name, NAME_LEN_MAX), command: line(&self.command, COMMAND_LEN_MAX), ..self }
    }
}

impl Tame for Failure {
    fn tame(self) -> Failure {
        let short = |text: String| line(&text, LINE_CHARS);
        // As it reads behind a colon.
        let cause = |text: String| plain(&short(text));
        match self {
            Failure::ProgramNotFound { program } => Failure::ProgramNotFound { program: short(program) },
            Failure::ProgramNotExecutable { program, why } => {
                Failure::ProgramNotExecutable { program: short(program), why: cause(why) }
            }
            Failure::NoSuchUser { user } => Failure::NoSuchUser { user: short(user) },
            Failure::Directory { path, why } => Failure::Directory { path: short(path), why: cause(why) },
            Failure::Os { act, why } => Failure::Os { act: short(act), why: cause(why) },
            Failure::Refused { why } => Failure::Refused { why: short(why) },
            Failure::NoSuchSession { name } => Failure::NoSuchSession { name: line(&name, NAME_LEN_MAX) },
            Failure::SessionExists { name } => Failure::SessionExists { name: line(&name, NAME_LEN_MAX) },
            Failure::SessionOver { name } => Failure::SessionOver { name: line(&name, NAME_LEN_MAX) },
            Failure::SessionRuns { name } => Failure::SessionRuns { name: line(&name, NAME_LEN_MAX) },
            Failure::SessionsFull | Failure::Busy | Failure::Unsupported => self,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_terminal_obeys_nothing_of_it() {
        let event = Event::Warning { message: format!("\x1b[2J\n{}", "x".repeat(100_000)) };
        let Event::Warning { message } = event.tame() else { panic!() };
        assert!(message.starts_with("\u{fffd}[2J\u{fffd}x"), "{message}");
        assert_eq!(message.chars().count(), LINE_CHARS + 1);
    }

    #[test]
    fn causes_read_on_behind_a_colon() {
        let failure =
            Failure::Os { act: "cannot write x".to_owned(), why: "No space\x1b left (os error 28)".to_owned() };
        assert_eq!(failure.tame().to_string(), "cannot write x: no space\u{fffd} left");
    }

    #[test]
    fn sessions_end() {
        let record =
            SessionRecord { name: "n\x07".repeat(1000), command: "\x1b".repeat(1000), ..SessionRecord::default() };
        let SessionReply::Sessions { sessions } = (SessionReply::Sessions { sessions: vec![record; 1000] }).tame()
        else {
            panic!()
        };
        assert_eq!(sessions.len(), SESSIONS_MAX);
        assert!(sessions.iter().all(|session| !session.name.contains('\x07') && session.command.chars().count() < 300));
    }

    #[test]
    fn lists_end() {
        let ready = Readiness { failed_units: vec![String::new(); 10_000], ..Readiness::default() };
        assert_eq!(ready.tame().failed_units.len(), ENTRIES);
    }
}

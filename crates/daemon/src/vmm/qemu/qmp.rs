//! QEMU's own protocol, as far as it is needed: whether QEMU is up, and single commands.
//!
//! The socket exists and greets (`{"QMP": …}`, docs/interop/qmp-spec) long before kernel, drives and memory are in place: a
//! thread of its own serves it. Commands are carried out by the main loop only, so the answer to the first one says that
//! everything was found and the guest runs. The socket serves one client at a time, and a command or a few are a connection of
//! their own: nothing is held, so nothing has to be found again.

use std::path::Path;
use std::time::Duration;

use serde_json::Value;
use tokio::io::{AsyncBufReadExt, AsyncReadExt, AsyncWriteExt, BufReader, Lines, Take};
use tokio::net::UnixStream;
use tokio::net::unix::{OwnedReadHalf, OwnedWriteHalf};

/// The first command every client has to give; it changes nothing else.
const COMMAND: &[u8] = b"{\"execute\": \"qmp_capabilities\"}\n";
/// Bytes read until the answer came: the greeting and a few events.
const BYTES_MAX: u64 = 64 * 1024;

/// Whether a QEMU answers behind `socket`; waits for it once connected.
pub(super) async fn answers(socket: &Path) -> bool {
    let Ok(connection) = UnixStream::connect(socket).await else {
        return false;
    };
    let (from, mut to) = connection.into_split();
    let mut lines = BufReader::new(from.take(BYTES_MAX)).lines();
    let Ok(Some(_greeting)) = lines.next_line().await else {
        return false;
    };
    if to.write_all(COMMAND).await.is_err() {
        return false;
    }
    while let Ok(Some(line)) = lines.next_line().await {
        if line.starts_with("{\"return\"") {
            return true;
        }
    }
    false
}

/// How long QEMU may take to carry out a command: its main loop has nothing long to do.
const WITHIN: Duration = Duration::from_secs(20);
/// Most characters of QEMU's words that are passed on.
const WORDS_MAX: usize = 300;

/// Has the QEMU behind `socket` carry out `command`; the error says why not, in words.
pub(super) async fn execute(socket: &Path, command: &Value) -> Result<(), String> {
    within(WITHIN, async { Session::open(socket).await?.ask(command).await.map(drop) }).await
}

/// What `asking` gives, if QEMU has done it in time.
pub(super) async fn within<T>(time: Duration, asking: impl Future<Output = Result<T, String>>) -> Result<T, String> {
    match tokio::time::timeout(time, asking).await {
        Ok(asked) => asked,
        Err(_) => Err(format!("the VMM did not answer within {} s", time.as_secs())),
    }
}

/// A connection on which commands follow one another.
pub(super) struct Session {
    lines: Lines<BufReader<Take<OwnedReadHalf>>>,
    to: OwnedWriteHalf,
}

impl Session {
    /// Connects, and gives the first command.
    pub(super) async fn open(socket: &Path) -> Result<Session, String> {
        let (from, to) = UnixStream::connect(socket).await.map_err(failed)?.into_split();
        let mut session = Session { lines: BufReader::new(from.take(BYTES_MAX)).lines(), to };
        session.line().await?;
        session.say(COMMAND).await?;
        Ok(session)
    }

    /// Has `command` carried out; what it returns.
    pub(super) async fn ask(&mut self, command: &Value) -> Result<Value, String> {
        let mut line = command.to_string();
        line.push('\n');
        self.say(line.as_bytes()).await
    }

    async fn say(&mut self, line: &[u8]) -> Result<Value, String> {
        self.to.write_all(line).await.map_err(failed)?;
        loop {
            if let Some(answer) = answer(&self.line().await?)? {
                return answer;
            }
        }
    }

    async fn line(&mut self) -> Result<String, String> {
        self.lines.next_line().await.map_err(failed)?.ok_or_else(|| "the VMM hung up".to_owned())
    }
}

fn failed(error: std::io::Error) -> String {
    wire::api::plain(&error.to_string())
}

/// What a line answers; none for an event.
fn answer(line: &str) -> Result<Option<Result<Value, String>>, String> {
    let value: Value = serde_json::from_str(line).map_err(|_| "the VMM said what is no JSON".to_owned())?;
    if let Some(error) = value.get("error") {
        let words = error.get("desc").and_then(Value::as_str).unwrap_or("it does not say why");
        return Ok(Some(Err(words.chars().take(WORDS_MAX).collect())));
    }
    Ok(value.get("return").map(|returned| Ok(returned.clone())))
}

#[cfg(test)]
mod tests {
    use super::*;
    use tokio::net::UnixListener;

    #[tokio::test]
    async fn only_an_answer_counts() {
        let dir = tempfile::tempdir().unwrap();
        let socket = dir.path().join("qmp.sock");
        assert!(!answers(&socket).await, "no socket");
        let greeting = "{\"QMP\": {\"version\": {}}}\r\n";
        let event = "{\"timestamp\": {}, \"event\": \"RESUME\"}\r\n";
        let error = "{\"error\": {\"class\": \"GenericError\"}}\r\n";
        for (said, expected) in [
            (greeting.to_owned() + "{\"return\": {}}\r\n", true),
            (greeting.to_owned() + event + "{\"return\": {}}\r\n", true),
            (greeting.to_owned(), false),
            (greeting.to_owned() + error, false),
            ("{\"Q".to_owned(), false),
            (greeting.to_owned() + &"x".repeat(100_000), false),
        ] {
            let listener = UnixListener::bind(&socket).unwrap();
            let (answered, ()) = tokio::join!(answers(&socket), async {
                let (mut peer, _) = listener.accept().await.unwrap();
                // A client that has heard enough hangs up.
                let _written: std::io::Result<()> = peer.write_all(said.as_bytes()).await;
                let mut heard = vec![0; COMMAND.len()];
                if said.starts_with(greeting) && peer.read_exact(&mut heard).await.is_ok() {
                    assert_eq!(heard, COMMAND);
                }
            });
            assert_eq!(answered, expected, "{said:.80}");
            sys::fs::remove_file(&socket).unwrap();
        }
    }

    /// A QEMU that says `lines` one after the other, each when something was said to it; gives what it heard.
    async fn told(lines: &[&str], command: &serde_json::Value) -> (Result<(), String>, Vec<String>) {
        let dir = tempfile::tempdir().unwrap();
        let socket = dir.path().join("qmp.sock");
        let listener = UnixListener::bind(&socket).unwrap();
        let qemu = async {
            let (peer, _) = listener.accept().await.unwrap();
            let (from, mut to) = peer.into_split();
            let mut from = BufReader::new(from).lines();
            let mut heard = Vec::new();
            for (index, line) in lines.iter().enumerate() {
                if index > 0 {
                    heard.push(from.next_line().await.unwrap().unwrap());
                }
                to.write_all(line.as_bytes()).await.unwrap();
            }
            heard.extend(from.next_line().await.ok().flatten());
            heard
        };
        tokio::join!(execute(&socket, command), qemu)
    }

    #[tokio::test]
    async fn a_command_is_carried_out_or_told_why_not() {
        let greeting = "{\"QMP\": {}}\r\n";
        let fine = "{\"return\": {}}\r\n";
        let stop = serde_json::json!({"execute": "stop"});
        let event = "{\"timestamp\": {}, \"event\": \"STOP\"}\r\n{\"return\": {}}\r\n";
        let (done, heard) = told(&[greeting, fine, event], &stop).await;
        assert_eq!((done, heard.last().map(String::as_str)), (Ok(()), Some("{\"execute\":\"stop\"}")));
        let refusal = "{\"error\": {\"class\": \"GenericError\", \"desc\": \"no such thing\"}}\r\n";
        assert_eq!(told(&[greeting, fine, refusal], &stop).await.0, Err("no such thing".to_owned()));
        assert_eq!(told(&[greeting, refusal], &stop).await.0, Err("no such thing".to_owned()));
        assert_eq!(told(&[greeting, fine], &stop).await.0, Err("the VMM hung up".to_owned()));
        assert_eq!(told(&[greeting, "nonsense\r\n"], &stop).await.0, Err("the VMM said what is no JSON".to_owned()));
        let gone = execute(Path::new("/nonexistent/qmp.sock"), &stop).await;
        assert_eq!(gone, Err("no such file or directory".to_owned()));
    }
}

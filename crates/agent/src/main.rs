//! `banger-agent`: the one program banger puts into a guest.
//!
//! | called as | it is |
//! |---|---|
//! | `/init`, as process 1 | what boots the guest: [`agent::boot`] |
//! | `/shutdown VERB`, as process 1 | systemd's last step: [`agent::ending`] |
//! | `banger-agent --serve unix:PATH --root DIR` | an ordinary process on the host that serves `DIR` as if it were a guest: for tests and the `sim` driver |
//! | `banger-agent --dial unix:PATH --root DIR` | the same, and it connects to whoever listens at `PATH` |
//! | `banger-agent --version` | what it says |

use std::path::{Path, PathBuf};
use std::process::ExitCode;

use wire::agent::message::{BootConfig, Stage};

use agent::serve::cgroup::Cgroups;
use agent::serve::guest::Guest;
use agent::serve::port::Port;
use agent::serve::{Name, Server};
use agent::{boot, ending};

/// How it can be called.
const USAGE: &str = "usage: banger-agent --serve|--dial unix:PATH --root DIR [--vm ID] [--boot ID] | --version";

fn main() -> ExitCode {
    let arguments: Vec<String> = std::env::args_os().map(|a| a.to_string_lossy().into_owned()).collect();
    let words: Vec<&str> = arguments.iter().skip(1).map(String::as_str).collect();
    if words == ["--version"] {
        say(&format!("banger-agent {}", env!("CARGO_PKG_VERSION")));
        return ExitCode::SUCCESS;
    }
    if rustix::process::getpid() == rustix::process::Pid::INIT {
        as_process_one(&arguments);
    }
    let Some(hosted) = Hosted::parse(&words) else {
        complain(USAGE);
        return ExitCode::from(2);
    };
    match hosted.serve() {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            complain(&format!("banger-agent: cannot serve {}: {error}", hosted.socket.display()));
            ExitCode::FAILURE
        }
    }
}

/// Process 1, at either end of a guest's life.
fn as_process_one(arguments: &[String]) -> ! {
    let name = arguments.first().map_or("", String::as_str);
    if name.ends_with("shutdown") {
        ending::hook(arguments.get(1).map_or("poweroff", String::as_str));
    }
    let error = boot::boot();
    boot::log(&format!("{error}: {}", boot::plain(&error.source)));
    ending::give_up()
}

#[expect(clippy::print_stdout, reason = "the answer to --version")]
fn say(text: &str) {
    println!("{text}");
}

#[expect(clippy::print_stderr, reason = "a person or a test called it wrongly")]
fn complain(text: &str) {
    eprintln!("{text}");
}

/// The agent as a process of the host.
#[derive(Debug, PartialEq, Eq)]
struct Hosted {
    socket: PathBuf,
    /// The agent connects to the socket; else it makes it.
    dials: bool,
    root: PathBuf,
    vm: String,
    boot: String,
}

impl Hosted {
    fn parse(words: &[&str]) -> Option<Hosted> {
        let (mut socket, mut root, mut vm, mut boot) = (None, None, String::new(), String::new());
        let mut dials = false;
        for pair in words.chunks(2) {
            match pair {
                ["--serve", address] => socket = Some(PathBuf::from(address.strip_prefix("unix:")?)),
                ["--dial", address] => {
                    dials = true;
                    socket = Some(PathBuf::from(address.strip_prefix("unix:")?));
                }
                ["--root", dir] => root = Some(PathBuf::from(dir)),
                ["--vm", id] => vm = (*id).to_owned(),
                ["--boot", id] => boot = (*id).to_owned(),
                _ => return None,
            }
        }
        Some(Hosted { socket: socket?, dials, root: root?, vm, boot })
    }

    fn serve(&self) -> std::io::Result<()> {
        sys::spawn::keep_inherited_private()?;
        let root = std::path::absolute(&self.root)?;
        let port = if self.dials {
            let socket = self.socket.clone();
            Port::dialer(Box::new(move || dial(&socket)), sys::clock::monotonic())
        } else {
            Port::listener(listen(&self.socket)?)
        };
        let guest = Guest::new(Some(root), BootConfig::default(), Cgroups::default());
        let name = Name { vm: self.vm.clone(), boot: self.boot.clone() };
        Server::new(name, Stage::Unconfigured, port, guest).run()
    }
}

/// A listening Unix socket at `path`.
fn listen(path: &Path) -> std::io::Result<std::os::fd::OwnedFd> {
    let listener = sys::socket::listen_at(path)?;
    listener.set_nonblocking(true)?;
    Ok(listener.into())
}

/// A connection to the Unix socket at `path`.
fn dial(path: &Path) -> std::io::Result<std::os::fd::OwnedFd> {
    let stream = std::os::unix::net::UnixStream::connect(path)?;
    stream.set_nonblocking(true)?;
    Ok(stream.into())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn calls_are_understood_or_refused() {
        let hosted = Hosted::parse(&["--serve", "unix:/a", "--root", "/b"]).unwrap();
        assert_eq!((hosted.socket, hosted.dials, hosted.root), ("/a".into(), false, "/b".into()));
        assert!(Hosted::parse(&["--dial", "unix:/a", "--root", "/b"]).unwrap().dials);
        for wrong in [&["--serve"][..], &["--serve", "/a", "--root", "/b"], &["--root", "/b"], &[], &["x", "y"]] {
            assert_eq!(Hosted::parse(wrong), None, "{wrong:?}");
        }
    }
}

//! What people type as values of options, checked before anything is done.

use std::ffi::OsString;
use std::time::Duration;

use wire::api::{ErrorCode, Publish, RestartPolicy};
use wire::{duration, size};

use crate::error::Failure;
use crate::settings;

const MIB: u64 = 1 << 20;
const GIB: u64 = 1 << 30;

/// Guest memory in MiB: `2G`, `512M`; a bare number counts MiB.
pub(crate) fn memory_mib(text: &str) -> Result<u64, String> {
    let bytes = size::parse(text, MIB).map_err(|error| error.to_string())?;
    if bytes % MIB != 0 {
        return Err("memory comes in whole MiB".to_owned());
    }
    Ok(bytes / MIB)
}

/// A disk's bytes: `8G`; a bare number counts GiB.
pub(crate) fn disk_bytes(text: &str) -> Result<u64, String> {
    size::parse(text, GIB).map_err(|error| error.to_string())
}

/// Virtual processors.
pub(crate) fn vcpus(text: &str) -> Result<u16, String> {
    match text.parse::<u16>() {
        Ok(0) => Err("a VM needs at least one virtual processor".to_owned()),
        Ok(count) => Ok(count),
        Err(_) => Err("expected a whole number".to_owned()),
    }
}

/// `[127.0.0.1:]HOST:GUEST`.
pub(crate) fn publish(text: &str) -> Result<Publish, String> {
    let ports = text.strip_prefix("127.0.0.1:").or_else(|| text.strip_prefix("localhost:")).unwrap_or(text);
    let expected =
        || "expected HOST:GUEST, two ports, as in 8080:80; published ports are bound to 127.0.0.1".to_owned();
    let (host, guest) = ports.split_once(':').ok_or_else(expected)?;
    let port = |text: &str| match text.parse::<u16>() {
        Ok(port) if port > 0 && !text.starts_with('+') => Ok(port),
        _ => Err(format!("{text:?} is not a port: {}", expected())),
    };
    Ok(Publish { host_port: port(host)?, guest_port: port(guest)? })
}

/// `NAME=VALUE`, or `NAME` for the value it has here.
pub(crate) fn env(text: &str) -> Result<(String, String), String> {
    let (name, value) = match text.split_once('=') {
        Some((name, value)) => (name, value.to_owned()),
        None => {
            let value =
                settings::variable(text).ok_or_else(|| format!("{text} is not set here: give it as {text}=VALUE"))?;
            (text, value.into_string().map_err(|_| format!("the value of {text} is not UTF-8"))?)
        }
    };
    if name.is_empty() || name.contains('\0') || value.contains('\0') {
        return Err("expected NAME=VALUE".to_owned());
    }
    Ok((name.to_owned(), value))
}

/// A time: `30`, `30s`, `2m`, `1h`, in milliseconds.
pub(crate) fn duration_ms(text: &str) -> Result<u64, String> {
    match duration::parse_ms(text) {
        Ok(ms) if ms <= 7 * 24 * 3_600_000 => Ok(ms),
        Ok(_) | Err(duration::DurationError::Long) => Err("at most a week".to_owned()),
        Err(error) => Err(error.to_string()),
    }
}

/// How long a command may run: `30s`, `5m`; 0 is for ever.
pub(crate) fn limit(text: &str) -> Result<Duration, String> {
    duration::parse_ms(text).map(Duration::from_millis).map_err(|error| error.to_string())
}

/// A commit: the beginning of its id, or all of it.
pub(crate) fn commit(text: &str) -> Result<String, String> {
    if (4..=64).contains(&text.len()) && text.bytes().all(|byte| byte.is_ascii_hexdigit()) {
        return Ok(text.to_ascii_lowercase());
    }
    Err("expected a commit's id, 4 to 64 hexadecimal digits".to_owned())
}

/// A path of a guest.
pub(crate) fn guest_path(text: &str) -> Result<String, String> {
    if text.starts_with('/') { Ok(text.to_owned()) } else { Err("expected an absolute path of the guest".to_owned()) }
}

/// How long a VM may be idle: `30m`, `2h`, in milliseconds; `off` is 0.
pub(crate) fn stop_after_ms(text: &str) -> Result<u64, String> {
    match text {
        "off" | "never" => Ok(0),
        text => duration::parse_ms(text).map_err(|error| format!("{error}, or off")),
    }
}

/// When a VM is started without being asked. What is off on purpose stays off, which others call `unless-stopped`.
pub(crate) fn restart(text: &str) -> Result<RestartPolicy, String> {
    let asked = if text == "unless-stopped" { "always" } else { text };
    let found = RestartPolicy::ALL.iter().find(|(name, _)| *name == asked).map(|(_, policy)| *policy);
    found.ok_or_else(|| "expected no, on-failure or always".to_owned())
}

/// The name of a session.
pub(crate) fn session(text: &str) -> Result<String, String> {
    if wire::agent::session::is_session_name(text) {
        return Ok(text.to_owned());
    }
    Err("a session's name holds a-z, 0-9 and -, neither first nor last, and at most 63 of them".to_owned())
}

/// A signal a program can be sent: `TERM`, `SIGTERM`, `15`.
pub(crate) fn signal(text: &str) -> Result<u8, String> {
    if let Ok(number @ 1..=31) = text.parse::<u8>() {
        return Ok(number);
    }
    let upper = text.to_ascii_uppercase();
    let name = upper.strip_prefix("SIG").unwrap_or(&upper);
    let found = SIGNALS.iter().position(|signal| *signal == name).and_then(|at| u8::try_from(at + 1).ok());
    found.ok_or_else(|| "expected a signal, as in TERM, HUP, INT, USR1, KILL, or a number from 1 to 31".to_owned())
}

/// The signals of Linux on x86-64 by number, from 1 (signal(7)).
const SIGNALS: [&str; 31] = [
    "HUP", "INT", "QUIT", "ILL", "TRAP", "ABRT", "BUS", "FPE", "KILL", "USR1", "SEGV", "USR2", "PIPE", "ALRM", "TERM",
    "STKFLT", "CHLD", "CONT", "STOP", "TSTP", "TTIN", "TTOU", "URG", "XCPU", "XFSZ", "VTALRM", "PROF", "WINCH", "IO",
    "PWR", "SYS",
];

/// A reference to a VM, an image or a kernel: anything but nothing.
pub(crate) fn reference(text: &str) -> Result<String, String> {
    if text.is_empty() { Err("a name or an id is expected".to_owned()) } else { Ok(text.to_owned()) }
}

/// A command line for a guest: text, because it travels as JSON.
///
/// # Errors
/// When an argument is not UTF-8.
pub(crate) fn command_line(args: &[OsString]) -> Result<Vec<String>, Failure> {
    let text = |arg: &OsString| {
        arg.to_str().map(str::to_owned).ok_or_else(|| {
            Failure::new(ErrorCode::BadRequest, format!("cannot run {arg:?} in the guest: the argument is not UTF-8"))
        })
    };
    args.iter().map(text).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn ports() {
        for (text, host_port, guest_port) in
            [("8080:80", 8080, 80), ("127.0.0.1:1:65535", 1, 65535), ("localhost:22:22", 22, 22)]
        {
            assert_eq!(publish(text), Ok(Publish { host_port, guest_port }), "{text:?}");
        }
        for bad in [
            "",
            "80",
            ":",
            "80:",
            ":80",
            "0:80",
            "80:0",
            "65536:1",
            "-1:2",
            "+1:2",
            "a:b",
            "1:2:3",
            "0.0.0.0:1:2",
            "80:80/udp",
            " 1:2",
        ] {
            assert!(publish(bad).is_err(), "{bad:?}");
        }
    }

    #[test]
    fn sizes() {
        for (text, mib) in [("512", 512), ("2G", 2048), ("1.5GiB", 1536), ("512M", 512)] {
            assert_eq!(memory_mib(text), Ok(mib), "{text:?}");
        }
        for bad in ["0", "-1", "", "1B", "1500K", "99999999T", "x"] {
            assert!(memory_mib(bad).is_err(), "{bad:?}");
        }
        assert_eq!(disk_bytes("8"), Ok(8 << 30));
        assert!(disk_bytes("0").is_err());
        for bad in ["0", "-1", "65536", "two", ""] {
            assert!(vcpus(bad).is_err(), "{bad:?}");
        }
    }

    #[test]
    fn signals() {
        for (text, number) in [("TERM", 15), ("sigkill", 9), ("Usr1", 10), ("1", 1), ("31", 31), ("SYS", 31)] {
            assert_eq!(signal(text), Ok(number), "{text:?}");
        }
        for bad in ["", "0", "32", "-9", "SIG", "NONE", "RTMIN"] {
            assert!(signal(bad).is_err(), "{bad:?}");
        }
    }

    #[test]
    fn environments() {
        assert_eq!(env("A=b=c"), Ok(("A".to_owned(), "b=c".to_owned())));
        assert_eq!(env("A="), Ok(("A".to_owned(), String::new())));
        assert!(env("=x").is_err());
        assert!(env("BANGER_TEST_SURELY_NOT_SET").is_err());
        assert_eq!(env("CARGO_PKG_NAME"), Ok(("CARGO_PKG_NAME".to_owned(), "cli".to_owned())));
    }

    #[test]
    fn times() {
        for (text, ms) in [("30", 30_000), ("30s", 30_000), ("2m", 120_000), ("1h", 3_600_000), ("5ms", 5)] {
            assert_eq!(duration_ms(text), Ok(ms), "{text:?}");
        }
        for bad in ["", "s", "-1s", "1y", "99999999999999999999", "9999h"] {
            assert!(duration_ms(bad).is_err(), "{bad:?}");
        }
        for (text, ms) in [("off", 0), ("0", 0), ("30m", 1_800_000), ("2s", 2000), ("1h30m", 5_400_000)] {
            assert_eq!(stop_after_ms(text), Ok(ms), "{text:?}");
        }
        assert_eq!(stop_after_ms("soon"), Err("expected a number and s, m or h, as in 30s, or off".to_owned()));
    }

    #[test]
    fn commits() {
        assert_eq!(commit("1A2b"), Ok("1a2b".to_owned()));
        assert!(commit(&"0".repeat(64)).is_ok());
        for bad in ["", "abc", "HEAD", "-abc1", "abcg", &"0".repeat(65)] {
            assert!(commit(bad).is_err(), "{bad:?}");
        }
    }

    #[test]
    fn restart_policies() {
        for (text, policy) in [
            ("no", RestartPolicy::No),
            ("on-failure", RestartPolicy::OnFailure),
            ("always", RestartPolicy::Always),
            ("unless-stopped", RestartPolicy::Always),
        ] {
            assert_eq!(restart(text), Ok(policy), "{text:?}");
        }
        assert!(restart("sometimes").is_err() && restart("").is_err());
    }
}

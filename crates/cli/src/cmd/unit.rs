//! `banger daemon unit`: a unit of systemd that starts the daemon of this user with the host.

use std::path::Path;

use crate::daemon::{Daemon, Start};
use crate::error::Failure;
use crate::output::Output;
use crate::settings::Settings;

/// The unit, with `@BANGERD@` where the daemon's path belongs. An installed tree has it too, for its own prefix.
const UNIT: &str = include_str!("../../../../systemd/bangerd.service");

/// Prints it for this user: the daemon beside this program, the directories that the environment names, the usual log.
///
/// # Errors
/// When there is no daemon beside this program, no home is known, or the log cannot be made.
pub(crate) fn print(settings: &Settings, out: Output) -> Result<u8, Failure> {
    let daemon = Daemon::of(settings, Start::Never)?;
    let text = render(&daemon.installed()?, &settings.places(), &daemon.log());
    // systemd opens the log before it starts the daemon, which would have made it and its directory.
    daemon.make_log()?;
    out.text(&text)?;
    Ok(0)
}

fn render(program: &Path, places: &[(&str, &Path)], log: &Path) -> String {
    let mut lines = quoted(&program.display().to_string());
    for (name, place) in places {
        lines.push_str(&format!("\nEnvironment={}", quoted(&format!("{name}={}", place.display()))));
    }
    // Not a command line: quotes would belong to the path.
    lines.push_str(&format!("\nStandardError=append:{}", log.display().to_string().replace('%', "%%")));
    UNIT.replace("@BANGERD@", &lines)
}

/// A word of a unit file: systemd.syntax(7) takes `\` and `"` for itself, systemd.unit(5) `%`, systemd.service(5) `$`.
fn quoted(word: &str) -> String {
    let is_plain = |letter: char| letter.is_ascii_alphanumeric() || "/._-=+:@,".contains(letter);
    if word.chars().all(is_plain) {
        return word.to_owned();
    }
    let escaped = word.replace('\\', "\\\\").replace('"', "\\\"").replace('%', "%%").replace('$', "$$");
    format!("\"{escaped}\"")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_places_of_a_user() {
        let places = [("BANGER_HOME", Path::new("/home/a b/100%"))];
        let unit = render(Path::new("/opt/b/libexec/banger/bangerd"), &places, Path::new("/s/100%/bangerd.log"));
        let lines: Vec<&str> = unit.lines().collect();
        for line in [
            "ExecStart=/opt/b/libexec/banger/bangerd",
            "Environment=\"BANGER_HOME=/home/a b/100%%\"",
            "StandardError=append:/s/100%%/bangerd.log",
            "KillMode=process",
            "WantedBy=default.target",
        ] {
            assert!(lines.contains(&line), "{line} in {unit}");
        }
        assert!(!unit.contains('@'), "{unit}");
        let bare = render(Path::new("/b"), &[], Path::new("/l"));
        assert!(!bare.contains("Environment="), "{bare}");
    }

    #[test]
    fn words_that_systemd_would_read_otherwise() {
        for (word, text) in [("/a/b", "/a/b"), ("/a b", "\"/a b\""), ("/$x", "\"/$$x\""), ("/\"", "\"/\\\"\"")] {
            assert_eq!(quoted(word), text);
        }
    }
}

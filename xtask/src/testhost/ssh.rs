//! Commands in a test host, by ssh with the image's own keys.

use std::path::Path;
use std::process::Command;

/// What the host is called, whatever its port.
pub(super) const ALIAS: &str = "testhost";

/// Arguments of ssh(1) up to the destination's name; nothing of the user's own configuration counts.
pub(super) fn arguments(image: &Path, port: u16, user: &str) -> Vec<String> {
    let option = |name: &str, value: String| ["-o".to_owned(), format!("{name}={value}")];
    let mut arguments: Vec<String> = ["-F", "none", "-p"].map(str::to_owned).to_vec();
    arguments.push(port.to_string());
    for (name, value) in [
        ("IdentityFile", format!("\"{}\"", image.join("client").display())),
        ("UserKnownHostsFile", format!("\"{}\"", image.join("known_hosts").display())),
        ("HostKeyAlias", ALIAS.to_owned()),
        ("StrictHostKeyChecking", "yes".to_owned()),
        ("IdentitiesOnly", "yes".to_owned()),
        ("BatchMode", "yes".to_owned()),
        ("LogLevel", "ERROR".to_owned()),
        ("ConnectTimeout", "60".to_owned()),
        ("ServerAliveInterval", "30".to_owned()),
        ("ServerAliveCountMax", "10".to_owned()),
    ] {
        arguments.extend(option(name, value));
    }
    arguments.push(format!("{user}@127.0.0.1"));
    arguments
}

/// ssh(1) to a test host; the caller adds what to run.
pub(super) fn command(image: &Path, port: u16, user: &str) -> Command {
    let mut command = Command::new("ssh");
    command.args(arguments(image, port, user));
    command
}

/// Words as one line for the shell at the other end, each of them kept whole.
pub(crate) fn quoted(words: &[String]) -> String {
    let quote = |word: &String| format!("'{}'", word.replace('\'', "'\\''"));
    words.iter().map(quote).collect::<Vec<_>>().join(" ")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_the_images_keys_count() {
        let said = arguments(Path::new("/c/image-1"), 2222, "tester").join(" ");
        assert!(said.starts_with("-F none -p 2222 "), "{said}");
        assert!(said.contains("UserKnownHostsFile=\"/c/image-1/known_hosts\" -o HostKeyAlias=testhost"), "{said}");
        assert!(said.ends_with("tester@127.0.0.1"), "{said}");
    }

    #[test]
    fn words_stay_whole() {
        let words = ["sh", "-c", "echo 'a b' $HOME"].map(str::to_owned);
        assert_eq!(quoted(&words), r"'sh' '-c' 'echo '\''a b'\'' $HOME'");
    }
}

//! A `devcontainer.json` (containers.dev, "Dev Container metadata reference"): what is heeded of it, and what a person is
//! told of the rest. Pure: text in, settings and remarks out.
//!
//! Its author is not the person at the host: `${localEnv:NAME}` would let a repository take any variable of the host into a
//! guest. It is never read; what the file gives as its default is taken instead.

use jsonc_parser::{CollectOptions, ParseOptions, parse_to_ast};
use serde_json::{Map, Value};
use wire::api::DevContainer;

/// Settings that are heeded.
const HEEDED: [&str; 4] = ["image", "containerEnv", "forwardPorts", "postCreateCommand"];
/// Settings for editors, or that change nothing here.
const HARMLESS: [&str; 15] = [
    "$schema",
    "name",
    "customizations",
    "extensions",
    "settings",
    "devPort",
    "portsAttributes",
    "otherPortsAttributes",
    "shutdownAction",
    "overrideCommand",
    "waitFor",
    "userEnvProbe",
    "updateRemoteUserUID",
    "overrideFeatureInstallOrder",
    "init",
];
/// Settings that a remark names; the rest is counted.
const NAMED_MAX: usize = 12;
/// Hosts of `"host:port"` that are the container itself.
const ITSELF: [&str; 3] = ["localhost", "127.0.0.1", "[::1]"];

/// Where the workspace is on both sides.
#[derive(Debug, Clone, Copy)]
pub(super) struct Places<'a> {
    /// On the host.
    pub(super) host: &'a str,
    /// In the guest.
    pub(super) guest: &'a str,
}

/// What is heeded, and what a person should know. Without the first the file cannot be understood.
pub(super) fn read(text: &str, places: Places<'_>) -> (Option<DevContainer>, Vec<String>) {
    let options = ParseOptions {
        allow_comments: true,
        allow_loose_object_property_names: false,
        allow_trailing_commas: true,
        allow_missing_commas: false,
        allow_single_quoted_strings: false,
        allow_hexadecimal_numbers: false,
        allow_unary_plus_numbers: false,
        allow_bare_decimal_point_numbers: false,
        allow_non_finite_numbers: false,
        allow_extended_string_escapes: false,
    };
    let text = text.strip_prefix('\u{feff}').unwrap_or(text);
    // Through the syntax tree, which is the way that has a limit of depth.
    let parsed = parse_to_ast(text, &CollectOptions::default(), &options).map(|parsed| parsed.value.map(Value::from));
    match parsed {
        Ok(Some(Value::Object(settings))) => {
            let (container, remarks) = Reading { settings: &settings, places, remarks: Vec::new() }.read();
            (Some(container), remarks)
        }
        Ok(_) => (None, vec!["it is left out: not an object".to_owned()]),
        Err(error) => (None, vec![format!("it is left out: {}", error.to_string().to_lowercase())]),
    }
}

/// One file being read.
struct Reading<'a> {
    settings: &'a Map<String, Value>,
    places: Places<'a>,
    remarks: Vec<String>,
}

impl Reading<'_> {
    fn read(mut self) -> (DevContainer, Vec<String>) {
        let image = match self.settings.get("image") {
            Some(Value::String(image)) if !image.is_empty() => Some(image.clone()),
            Some(_) => self.misunderstood("image"),
            None => None,
        };
        let (env, ports, post_create) = (self.env(), self.ports(), self.post_create());
        let is_other = |name: &&String| !HEEDED.contains(&name.as_str()) && !HARMLESS.contains(&name.as_str());
        // Commands are root's here, unless the image says otherwise.
        let is_root = |name: &str| name == "remoteUser" && self.settings[name] == "root";
        let others: Vec<&str> =
            self.settings.keys().filter(is_other).map(String::as_str).filter(|name| !is_root(name)).collect();
        if !others.is_empty() {
            let more = match others.len().saturating_sub(NAMED_MAX) {
                0 => String::new(),
                more => format!(" and {more} more"),
            };
            let named = others[..others.len().min(NAMED_MAX)].join(", ");
            self.remarks.push(format!("not supported and left out: {named}{more}"));
        }
        (DevContainer { image, env, ports, post_create }, self.remarks)
    }

    fn misunderstood<T>(&mut self, name: &str) -> Option<T> {
        self.remarks.push(format!("{name} is not understood and left out"));
        None
    }

    fn env(&mut self) -> Vec<(String, String)> {
        let variables = match self.settings.get("containerEnv") {
            Some(Value::Object(variables)) => variables,
            Some(_) => return self.misunderstood("containerEnv").unwrap_or_default(),
            None => return Vec::new(),
        };
        let mut env = Vec::new();
        for (name, value) in variables {
            let is_name = !name.is_empty() && !name.contains(['=', '\0']);
            let Some(value) = value.as_str().filter(|value| is_name && !value.contains('\0')) else {
                self.remarks.push(format!("containerEnv {name} is not understood and left out"));
                continue;
            };
            match substitute(value, self.places) {
                Ok(value) => env.push((name.clone(), value)),
                Err(Unknown(variable)) => {
                    let cause = format!("containerEnv {name} is left out, as {variable} is not known here");
                    self.remarks.push(format!("{cause}: give it with -e {name}=VALUE"));
                }
            }
        }
        env
    }

    fn ports(&mut self) -> Vec<u16> {
        let listed = match self.settings.get("forwardPorts") {
            Some(Value::Array(listed)) => listed,
            Some(_) => return self.misunderstood("forwardPorts").unwrap_or_default(),
            None => return Vec::new(),
        };
        let mut ports = Vec::new();
        for value in listed {
            match port(value) {
                Some(port) if ports.contains(&port) => {}
                Some(port) => ports.push(port),
                None => self.remarks.push(format!("forwardPorts {value} is left out: only ports of the VM itself")),
            }
        }
        ports
    }

    fn post_create(&mut self) -> Vec<String> {
        let Some(value) = self.settings.get("postCreateCommand") else { return Vec::new() };
        let parts: Vec<Option<String>> = match value {
            Value::Null => return Vec::new(),
            Value::Object(named) => named.values().map(command).collect(),
            one => vec![command(one)],
        };
        let mut commands = Vec::new();
        for part in parts {
            let Some(part) = part.filter(|part| !part.contains('\0')) else {
                return self.misunderstood("postCreateCommand").unwrap_or_default();
            };
            match substitute(&part, self.places) {
                Ok(part) if part.trim().is_empty() => {}
                Ok(part) => commands.push(part),
                Err(Unknown(variable)) => {
                    self.remarks.push(format!("postCreateCommand is left out, as {variable} is not known here"));
                    return Vec::new();
                }
            }
        }
        commands
    }
}

/// A number, or `"host:port"` of the container itself.
fn port(value: &Value) -> Option<u16> {
    let number = match value {
        Value::Number(number) => u16::try_from(number.as_u64()?).ok()?,
        Value::String(text) => {
            let port = match text.rsplit_once(':') {
                Some((host, port)) if ITSELF.contains(&host) => port,
                Some(_) => return None,
                None => text,
            };
            port.bytes().all(|digit| digit.is_ascii_digit()).then(|| port.parse().ok())??
        }
        _ => return None,
    };
    (number > 0).then_some(number)
}

/// A shell command; words are quoted into one.
fn command(value: &Value) -> Option<String> {
    match value {
        Value::String(text) => Some(text.clone()),
        Value::Array(words) => {
            let words: Option<Vec<String>> = words.iter().map(|word| word.as_str().map(quoted)).collect();
            Some(words?.join(" "))
        }
        _ => None,
    }
}

/// One word of a shell, whatever is in it.
fn quoted(word: &str) -> String {
    format!("'{}'", word.replace('\'', r"'\''"))
}

/// A variable whose value nobody knows here.
#[derive(Debug, PartialEq, Eq)]
struct Unknown(String);

/// Puts values in the place of variables; what is no variable of theirs stays as it is, a shell's among it.
fn substitute(text: &str, places: Places<'_>) -> Result<String, Unknown> {
    let mut done = String::with_capacity(text.len());
    let mut rest = text;
    while let Some(at) = rest.find("${") {
        done.push_str(&rest[..at]);
        rest = &rest[at..];
        let Some(end) = rest.find('}') else { break };
        let (variable, after) = rest.split_at(end + 1);
        let mut parts = variable[2..end].splitn(3, ':');
        let base = |path: &str| path.trim_end_matches('/').rsplit('/').next().unwrap_or_default().to_owned();
        let value = match (parts.next().unwrap_or_default(), parts.next(), parts.next()) {
            ("localWorkspaceFolder", None, _) => places.host.to_owned(),
            ("localWorkspaceFolderBasename", None, _) => base(places.host),
            ("containerWorkspaceFolder", None, _) => places.guest.to_owned(),
            ("containerWorkspaceFolderBasename", None, _) => base(places.guest),
            ("localEnv" | "env", Some(_), Some(default)) => default.to_owned(),
            ("localEnv" | "env", Some(_), None) | ("containerEnv", Some(_), _) | ("devcontainerId", None, _) => {
                return Err(Unknown(variable.to_owned()));
            }
            _ => variable.to_owned(),
        };
        done.push_str(&value);
        rest = after;
    }
    done.push_str(rest);
    Ok(done)
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    const PLACES: Places<'static> = Places { host: "/src/my app", guest: "/root/repo" };

    fn remarks(text: &str) -> Vec<String> {
        read(text, PLACES).1
    }

    #[test]
    fn everything_that_is_heeded() {
        let text = r#"{
            // the one we use
            "name": "app", "image": "debian-bookworm",
            "containerEnv": {"MODE": "dev", "AT": "${containerWorkspaceFolder}/bin", "TOKEN": "${localEnv:TOKEN:none}"},
            "forwardPorts": [3000, "localhost:8080", "5432", 3000], /* twice */
            "postCreateCommand": "npm ci && echo ${HOME} ${localWorkspaceFolderBasename}",
            "customizations": {"vscode": {"extensions": ["a.b",]}},
            "remoteUser": "root",
        }"#;
        let (container, remarks) = read(&format!("\u{feff}{text}"), PLACES);
        assert_eq!(remarks, [""; 0]);
        let pair = |name: &str, value: &str| (name.to_owned(), value.to_owned());
        let expected = DevContainer {
            image: Some("debian-bookworm".into()),
            env: vec![pair("AT", "/root/repo/bin"), pair("MODE", "dev"), pair("TOKEN", "none")],
            ports: vec![3000, 8080, 5432],
            post_create: vec!["npm ci && echo ${HOME} my app".into()],
        };
        assert_eq!(container, Some(expected));
    }

    #[test]
    fn commands_in_three_forms() {
        for (command, expected) in [
            (r#""make all""#, vec!["make all"]),
            (r#"["printf", "%s", "it's", ""]"#, vec![r"'printf' '%s' 'it'\''s' ''"]),
            (r#"{"a": "one", "b": ["two", "x y"], "c": ""}"#, vec!["one", "'two' 'x y'"]),
            ("null", vec![]),
            (r#""""#, vec![]),
        ] {
            let (container, remarks) = read(&format!(r#"{{"postCreateCommand": {command}}}"#), PLACES);
            assert_eq!(
                (container.unwrap().post_create, remarks),
                (expected.iter().map(|c| (*c).to_owned()).collect(), vec![])
            );
        }
        for wrong in ["3", r#"[1]"#, r#"{"a": 1}"#, r#""a\u0000b""#] {
            let (container, remarks) = read(&format!(r#"{{"postCreateCommand": {wrong}}}"#), PLACES);
            assert_eq!(container.unwrap().post_create, [""; 0]);
            assert_eq!(remarks, ["postCreateCommand is not understood and left out"], "{wrong}");
        }
    }

    #[test]
    fn the_rest_is_named_once() {
        let text = r#"{"build": {"dockerfile": "Dockerfile"}, "features": {}, "remoteUser": "vscode", "mounts": [],
            "onCreateCommand": "x", "name": "x"}"#;
        let expected = "not supported and left out: build, features, mounts, onCreateCommand, remoteUser";
        assert_eq!(remarks(text), [expected]);
        let many: Vec<String> = (10..30).map(|number| format!("\"k{number}\": 1")).collect();
        assert!(remarks(&format!("{{{}}}", many.join(",")))[0].ends_with("k21 and 8 more"));
    }

    #[test]
    fn what_is_wrong_is_said_and_left_out() {
        for (text, expected) in [
            ("", "it is left out: not an object"),
            ("[]", "it is left out: not an object"),
            (r#"{"image": ""}"#, "image is not understood and left out"),
            (r#"{"containerEnv": []}"#, "containerEnv is not understood and left out"),
            (r#"{"containerEnv": {"A=": "b"}}"#, "containerEnv A= is not understood and left out"),
            (r#"{"containerEnv": {"A": 1}}"#, "containerEnv A is not understood and left out"),
            (
                r#"{"containerEnv": {"A": "x${localEnv:SECRET}"}}"#,
                "containerEnv A is left out, as ${localEnv:SECRET} is not known here: give it with -e A=VALUE",
            ),
            (r#"{"forwardPorts": 3000}"#, "forwardPorts is not understood and left out"),
            (r#"{"forwardPorts": ["db:5432"]}"#, "forwardPorts \"db:5432\" is left out: only ports of the VM itself"),
            (r#"{"forwardPorts": [0]}"#, "forwardPorts 0 is left out: only ports of the VM itself"),
            (r#"{"forwardPorts": [70000]}"#, "forwardPorts 70000 is left out: only ports of the VM itself"),
            (
                r#"{"postCreateCommand": "echo ${devcontainerId}"}"#,
                "postCreateCommand is left out, as ${devcontainerId} is not known here",
            ),
        ] {
            assert_eq!(remarks(text), [expected], "{text}");
        }
        let broken = remarks("{'image': 1}");
        assert!(broken[0].starts_with("it is left out: ") && broken[0].contains("line 1"), "{broken:?}");
    }

    #[test]
    fn variables() {
        for (text, expected) in [
            ("${localWorkspaceFolder}:${containerWorkspaceFolderBasename}", "/src/my app:repo"),
            ("${localEnv:A:b:c}${env:A:}", "b:c"),
            ("$HOME ${HOME:-x} ${", "$HOME ${HOME:-x} ${"),
            ("${unclosed", "${unclosed"),
        ] {
            assert_eq!(substitute(text, PLACES).unwrap(), expected);
        }
        assert_eq!(substitute("a${containerEnv:PATH}", PLACES), Err(Unknown("${containerEnv:PATH}".into())));
    }

    proptest! {
        #[test]
        fn nothing_breaks_it(text in ".{0,200}", value in "[\\PC$\\{\\}:]{0,60}") {
            read(&text, PLACES);
            let value = Value::String(value);
            let words = format!(r#"{{"containerEnv": {{"A": {value}}}, "postCreateCommand": [{value}], "forwardPorts": [{value}]}}"#);
            read(&words, PLACES);
        }
    }

    #[test]
    fn depth_has_a_limit() {
        let deep = format!("{{\"image\": {}", "[".repeat(100_000));
        assert!(read(&deep, PLACES).0.is_none());
    }
}

//! Files of variables, as docker has them (`--env-file`): `NAME=VALUE` a line, `NAME` alone for the value it has here,
//! `#` begins a comment. A value is everything behind the first `=`, as it is: quotes are a part of it.

use std::ffi::OsString;

use crate::error::Io;
use crate::settings;

/// What such a file sets, in its order.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct EnvFile(pub(crate) Vec<(String, String)>);

/// Reads the file at `path`.
///
/// # Errors
/// When it cannot be read, or a line of it sets nothing.
pub(crate) fn read(path: &str) -> Result<EnvFile, String> {
    let bytes = std::fs::read(path).map_err(|error| Io(error).to_string())?;
    parse(&bytes, settings::variable).map(EnvFile)
}

/// Reads its lines; what a name alone stands for is asked of `here`, and left out where it stands for nothing.
fn parse(bytes: &[u8], here: impl Fn(&str) -> Option<OsString>) -> Result<Vec<(String, String)>, String> {
    let bytes = bytes.strip_prefix(b"\xef\xbb\xbf").unwrap_or(bytes);
    let mut variables = Vec::new();
    for (number, line) in (1..).zip(bytes.split(|byte| *byte == b'\n')) {
        let wrong = |what: &str| format!("line {number}: {what}");
        let line = std::str::from_utf8(line).map_err(|_| wrong("it is not UTF-8"))?;
        let line = line.strip_suffix('\r').unwrap_or(line).trim_start_matches([' ', '\t']);
        if line.is_empty() || line.starts_with('#') {
            continue;
        }
        let (name, value) = match line.split_once('=') {
            Some((name, value)) => (name, Some(value.to_owned())),
            None => (line, None),
        };
        if name.is_empty() {
            return Err(wrong("there is no name before the ="));
        }
        if name.contains([' ', '\t']) {
            return Err(wrong(&format!("{name:?} is no name: there is a space in it")));
        }
        let value = match value {
            Some(value) => Some(value),
            None => match here(name).map(OsString::into_string) {
                Some(Err(_)) => return Err(wrong(&format!("the value of {name} here is not UTF-8"))),
                Some(Ok(value)) => Some(value),
                None => None,
            },
        };
        let Some(value) = value else { continue };
        if name.contains('\0') || value.contains('\0') {
            return Err(wrong("there is a zero byte in it"));
        }
        variables.push((name.to_owned(), value));
    }
    Ok(variables)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn parsed(text: &[u8]) -> Result<Vec<(String, String)>, String> {
        parse(text, |name| (name == "HERE").then(|| OsString::from("yes")))
    }

    #[test]
    fn lines_are_dockers() {
        let text = b"\xef\xbb\xbfA=b\n# a comment\n\n  B=c d \r\n\tC=\"q\"=x#y\nHERE\nNOT_HERE\nD=\nA=again";
        let expected = [("A", "b"), ("B", "c d "), ("C", "\"q\"=x#y"), ("HERE", "yes"), ("D", ""), ("A", "again")];
        let expected: Vec<_> = expected.map(|(name, value)| (name.to_owned(), value.to_owned())).into();
        assert_eq!(parsed(text), Ok(expected));
        assert_eq!(parsed(b""), Ok(Vec::new()));
    }

    #[test]
    fn what_is_wrong_is_told_with_its_line() {
        for (text, said) in [
            (&b"A=b\n=c"[..], "line 2: there is no name before the ="),
            (b"export A=b", "line 1: \"export A\" is no name: there is a space in it"),
            (b"\n\nA=\xff", "line 3: it is not UTF-8"),
            (b"A=\0", "line 1: there is a zero byte in it"),
        ] {
            assert_eq!(parsed(text), Err(said.to_owned()));
        }
    }
}

//! What entries of a catalog may be called: names that are parts of file names and addresses as they stand.

use std::fmt;
use std::str::FromStr;

use oci::{Architecture, Digest};
use serde::{Deserialize, Serialize};

/// As long as a name of an image may be, and so short that a file's name has room for the rest.
const NAME_LETTERS_MAX: usize = 64;
/// Of a distribution, a processor, a version.
const WORD_LETTERS_MAX: usize = 64;
/// What a bundle's file ends in.
pub(crate) const BUNDLE_SUFFIX: &str = ".tar.zst";
/// Digits of a digest in the name of a file.
const PREFIX_DIGITS: usize = 12;
/// Fewer make no file's name its own.
const PREFIX_DIGITS_MIN: usize = 8;
/// Of the path of a file beside its catalog.
const FILE_LETTERS_MAX: usize = 400;

/// Text that is no name.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("{text:?} is no {what}: {rule}")]
pub struct NotAName {
    what: &'static str,
    /// Its beginning.
    text: String,
    rule: &'static str,
}

/// The name of an image or a kernel: letters, digits, `.`, `-` and `_`, a letter or digit first.
#[derive(Debug, Clone, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(into = "String", try_from = "String")]
pub struct Name(String);

/// A distribution, a processor or a version: as [`Name`], with `+`, `~` and `:` besides.
#[derive(Debug, Clone, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(into = "String", try_from = "String")]
pub struct Word(String);

fn is_in_name(letter: char) -> bool {
    letter.is_ascii_alphanumeric() || ".-_".contains(letter)
}

fn checked(
    what: &'static str,
    text: &str,
    letters_max: usize,
    also: &str,
    rule: &'static str,
) -> Result<String, NotAName> {
    let is_name = text.len() <= letters_max
        && text.starts_with(|first: char| first.is_ascii_alphanumeric())
        && text.chars().all(|letter| is_in_name(letter) || also.contains(letter));
    if is_name { Ok(text.to_owned()) } else { Err(NotAName { what, text: text.chars().take(100).collect(), rule }) }
}

impl Name {
    /// As it is written.
    #[must_use]
    pub fn as_str(&self) -> &str {
        &self.0
    }
}

impl FromStr for Name {
    type Err = NotAName;

    fn from_str(text: &str) -> Result<Name, NotAName> {
        let rule = "at most 64 letters, digits, dots, dashes and underscores, a letter or digit first";
        checked("name", text, NAME_LETTERS_MAX, "", rule).map(Name)
    }
}

impl Word {
    /// As it is written.
    #[must_use]
    pub fn as_str(&self) -> &str {
        &self.0
    }

    /// As banger spells the processor that this names: `amd64`, also where it says `x86_64`.
    #[must_use]
    pub fn processor(&self) -> &str {
        match self.0.as_str() {
            "x86_64" => Architecture::Amd64.name(),
            "aarch64" => Architecture::Arm64.name(),
            other => other,
        }
    }

    /// Whether it names this processor.
    #[must_use]
    pub fn is_for(&self, architecture: Architecture) -> bool {
        self.processor() == architecture.name()
    }
}

impl FromStr for Word {
    type Err = NotAName;

    fn from_str(text: &str) -> Result<Word, NotAName> {
        let rule = "at most 64 letters, digits and . - _ + ~ :, a letter or digit first";
        checked("name of a distribution, a processor or a version", text, WORD_LETTERS_MAX, "+~:", rule).map(Word)
    }
}

macro_rules! as_text {
    ($type:ident) => {
        impl fmt::Display for $type {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str(&self.0)
            }
        }

        impl TryFrom<String> for $type {
            type Error = NotAName;

            fn try_from(text: String) -> Result<$type, NotAName> {
                text.parse()
            }
        }

        impl From<$type> for String {
            fn from(name: $type) -> String {
                name.0
            }
        }
    };
}

as_text!(Name);
as_text!(Word);

/// What the file of a bundle is called: its name has its content's in it, so that it never changes where it is served.
#[must_use]
pub fn file_name(name: &Name, arch: &Word, sha256: &Digest) -> String {
    format!("{name}-{arch}-{}{BUNDLE_SUFFIX}", &sha256.hex()[..PREFIX_DIGITS])
}

/// Whether `file` is the path of a bundle beside its catalog: directories perhaps, and a name as [`file_name`] gives it.
pub(crate) fn is_file_of(file: &str, name: &Name, arch: &Word, sha256: &Digest) -> bool {
    let last = file.rsplit('/').next().unwrap_or_default();
    let prefix = last
        .strip_prefix(name.as_str())
        .and_then(|rest| rest.strip_prefix('-')?.strip_prefix(arch.as_str())?.strip_prefix('-'))
        .and_then(|rest| rest.strip_suffix(BUNDLE_SUFFIX));
    let is_addressed =
        prefix.is_some_and(|prefix| prefix.len() >= PREFIX_DIGITS_MIN && sha256.hex().starts_with(prefix));
    let is_component = |part: &str| {
        part.starts_with(|first: char| first.is_ascii_alphanumeric())
            && part.chars().all(|letter| is_in_name(letter) || "+~".contains(letter))
    };
    is_addressed && file.len() <= FILE_LETTERS_MAX && file.split('/').all(is_component)
}

/// Whether a file's name ends as [`file_name`] has it: what publishing may remove.
pub(crate) fn is_content_addressed(file: &str) -> bool {
    let prefix = file.strip_suffix(BUNDLE_SUFFIX).and_then(|stem| stem.rsplit_once('-'));
    prefix.is_some_and(|(_, prefix)| {
        prefix.len() >= PREFIX_DIGITS_MIN && prefix.bytes().all(|digit| matches!(digit, b'0'..=b'9' | b'a'..=b'f'))
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_are_parts_of_paths_as_they_stand() {
        for good in ["a", "debian-bookworm", "generic-6.12", "A_1.x", &"n".repeat(64)] {
            assert_eq!(good.parse::<Name>().unwrap().as_str(), good);
        }
        for bad in ["", ".", "..", "-a", "a/b", "a b", "a+b", "ä", "a\n", &"n".repeat(65)] {
            assert!(bad.parse::<Name>().is_err(), "{bad:?}");
        }
        assert!("6.12.48+deb13-amd64".parse::<Word>().is_ok() && "a b".parse::<Word>().is_err());
    }

    #[test]
    fn processors_have_two_names() {
        let word = |text: &str| text.parse::<Word>().unwrap();
        assert!(word("x86_64").is_for(Architecture::Amd64) && word("amd64").is_for(Architecture::Amd64));
        assert!(word("aarch64").is_for(Architecture::Arm64) && !word("riscv64").is_for(Architecture::Arm64));
    }

    #[test]
    fn files_are_named_by_their_content_and_stay_beside_their_catalog() {
        let (name, arch, digest) = ("a-b".parse().unwrap(), "amd64".parse().unwrap(), Digest::of(b"x"));
        let file = file_name(&name, &arch, &digest);
        assert!(is_content_addressed(&file), "{file}");
        let long = format!("a-b-amd64-{}.tar.zst", digest.hex());
        for good in [file.clone(), format!("images/{file}"), format!("i/2026+1/{long}")] {
            assert!(is_file_of(&good, &name, &arch, &digest), "{good}");
        }
        let other = file_name(&name, &arch, &Digest::of(b"y"));
        let short = format!("a-b-amd64-{}.tar.zst", &digest.hex()[..7]);
        for bad in [
            format!("/{file}"),
            format!("../{file}"),
            format!("./{file}"),
            format!("a//{file}"),
            format!(".hidden/{file}"),
            format!("a?b/{file}"),
            format!("https://x/{file}"),
            format!("{file}.sig"),
            other,
            short,
            "a-b-amd64.tar.zst".to_owned(),
            String::new(),
        ] {
            assert!(!is_file_of(&bad, &name, &arch, &digest), "{bad}");
        }
    }
}

//! Names of images in registries, by Docker's grammar.
//!
//! ```text
//! reference = [domain "/"] path [":" tag] ["@" digest]
//! domain    = host [":" port]            without one: docker.io
//! path      = component *("/" component) on docker.io alone: library/ before it
//! ```
//!
//! What stands before the first slash is a domain when it has a dot, a colon or a capital letter in it, or is `localhost`.
//! A reference without tag and digest means the tag `latest`; one with both is fetched by its digest.

use std::fmt;
use std::str::FromStr;

use crate::digest::{Digest, NotADigest};

/// The registry of names that have none.
pub const DOCKER_HUB: &str = "docker.io";
/// Where Docker Hub's registry answers.
pub(crate) const DOCKER_HUB_HOST: &str = "registry-1.docker.io";
/// What Docker Hub was called; still found in files.
const DOCKER_HUB_OLD: &str = "index.docker.io";
/// Where Docker Hub keeps what has no owner.
const OFFICIAL: &str = "library";
const LATEST: &str = "latest";
/// Docker's limit for domain and path together.
const NAME_BYTES_MAX: usize = 255;
const TAG_BYTES_MAX: usize = 128;
/// Hexadecimal digits of a digest that make a default name.
const NAME_DIGITS: usize = 12;
/// The longest default name: that of an image in banger.
const DEFAULT_NAME_BYTES_MAX: usize = 128;

/// An image in a registry, by its full name.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub struct Reference {
    domain: String,
    path: String,
    tag: Option<String>,
    digest: Option<Digest>,
}

/// Text that names no image.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("{text:?} names no image: {why}")]
pub struct ReferenceError {
    text: String,
    why: Why,
}

#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
enum Why {
    #[error("it is empty")]
    Empty,
    #[error("{0:?} is no registry")]
    Domain(String),
    #[error("{0:?} is no name; a name has small letters, digits, and between them one of '.', '_', '__' or dashes")]
    Component(String),
    #[error(
        "{0:?} is no tag; a tag has at most 128 letters, digits, '_', '.' and '-' and begins with none of the last two"
    )]
    Tag(String),
    #[error("{0}")]
    Digest(NotADigest),
    #[error("it is longer than 255 bytes")]
    Long,
    #[error("64 hexadecimal digits are an image's id; write NAME@sha256:DIGITS")]
    Id,
}

impl Reference {
    /// The registry's name: a host and perhaps a port.
    #[must_use]
    pub fn domain(&self) -> &str {
        &self.domain
    }

    /// The repository in the registry.
    #[must_use]
    pub fn path(&self) -> &str {
        &self.path
    }

    /// The tag; none is only beside a digest.
    #[must_use]
    pub fn tag(&self) -> Option<&str> {
        self.tag.as_deref()
    }

    /// The digest of the manifest, when it is pinned.
    #[must_use]
    pub fn digest(&self) -> Option<Digest> {
        self.digest
    }

    /// What is asked of the registry: the digest, else the tag.
    #[must_use]
    pub fn target(&self) -> String {
        match self.digest {
            Some(digest) => digest.to_string(),
            None => self.tag().unwrap_or(LATEST).to_owned(),
        }
    }

    /// As people write it: without the registry when it is Docker's, without `library/`, always with what is asked of the
    /// registry, `debian:bookworm`.
    #[must_use]
    pub fn familiar(&self) -> String {
        let whole = self.to_string();
        match whole.strip_prefix("docker.io/") {
            Some(path) => path.strip_prefix("library/").unwrap_or(path).to_owned(),
            None => whole,
        }
    }

    /// What the image is called here unless somebody says otherwise: `debian-bookworm` for
    /// `docker.io/library/debian:bookworm`, `alpine` for its latest.
    #[must_use]
    pub fn default_name(&self) -> String {
        let base = self.path.rsplit('/').next().unwrap_or(&self.path);
        let mut name = match (&self.tag, self.digest) {
            (Some(tag), _) if tag != LATEST => format!("{base}-{tag}"),
            (None, Some(digest)) => format!("{base}-{}", &digest.hex()[..NAME_DIGITS]),
            _ => base.to_owned(),
        };
        name.truncate(DEFAULT_NAME_BYTES_MAX);
        name
    }
}

impl fmt::Display for Reference {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}/{}", self.domain, self.path)?;
        if let Some(tag) = self.tag() {
            write!(f, ":{tag}")?;
        }
        self.digest.map_or(Ok(()), |digest| write!(f, "@{digest}"))
    }
}

impl FromStr for Reference {
    type Err = ReferenceError;

    fn from_str(text: &str) -> Result<Reference, ReferenceError> {
        parse(text).map_err(|why| ReferenceError { text: text.chars().take(NAME_BYTES_MAX).collect(), why })
    }
}

fn parse(text: &str) -> Result<Reference, Why> {
    let (named, digest) = match text.split_once('@') {
        Some((named, digest)) => (named, Some(digest.parse().map_err(Why::Digest)?)),
        None => (text, None),
    };
    // The colon of a port is followed by a slash.
    let (name, tag) = match named.rsplit_once(':') {
        Some((name, tag)) if !tag.contains('/') => (name, Some(tag)),
        _ => (named, None),
    };
    if name.is_empty() {
        return Err(Why::Empty);
    }
    if digest.is_none() && Digest::from_hex(name).is_ok() {
        return Err(Why::Id);
    }
    let (domain, path) = match name.split_once('/') {
        Some((first, rest)) if is_meant_as_domain(first) => (first, rest),
        _ => (DOCKER_HUB, name),
    };
    if !is_domain(domain) {
        return Err(Why::Domain(domain.to_owned()));
    }
    if let Some(bad) = path.split('/').find(|component| !is_component(component)) {
        return Err(Why::Component(bad.to_owned()));
    }
    if let Some(bad) = tag.filter(|tag| !is_tag(tag)) {
        return Err(Why::Tag(bad.to_owned()));
    }
    let domain = if domain == DOCKER_HUB_OLD { DOCKER_HUB } else { domain };
    let is_official = domain == DOCKER_HUB && !path.contains('/');
    let path = if is_official { format!("{OFFICIAL}/{path}") } else { path.to_owned() };
    if domain.len() + 1 + path.len() > NAME_BYTES_MAX {
        return Err(Why::Long);
    }
    let tag = tag.or(if digest.is_none() { Some(LATEST) } else { None });
    Ok(Reference { domain: domain.to_ascii_lowercase(), path, tag: tag.map(str::to_owned), digest })
}

fn is_meant_as_domain(first: &str) -> bool {
    first == "localhost" || first.contains(['.', ':']) || first.bytes().any(|byte| byte.is_ascii_uppercase())
}

/// A host name, an IPv4 address or an IPv6 address in brackets, and perhaps a port.
pub(crate) fn is_domain(text: &str) -> bool {
    let (host, port) = match text.rsplit_once(':') {
        Some((host, port)) if !port.ends_with(']') => (host, Some(port)),
        _ => (text, None),
    };
    let is_label = |label: &str| {
        !label.is_empty()
            && !label.starts_with('-')
            && !label.ends_with('-')
            && label.bytes().all(|byte| byte.is_ascii_alphanumeric() || byte == b'-')
    };
    let is_host = match host.strip_prefix('[').and_then(|host| host.strip_suffix(']')) {
        Some(address) => address.parse::<std::net::Ipv6Addr>().is_ok(),
        None => host.split('.').all(is_label),
    };
    is_host && port.is_none_or(|port| port.bytes().all(|byte| byte.is_ascii_digit()) && port.parse::<u16>().is_ok())
}

/// Runs of small letters and digits, with one separator between two of them: `.`, `_`, `__` or any number of dashes.
fn is_component(text: &str) -> bool {
    let is_word = |byte: &u8| byte.is_ascii_lowercase() || byte.is_ascii_digit();
    let is_separator = |run: &[u8]| matches!(run, b"." | b"_" | b"__") || run.iter().all(|byte| *byte == b'-');
    let bytes = text.as_bytes();
    bytes.first().is_some_and(is_word)
        && bytes.last().is_some_and(is_word)
        && bytes.split(is_word).filter(|run| !run.is_empty()).all(is_separator)
}

fn is_tag(text: &str) -> bool {
    !text.is_empty()
        && text.len() <= TAG_BYTES_MAX
        && !text.starts_with(['.', '-'])
        && text.bytes().all(|byte| byte.is_ascii_alphanumeric() || matches!(byte, b'_' | b'.' | b'-'))
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    const DIGEST: &str = "sha256:e3b0c44298fc1c149afbf4c8996fb92427ae41e4649b934ca495991b7852b855";

    #[test]
    fn names_are_completed_as_docker_does() {
        let table = [
            ("alpine", "docker.io/library/alpine:latest", "alpine"),
            ("debian:bookworm", "docker.io/library/debian:bookworm", "debian-bookworm"),
            ("docker.io/library/debian:bookworm", "docker.io/library/debian:bookworm", "debian-bookworm"),
            ("index.docker.io/debian", "docker.io/library/debian:latest", "debian"),
            ("someone/thing", "docker.io/someone/thing:latest", "thing"),
            ("ghcr.io/a/b_c/d-e.f:V1.2-x", "ghcr.io/a/b_c/d-e.f:V1.2-x", "d-e.f-V1.2-x"),
            ("localhost/x", "localhost/x:latest", "x"),
            ("localhost:5000/x:1", "localhost:5000/x:1", "x-1"),
            ("127.0.0.1:5000/x", "127.0.0.1:5000/x:latest", "x"),
            ("[::1]:5000/x", "[::1]:5000/x:latest", "x"),
            ("[fe80::1]/x", "[fe80::1]/x:latest", "x"),
            ("HOST/x", "host/x:latest", "x"),
            ("a__b/c---d", "docker.io/a__b/c---d:latest", "c---d"),
        ];
        for (text, full, name) in table {
            let reference: Reference = text.parse().unwrap();
            assert_eq!((reference.to_string(), reference.default_name()), (full.to_owned(), name.to_owned()));
        }
    }

    #[test]
    fn a_digest_pins_whatever_the_tag() {
        let both: Reference = format!("x:1@{DIGEST}").parse().unwrap();
        assert_eq!((both.tag(), both.target().as_str()), (Some("1"), DIGEST));
        assert_eq!(both.to_string(), format!("docker.io/library/x:1@{DIGEST}"));
        assert_eq!(both.default_name(), "x-1");
        let pinned: Reference = format!("h.io/x@{DIGEST}").parse().unwrap();
        assert_eq!((pinned.tag(), pinned.to_string()), (None, format!("h.io/x@{DIGEST}")));
        assert_eq!(pinned.default_name(), "x-e3b0c44298fc");
    }

    #[test]
    fn what_names_nothing_is_refused_with_its_part() {
        let long = format!("h.io/{}", "a".repeat(251));
        let table = [
            ("", "empty"),
            (":tag", "empty"),
            ("Alpine", "\"Alpine\" is no name"),
            ("a//b", "\"\" is no name"),
            ("a/", "\"\" is no name"),
            ("/a", "\"\" is no name"),
            ("a/../b", "\"..\" is no name"),
            ("a.io/-b", "\"-b\" is no name"),
            ("a___b", "\"a___b\" is no name"),
            ("a._b", "\"a._b\" is no name"),
            ("a b", "is no name"),
            ("x:", "is no tag"),
            ("x:.1", "is no tag"),
            ("x:a:b", "is no name"),
            ("h.io:99999/x", "is no registry"),
            ("h.io:/x", "is no registry"),
            ("-h.io/x", "is no registry"),
            ("[::z]:1/x", "is no registry"),
            ("user@h.io/x", "is no digest"),
            ("x@sha512:00", "is no digest"),
            (&DIGEST[7..], "image's id"),
            (&long, "255 bytes"),
            (&format!("x:{}", "t".repeat(129)), "is no tag"),
        ];
        for (text, why) in table {
            let refused = text.parse::<Reference>().expect_err(text).to_string();
            assert!(refused.contains(why), "{text}: {refused}");
        }
    }

    proptest! {
        #[test]
        fn what_is_shown_reads_back(
            domain in "([a-z0-9]{1,6}\\.[a-z]{2,3}(:[1-9][0-9]{1,3})?/)?",
            path in "[a-z0-9]{1,5}(/[a-z0-9]{1,5}((\\.|_|__|-{1,3})[a-z0-9]{1,3}){0,2}){0,3}",
            tag in "(:[A-Za-z0-9_][A-Za-z0-9_.-]{0,20})?",
            digest in any::<Option<[u8; 4]>>(),
        ) {
            let digest = digest.map(|seed| format!("@{}", Digest::of(&seed))).unwrap_or_default();
            let reference: Reference = format!("{domain}{path}{tag}{digest}").parse().unwrap();
            prop_assert_eq!(reference.to_string().parse(), Ok(reference.clone()));
            let name = reference.default_name();
            prop_assert!(!name.is_empty() && name.len() <= 128 && !name.starts_with(['.', '-']), "{}", name);
        }

        #[test]
        fn arbitrary_text_never_panics(text in "[a-zA-Z0-9:/@._\\[\\]\\PC-]{0,60}") {
            if let Ok(reference) = text.parse::<Reference>() {
                prop_assert_eq!(reference.to_string().parse(), Ok(reference));
            }
        }
    }
}

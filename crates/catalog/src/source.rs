//! Where a catalog is, and what it must prove there.
//!
//! | source | is believed |
//! |---|---|
//! | `https://host/path/` | with a signature |
//! | `http://host/path/` | with a signature, on this host or where its owner said that he knows |
//! | `/a/directory` | with a signature |
//! | on this host, of either kind | also without one, where its owner said so |
//!
//! A path or an address may name `catalog.json` itself; what counts is where that is.

use std::fmt;
use std::path::PathBuf;

use oci::options::is_this_host;

use crate::keys::PublicKey;

/// What the list is called.
pub const CATALOG_FILE: &str = "catalog.json";
/// What its signatures are called.
pub const SIGNATURE_FILE: &str = "catalog.json.sig";
/// Of an address.
const ADDRESS_LETTERS_MAX: usize = 2000;

/// Where a catalog is.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Source {
    /// On a web server.
    Web {
        /// The address of its directory, with a slash behind it.
        base: String,
        /// It is this host's.
        is_local: bool,
    },
    /// In a directory.
    Directory(PathBuf),
}

/// Whether a catalog may come over the network without TLS. Its signature is checked even so: what others see is what
/// somebody fetches.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum Insecure {
    /// No.
    #[default]
    Refused,
    /// Its owner said so.
    Allowed,
}

/// Whom a catalog is believed.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Trust {
    /// Who has one of these keys.
    Keys(Vec<PublicKey>),
    /// Anybody, unsigned: for a directory or a server of this host.
    None,
}

/// A source and whom it is believed.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Site {
    source: Source,
    trust: Trust,
}

/// A source that is not used.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum SourceError {
    /// Not an address, and not a path.
    #[error("{0:?} is neither the https address of a catalog nor an absolute path")]
    Malformed(String),
    /// Everybody in between could read and change it.
    #[error("{0} is not fetched without TLS")]
    Plain(String),
    /// Nobody is trusted.
    #[error("no key is trusted to sign the catalog at {0}")]
    NoKey(String),
    /// It is elsewhere, and anybody could have written it.
    #[error("the catalog at {0} is not on this host and must be signed")]
    Unsigned(String),
}

impl SourceError {
    /// What a person can do about it.
    #[must_use]
    pub fn hint(&self) -> Option<&'static str> {
        match self {
            SourceError::Malformed(_) => None,
            SourceError::Plain(_) => Some("use its https address; or allow it, if the network is your own"),
            SourceError::NoKey(_) => Some("add the publisher's public key to the trusted keys"),
            SourceError::Unsigned(_) => Some("trust = \"none\" is for directories and for servers on this host"),
        }
    }
}

impl Source {
    /// Reads what somebody set.
    ///
    /// # Errors
    /// When it is neither an address nor a path, or an address without TLS that nobody allowed.
    pub fn parse(text: &str, insecure: Insecure) -> Result<Source, SourceError> {
        let shown = || text.chars().take(200).collect();
        let malformed = || SourceError::Malformed(shown());
        let text = text.strip_suffix(CATALOG_FILE).filter(|rest| rest.ends_with('/')).unwrap_or(text);
        if text.starts_with('/') {
            return Ok(Source::Directory(PathBuf::from(text)));
        }
        let (scheme, rest) = text.split_once("://").ok_or_else(malformed)?;
        let (host, path) = rest.split_once('/').unwrap_or((rest, ""));
        let is_host =
            !host.is_empty() && host.chars().all(|letter| letter.is_ascii_alphanumeric() || ".-_:[]".contains(letter));
        let is_path = path.chars().all(|letter| letter.is_ascii_graphic() && !"?#\\\"<>".contains(letter));
        if !is_host || !is_path || text.len() > ADDRESS_LETTERS_MAX {
            return Err(malformed());
        }
        let is_local = is_this_host(host);
        match scheme {
            "https" => {}
            "http" if is_local || insecure == Insecure::Allowed => {}
            "http" => return Err(SourceError::Plain(shown())),
            _ => return Err(malformed()),
        }
        let slash = if path.is_empty() || path.ends_with('/') { "" } else { "/" };
        Ok(Source::Web { base: format!("{scheme}://{host}/{path}{slash}"), is_local })
    }

    fn is_local(&self) -> bool {
        match self {
            Source::Web { is_local, .. } => *is_local,
            Source::Directory(_) => true,
        }
    }
}

impl fmt::Display for Source {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Source::Web { base, .. } => f.write_str(base),
            Source::Directory(path) => fmt::Display::fmt(&path.display(), f),
        }
    }
}

impl Site {
    /// A source that is believed so.
    ///
    /// # Errors
    /// When nobody is trusted, or anybody would be for what is elsewhere.
    pub fn new(source: Source, trust: Trust) -> Result<Site, SourceError> {
        match &trust {
            Trust::Keys(keys) if keys.is_empty() => Err(SourceError::NoKey(source.to_string())),
            Trust::None if !source.is_local() => Err(SourceError::Unsigned(source.to_string())),
            Trust::Keys(_) | Trust::None => Ok(Site { source, trust }),
        }
    }

    /// Where it is.
    #[must_use]
    pub fn source(&self) -> &Source {
        &self.source
    }

    /// Whom it is believed.
    #[must_use]
    pub fn trust(&self) -> &Trust {
        &self.trust
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::keys::{Algorithm, keygen};

    fn shown(text: &str, insecure: Insecure) -> Result<String, SourceError> {
        Source::parse(text, insecure).map(|source| source.to_string())
    }

    #[test]
    fn addresses_are_those_of_directories() {
        for (text, expected) in [
            ("https://x.org", "https://x.org/"),
            ("https://x.org/a", "https://x.org/a/"),
            ("https://x.org:8443/a/catalog.json", "https://x.org:8443/a/"),
            ("http://127.0.0.1:8000/", "http://127.0.0.1:8000/"),
            ("http://localhost/a/", "http://localhost/a/"),
            ("http://[::1]:80", "http://[::1]:80/"),
            ("/srv/catalog", "/srv/catalog"),
            ("/srv/catalog/catalog.json", "/srv/catalog/"),
        ] {
            assert_eq!(shown(text, Insecure::Refused).as_deref(), Ok(expected), "{text}");
        }
        assert!(shown("http://x.org/", Insecure::Allowed).is_ok());
    }

    #[test]
    fn what_is_no_address_is_refused() {
        let refused = |text: &str| shown(text, Insecure::Refused).unwrap_err();
        for text in ["http://x.org/", "http://localhost.x.org/", "http://2130706433/"] {
            assert!(matches!(refused(text), SourceError::Plain(_)), "{text}");
        }
        for text in [
            "",
            "x.org",
            "a/b",
            "ftp://x.org/",
            "file:///x",
            "https:///x",
            "https://user:word@x.org/",
            "http://localhost\\@x.org/",
            "https://x.org/?a",
            "https://x.org/#a",
            "https://x.org/a b",
        ] {
            assert!(matches!(refused(text), SourceError::Malformed(_)), "{text}");
        }
    }

    #[test]
    fn only_this_host_is_believed_without_a_signature() {
        let site = |text: &str, trust| Site::new(Source::parse(text, Insecure::Allowed).unwrap(), trust);
        let key = keygen(Algorithm::Ed25519).unwrap().public;
        for text in ["/srv/x", "http://127.0.0.1/", "https://localhost/"] {
            assert!(site(text, Trust::None).is_ok(), "{text}");
        }
        for text in ["https://x.org/", "http://10.0.0.1/"] {
            assert!(matches!(site(text, Trust::None), Err(SourceError::Unsigned(_))), "{text}");
            assert!(matches!(site(text, Trust::Keys(Vec::new())), Err(SourceError::NoKey(_))));
            assert!(site(text, Trust::Keys(vec![key.clone()])).is_ok());
        }
    }
}

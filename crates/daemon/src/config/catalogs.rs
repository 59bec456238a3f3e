//! `[catalog]`: where images and kernels can be had by a short name, and who signs the list of them.
//!
//! What is written is checked when the file is read; [`CatalogSection::site`] reads the keys that are in files.

use std::fs::File;
use std::io::Read;
use std::path::Path;

use catalog::source::Insecure;
use catalog::{KeyError, PublicKey, Site, Source, SourceError, Trust};
use serde::Deserialize;

use super::{ConfigError, expanded, is_rooted};

/// A public key has some hundred bytes.
const KEY_BYTES_MAX: u64 = 64 << 10;

/// `[catalog]`.
#[derive(Debug, Clone, Default, PartialEq, Eq, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct CatalogSection {
    /// Its address, or the absolute path of its directory.
    pub source: String,
    /// Who is trusted to sign it: public keys on one line, or paths of their PEM files.
    #[serde(default)]
    pub keys: Vec<String>,
    /// Whether nobody needs to sign it. For directories and for servers of this host.
    #[serde(default)]
    pub unsigned: bool,
    /// Whether it may come from elsewhere without TLS.
    #[serde(default)]
    pub insecure_http: bool,
}

/// A `[catalog]` that is refused.
#[derive(Debug, thiserror::Error)]
pub enum CatalogError {
    /// Its source, or what it would be believed.
    #[error(transparent)]
    Source(#[from] SourceError),
    /// It says that nobody signs it, and who does.
    #[error("it has keys, and unsigned = true")]
    Both,
    /// A key on one line that is none.
    #[error(transparent)]
    Key(#[from] KeyError),
    /// A key that is neither.
    #[error("{0:?} is neither a public key nor a path, absolute or below ~/, of one")]
    NoKey(String),
    /// A file without a key.
    #[error("there is no public key in {path}")]
    KeyFile {
        /// The file.
        path: String,
        /// Why.
        #[source]
        source: KeyError,
    },
}

/// How a key is written: in a file, or here.
fn is_inline(key: &str) -> bool {
    key.starts_with("ed25519:") || key.starts_with("ecdsa-p256-sha256:") || key.starts_with("-----BEGIN ")
}

impl CatalogSection {
    fn source(&self) -> Result<Source, SourceError> {
        Source::parse(&self.source, if self.insecure_http { Insecure::Allowed } else { Insecure::Refused })
    }

    /// Refuses what can be told from the text alone.
    pub(super) fn check(&self) -> Result<(), CatalogError> {
        let source = self.source()?;
        for key in &self.keys {
            if is_inline(key) {
                key.parse::<PublicKey>()?;
            } else if !is_rooted(key) {
                return Err(CatalogError::NoKey(key.chars().take(100).collect()));
            }
        }
        let trust = match (self.unsigned, self.keys.is_empty()) {
            (true, false) => return Err(CatalogError::Both),
            (true, true) => Trust::None,
            (false, true) => Trust::Keys(Vec::new()),
            (false, false) => return Ok(()),
        };
        Site::new(source, trust)?;
        Ok(())
    }

    /// The catalog and whom it is believed; `~/` is below `home`.
    ///
    /// # Errors
    /// When a file of a key cannot be read or holds none.
    pub fn site(&self, home: &Path) -> Result<Site, ConfigError> {
        let refused = |source: CatalogError| ConfigError::Catalog { source };
        self.check().map_err(refused)?;
        let trust = if self.unsigned {
            Trust::None
        } else {
            Trust::Keys(self.keys.iter().map(|key| public_key(key, home)).collect::<Result<_, _>>()?)
        };
        self.source().and_then(|source| Site::new(source, trust)).map_err(|error| refused(error.into()))
    }
}

fn public_key(key: &str, home: &Path) -> Result<PublicKey, ConfigError> {
    if is_inline(key) {
        return key.parse().map_err(|error: KeyError| ConfigError::Catalog { source: error.into() });
    }
    let path = expanded(key, home);
    let mut text = String::new();
    let read = File::open(&path).and_then(|file| file.take(KEY_BYTES_MAX).read_to_string(&mut text));
    read.map_err(|source| ConfigError::Read { path: path.clone(), source })?;
    let parsed = text.parse::<PublicKey>();
    parsed.map_err(|source| ConfigError::Catalog {
        source: CatalogError::KeyFile { path: path.display().to_string(), source },
    })
}

#[cfg(test)]
mod tests {
    use catalog::{Algorithm, keygen};

    use super::*;

    fn section(text: &str) -> CatalogSection {
        toml::from_str(text).unwrap()
    }

    #[test]
    fn keys_stand_here_or_in_files() {
        let home = tempfile::tempdir().unwrap();
        let (one, two) =
            (keygen(Algorithm::Ed25519).unwrap().public, keygen(Algorithm::EcdsaP256Sha256).unwrap().public);
        std::fs::write(home.path().join("catalog.pem"), two.to_pem()).unwrap();
        let text = format!("source = \"https://x.org/c\"\nkeys = [\"{one}\", \"~/catalog.pem\"]");
        let site = section(&text).site(home.path()).unwrap();
        assert_eq!(site.trust(), &Trust::Keys(vec![one, two]));
        assert_eq!(site.source().to_string(), "https://x.org/c/");
        let local = section("source = \"/srv/catalog\"\nunsigned = true").site(home.path()).unwrap();
        assert_eq!(local.trust(), &Trust::None);
        std::fs::write(home.path().join("catalog.pem"), "no key").unwrap();
        assert!(matches!(section(&text).site(home.path()), Err(ConfigError::Catalog { .. })));
        std::fs::remove_file(home.path().join("catalog.pem")).unwrap();
        assert!(matches!(section(&text).site(home.path()), Err(ConfigError::Read { .. })));
    }

    #[test]
    fn what_is_refused() {
        let key = keygen(Algorithm::Ed25519).unwrap().public;
        for (text, part) in [
            ("source = \"x.org\"".to_owned(), "neither the https address"),
            ("source = \"https://x.org/\"".to_owned(), "no key is trusted"),
            ("source = \"https://x.org/\"\nunsigned = true".to_owned(), "must be signed"),
            (format!("source = \"http://x.org/\"\nkeys = [\"{key}\"]"), "without TLS"),
            (format!("source = \"/srv\"\nunsigned = true\nkeys = [\"{key}\"]"), "unsigned = true"),
            ("source = \"/srv\"\nkeys = [\"ed25519:AA\"]".to_owned(), "no public key"),
            ("source = \"/srv\"\nkeys = [\"catalog.pem\"]".to_owned(), "neither a public key nor a path"),
        ] {
            let refused = section(&text).check().unwrap_err();
            assert!(refused.to_string().contains(part), "{text}: {refused}");
        }
        let allowed = format!("source = \"http://x.org/\"\ninsecure_http = true\nkeys = [\"{key}\"]");
        section(&allowed).check().unwrap();
    }
}

//! A file of credentials: Docker's `config.json` and Podman's `auth.json`, which are one format.

use std::collections::BTreeMap;
use std::io;
use std::path::Path;

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use serde::Deserialize;
use tokio::io::AsyncReadExt;

use super::{Credential, CredentialError};
use crate::reference::DOCKER_HUB;

/// Some KiB is usual; the file also holds what else Docker's client remembers.
const FILE_BYTES_MAX: u64 = 1 << 20;
/// How Docker's own entry for its Hub is called.
pub(super) const DOCKER_HUB_KEY: &str = "https://index.docker.io/v1/";

/// A file of credentials.
#[derive(Debug, Deserialize, Default)]
#[serde(rename_all = "camelCase", default)]
pub(super) struct AuthFile {
    auths: BTreeMap<String, Entry>,
    creds_store: Option<String>,
    cred_helpers: BTreeMap<String, String>,
}

#[derive(Debug, Deserialize, Default)]
#[serde(default)]
struct Entry {
    auth: String,
    username: String,
    password: String,
    identitytoken: String,
    registrytoken: String,
}

impl AuthFile {
    /// Reads it; none when there is none.
    pub(super) async fn read(path: &Path) -> Result<Option<AuthFile>, CredentialError> {
        let failed = |source| CredentialError::Read { path: path.to_owned(), source };
        let file = match tokio::fs::File::open(path).await {
            Ok(file) => file,
            Err(error) if matches!(error.kind(), io::ErrorKind::NotFound | io::ErrorKind::NotADirectory) => {
                return Ok(None);
            }
            Err(error) => return Err(failed(error)),
        };
        let mut bytes = Vec::new();
        file.take(FILE_BYTES_MAX + 1).read_to_end(&mut bytes).await.map_err(failed)?;
        if bytes.len() as u64 > FILE_BYTES_MAX {
            return Err(CredentialError::TooLarge { path: path.to_owned() });
        }
        let parsed = AuthFile::parse(&bytes);
        parsed.map(Some).map_err(|source| CredentialError::Parse { path: path.to_owned(), source })
    }

    pub(super) fn parse(bytes: &[u8]) -> Result<AuthFile, serde_json::Error> {
        if bytes.trim_ascii().is_empty() { Ok(AuthFile::default()) } else { serde_json::from_slice(bytes) }
    }

    /// The helper for this registry alone.
    pub(super) fn helper_for(&self, registry: &str) -> Option<&str> {
        let named = self.cred_helpers.iter().find(|(key, _)| bare(key) == registry);
        named.map(|(_, helper)| helper.as_str()).filter(|helper| !helper.is_empty())
    }

    /// The helper for all registries.
    pub(super) fn store(&self) -> Option<&str> {
        self.creds_store.as_deref().filter(|store| !store.is_empty())
    }

    /// The entry that names the most of the registry and the image's path; one that holds nothing is none.
    pub(super) fn entry_for(
        &self,
        registry: &str,
        image: &str,
        path: &Path,
    ) -> Result<Option<Credential>, CredentialError> {
        let full = format!("{registry}/{image}");
        let matching = self.auths.iter().filter(|(key, entry)| {
            let key = bare(key);
            let is_beginning = full.strip_prefix(key).is_some_and(|rest| rest.is_empty() || rest.starts_with('/'));
            is_beginning && !entry.is_empty()
        });
        let Some((_, entry)) = matching.max_by_key(|(key, _)| bare(key).len()) else { return Ok(None) };
        let refused = || CredentialError::Entry { path: path.to_owned(), registry: registry.to_owned() };
        entry.credential().ok_or_else(refused).map(Some)
    }
}

impl Entry {
    fn is_empty(&self) -> bool {
        [&self.auth, &self.username, &self.identitytoken, &self.registrytoken].iter().all(|field| field.is_empty())
    }

    fn credential(&self) -> Option<Credential> {
        if !self.registrytoken.is_empty() {
            return Some(Credential::Token(self.registrytoken.clone()));
        }
        if !self.identitytoken.is_empty() {
            return Some(Credential::Identity(self.identitytoken.clone()));
        }
        if self.auth.is_empty() {
            return Some(Credential::Basic { user: self.username.clone(), password: self.password.clone() });
        }
        let pair = STANDARD.decode(self.auth.trim()).ok()?;
        let pair = String::from_utf8(pair).ok()?;
        let (user, password) = pair.split_once(':')?;
        // Docker pads the password with zero bytes.
        Some(Credential::Basic { user: user.to_owned(), password: password.trim_end_matches('\0').to_owned() })
    }
}

/// The registry and perhaps a path, of a key that may be the address of an API.
fn bare(key: &str) -> &str {
    if key == DOCKER_HUB_KEY {
        return DOCKER_HUB;
    }
    let address = key.strip_prefix("https://").or_else(|| key.strip_prefix("http://")).unwrap_or(key);
    let address = address.trim_end_matches('/');
    let address = address.strip_suffix("/v1").or_else(|| address.strip_suffix("/v2")).unwrap_or(address);
    if address == "index.docker.io" { DOCKER_HUB } else { address }
}

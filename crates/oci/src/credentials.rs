//! Who the user is to a registry: the files and helpers of Docker and Podman.
//!
//! | file | whose |
//! |---|---|
//! | `$REGISTRY_AUTH_FILE` | Podman's, instead of the next two |
//! | `$XDG_RUNTIME_DIR/containers/auth.json` | Podman's |
//! | `~/.config/containers/auth.json` | Podman's |
//! | `$DOCKER_CONFIG/config.json`, `~/.docker/config.json` | Docker's |
//!
//! The first that knows the registry decides. In a file a helper for the registry comes before an entry, and the entry
//! that names the most of `registry/namespace/name` before one that names less; then comes the store for all. A helper is
//! `docker-credential-NAME get`: it reads the registry's name and prints JSON.

mod file;
mod helper;

use std::ffi::OsString;
use std::fmt;
use std::path::{Path, PathBuf};

use crate::reference::{DOCKER_HUB, DOCKER_HUB_HOST, Reference};
use file::AuthFile;

/// Where credentials are looked for.
#[derive(Debug, Clone, Default)]
pub struct Credentials {
    files: Vec<PathBuf>,
    /// Where helpers are looked for: a value of `PATH`.
    path: OsString,
}

/// What of the environment decides about credentials.
#[derive(Debug, Clone, Default)]
pub struct Places {
    /// `$HOME`.
    pub home: Option<PathBuf>,
    /// `$XDG_RUNTIME_DIR`.
    pub runtime_dir: Option<PathBuf>,
    /// `$XDG_CONFIG_HOME`.
    pub config_home: Option<PathBuf>,
    /// `$REGISTRY_AUTH_FILE`.
    pub auth_file: Option<PathBuf>,
    /// `$DOCKER_CONFIG`.
    pub docker_config: Option<PathBuf>,
    /// `$PATH`.
    pub path: OsString,
}

/// What a registry is shown.
#[derive(Clone, PartialEq, Eq)]
pub enum Credential {
    /// A name and a password.
    Basic {
        /// The name.
        user: String,
        /// The password.
        password: String,
    },
    /// What is exchanged for a token.
    Identity(String),
    /// A token as it is.
    Token(String),
}

/// Credentials that cannot be read.
#[derive(Debug, thiserror::Error)]
pub enum CredentialError {
    /// A file cannot be read.
    #[error("cannot read {}", path.display())]
    Read {
        /// Which.
        path: PathBuf,
        /// Why.
        #[source]
        source: std::io::Error,
    },
    /// A file is larger than any such file is.
    #[error("{} is too large for a file of credentials", path.display())]
    TooLarge {
        /// Which.
        path: PathBuf,
    },
    /// A file is not what it should be.
    #[error("{} is no file of credentials", path.display())]
    Parse {
        /// Which.
        path: PathBuf,
        /// Why.
        #[source]
        source: serde_json::Error,
    },
    /// An entry is no name and password.
    #[error("{} holds no user name and password for {registry}", path.display())]
    Entry {
        /// In which file.
        path: PathBuf,
        /// For whom.
        registry: String,
    },
    /// A helper that a file names is not there.
    #[error("there is no {program} in PATH, which {} names", path.display())]
    NoHelper {
        /// Its name.
        program: String,
        /// Who names it.
        path: PathBuf,
    },
    /// A helper cannot be run.
    #[error("cannot run {program}")]
    RunHelper {
        /// Its name.
        program: String,
        /// Why.
        #[source]
        source: std::io::Error,
    },
    /// A helper says that it failed.
    #[error("{program} failed: {said}")]
    Helper {
        /// Its name.
        program: String,
        /// What it printed.
        said: String,
    },
}

impl Credentials {
    /// Looks where Podman and Docker look.
    #[must_use]
    pub fn at(places: &Places) -> Credentials {
        let below = |dir: &Option<PathBuf>, rest: &str| dir.as_ref().map(|dir| dir.join(rest));
        let podman = match &places.auth_file {
            Some(file) => vec![Some(file.clone())],
            None => vec![
                below(&places.runtime_dir, "containers/auth.json"),
                below(&places.config_home, "containers/auth.json")
                    .or_else(|| below(&places.home, ".config/containers/auth.json")),
            ],
        };
        let docker = below(&places.docker_config, "config.json").or_else(|| below(&places.home, ".docker/config.json"));
        Credentials { files: podman.into_iter().chain([docker]).flatten().collect(), path: places.path.clone() }
    }

    /// What to show the registry that answers at `host`, when it is asked for this image; none: nobody is known to it.
    ///
    /// # Errors
    /// When a file or a helper that should know cannot be read or run.
    pub async fn find(&self, host: &str, image: &Reference) -> Result<Option<Credential>, CredentialError> {
        let registry = if host == DOCKER_HUB_HOST { DOCKER_HUB } else { host };
        for path in &self.files {
            let Some(file) = AuthFile::read(path).await? else { continue };
            if let Some(found) = self.find_in(&file, path, registry, image).await? {
                return Ok(Some(found));
            }
        }
        Ok(None)
    }

    async fn find_in(
        &self,
        file: &AuthFile,
        path: &Path,
        registry: &str,
        image: &Reference,
    ) -> Result<Option<Credential>, CredentialError> {
        if let Some(helper) = file.helper_for(registry) {
            return helper::ask(helper, registry, &self.path, path).await;
        }
        if let Some(found) = file.entry_for(registry, image.path(), path)? {
            return Ok(Some(found));
        }
        match file.store() {
            Some(store) => helper::ask(store, registry, &self.path, path).await,
            None => Ok(None),
        }
    }
}

impl fmt::Debug for Credential {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Credential::Basic { user, .. } => write!(f, "Basic({user}, …)"),
            Credential::Identity(_) => f.write_str("Identity(…)"),
            Credential::Token(_) => f.write_str("Token(…)"),
        }
    }
}

#[cfg(test)]
mod tests;

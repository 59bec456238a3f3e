//! What can go wrong between a registry and the cache, whether it may pass, and what a person can do.

use std::error::Error;
use std::time::Duration;

use reqwest::StatusCode;

use crate::blobs::BlobError;
use crate::credentials::CredentialError;
use crate::digest::Digest;
use crate::manifest::ManifestError;

/// Something that could not be fetched from a registry.
#[derive(Debug, thiserror::Error)]
pub enum RegistryError {
    /// Nothing can be asked of any registry.
    #[error("cannot set up HTTP")]
    SetUp(#[source] reqwest::Error),
    /// A registry's name makes no address.
    #[error("{host} has no address that could be asked for {what}")]
    Address {
        /// Which.
        host: String,
        /// What was asked for.
        what: String,
    },
    /// The registry, or where it sent us, cannot be reached.
    #[error("cannot reach {host} for {what}: {}", deepest(.failure))]
    Reach {
        /// Who was asked.
        host: String,
        /// What was asked for.
        what: String,
        /// Why not: in layers, of which only the lowest says something.
        failure: reqwest::Error,
    },
    /// It says nothing.
    #[error("{host} does not answer for {what} in {}", seconds(.patience))]
    Silent {
        /// Who was asked.
        host: String,
        /// What was asked for.
        what: String,
        /// How long it was waited for.
        patience: Duration,
    },
    /// What it says broke off.
    #[error("{what} breaks off at byte {bytes}")]
    BrokenOff {
        /// What was coming.
        what: String,
        /// How much there is of it.
        bytes: u64,
        /// Why, if not simply because it was over.
        #[source]
        source: Option<reqwest::Error>,
    },
    /// It came too slowly.
    #[error("{what} comes too slowly: less than {bytes_min} bytes in {}", seconds(.stretch))]
    Slow {
        /// What was coming.
        what: String,
        /// What must come …
        bytes_min: u64,
        /// … in this time.
        stretch: Duration,
    },
    /// It sent another part than the one asked for.
    #[error("{host} sends another part of {what} than the one asked for")]
    Part {
        /// Who was asked.
        host: String,
        /// What was asked for.
        what: String,
    },
    /// It wants to know who asks.
    #[error("{host} does not let {} have {what}{}", if *.is_known { "this user" } else { "strangers" }, quoted(.said))]
    Unauthorized {
        /// Who was asked.
        host: String,
        /// What was asked for.
        what: String,
        /// Whether credentials were shown.
        is_known: bool,
        /// What it says about it.
        said: String,
    },
    /// It knows who asks, and refuses.
    #[error("{host} denies access to {what}{}", quoted(.said))]
    Forbidden {
        /// Who was asked.
        host: String,
        /// What was asked for.
        what: String,
        /// What it says about it.
        said: String,
    },
    /// It has no such thing.
    #[error("{host} has no {what}{}", quoted(.said))]
    NotFound {
        /// Who was asked.
        host: String,
        /// What was asked for.
        what: String,
        /// What it says about it.
        said: String,
    },
    /// It was asked too often.
    #[error("{host} was asked too often and gives no {what}{}{}", wait(.retry_after), quoted(.said))]
    RateLimited {
        /// Who was asked.
        host: String,
        /// What was asked for.
        what: String,
        /// When it may be asked again.
        retry_after: Option<Duration>,
        /// What it says about it.
        said: String,
    },
    /// It cannot, at the moment.
    #[error("{host} cannot give {what} ({status}){}", quoted(.said))]
    Unavailable {
        /// Who was asked.
        host: String,
        /// What was asked for.
        what: String,
        /// How it says so.
        status: StatusCode,
        /// When it may be asked again.
        retry_after: Option<Duration>,
        /// What it says about it.
        said: String,
    },
    /// It answers something that no registry answers.
    #[error("{host} answers {status} when asked for {what}{}", quoted(.said))]
    Status {
        /// Who was asked.
        host: String,
        /// What was asked for.
        what: String,
        /// What it answers.
        status: StatusCode,
        /// What it says about it.
        said: String,
    },
    /// It wants to be shown what nobody here can show.
    #[error("{host} asks for an authentication banger does not know: {schemes}")]
    Challenge {
        /// Who was asked.
        host: String,
        /// What it wants.
        schemes: String,
    },
    /// Credentials were to go where they must not.
    #[error("{host} sends us to {realm:?} for a token, and credentials are not shown there")]
    Realm {
        /// Who was asked.
        host: String,
        /// Where it sent us.
        realm: String,
    },
    /// What should be a token is none.
    #[error("{host} gives no token that could be shown")]
    Token {
        /// Who was asked.
        host: String,
    },
    /// A document is larger than any such document is.
    #[error("{what} has more than {limit_bytes} bytes")]
    TooLarge {
        /// Which.
        what: String,
        /// What it may have.
        limit_bytes: u64,
    },
    /// A manifest is another than the one asked for.
    #[error("{host} gives {found} for {what}")]
    Mismatch {
        /// Who was asked.
        host: String,
        /// What was asked for.
        what: String,
        /// What came.
        found: Digest,
    },
    /// An index leads to an index leads to an index.
    #[error("{what} leads from index to index")]
    Nested {
        /// Which.
        what: String,
    },
    /// A manifest cannot be used.
    #[error("cannot use {what}")]
    Manifest {
        /// Which.
        what: String,
        /// Why not.
        #[source]
        source: ManifestError,
    },
    /// Nobody knows who asks.
    #[error("cannot find out who to be for {host}")]
    Credentials {
        /// Who was asked.
        host: String,
        /// Why not.
        #[source]
        source: CredentialError,
    },
    /// What came cannot be kept.
    #[error("cannot keep {what}")]
    Keep {
        /// What came.
        what: String,
        /// Why not.
        #[source]
        source: BlobError,
    },
}

fn seconds(duration: &Duration) -> String {
    format!("{} s", duration.as_secs_f32())
}

fn quoted(said: &str) -> String {
    if said.is_empty() { String::new() } else { format!(": it says {said:?}") }
}

fn wait(retry_after: &Option<Duration>) -> String {
    retry_after.map(|pause| format!(" for another {}", seconds(&pause))).unwrap_or_default()
}

impl RegistryError {
    /// Whether the same may succeed in a moment.
    #[must_use]
    pub fn is_transient(&self) -> bool {
        match self {
            RegistryError::Reach { failure, .. } => !failure.is_redirect() && !failure.is_builder() && !is_tls(failure),
            RegistryError::Silent { .. }
            | RegistryError::BrokenOff { .. }
            | RegistryError::Slow { .. }
            | RegistryError::Part { .. }
            | RegistryError::RateLimited { .. }
            | RegistryError::Unavailable { .. } => true,
            _ => false,
        }
    }

    /// Whether the fault is this host's, so that another registry cannot help.
    #[must_use]
    pub fn is_ours(&self) -> bool {
        match self {
            RegistryError::Keep { source, .. } => {
                !matches!(source, BlobError::Mismatch { .. } | BlobError::TooLarge { .. } | BlobError::Short { .. })
            }
            RegistryError::SetUp(_) => true,
            _ => false,
        }
    }

    /// Whether nobody was there to answer.
    pub(super) fn is_unreached(&self) -> bool {
        matches!(self, RegistryError::Reach { failure, .. } if failure.is_connect())
    }

    /// When it may be asked again, if it says so.
    pub(super) fn retry_after(&self) -> Option<Duration> {
        match self {
            RegistryError::RateLimited { retry_after, .. } | RegistryError::Unavailable { retry_after, .. } => {
                *retry_after
            }
            _ => None,
        }
    }

    /// What a person can do about it.
    #[must_use]
    pub fn hint(&self) -> Option<String> {
        match self {
            RegistryError::Unauthorized { host, is_known: false, .. } => Some(format!(
                "check the name: many registries answer so when there is none; or log in: docker login {host}"
            )),
            RegistryError::Unauthorized { host, is_known: true, .. } => {
                Some(format!("the password or token may have expired: docker login {host}"))
            }
            RegistryError::Forbidden { .. } => Some("ask the owner of the repository for the right to pull".to_owned()),
            RegistryError::NotFound { .. } => Some("check the name, the tag and the registry".to_owned()),
            RegistryError::RateLimited { host, .. } => {
                Some(format!("wait, use a mirror, or log in, which often allows more: docker login {host}"))
            }
            RegistryError::Reach { host, failure, .. } if is_tls(failure) => Some(format!(
                "trust the authority of {host}, or make it an insecure registry, if it is one of your own"
            )),
            RegistryError::Reach { failure, .. } if failure.is_connect() => {
                Some("check the registry's name and this host's network".to_owned())
            }
            RegistryError::Keep { source, .. } if source.is_full() => {
                Some("make room, for instance by pruning images".to_owned())
            }
            _ => None,
        }
    }
}

/// The cause that no other lies behind.
fn deepest(error: &dyn std::error::Error) -> String {
    let mut deepest = error;
    while let Some(source) = deepest.source() {
        deepest = source;
    }
    deepest.to_string()
}

/// Whether the other end is there, but not as TLS wants it.
fn is_tls(error: &reqwest::Error) -> bool {
    error.source().is_some_and(is_by_rustls)
}

/// I/O errors carry others inside, which are not their sources.
fn is_by_rustls(error: &(dyn Error + 'static)) -> bool {
    let inside = error.downcast_ref::<std::io::Error>().and_then(std::io::Error::get_ref);
    error.is::<rustls::Error>()
        || inside.is_some_and(|inside| is_by_rustls(inside))
        || error.source().is_some_and(is_by_rustls)
}

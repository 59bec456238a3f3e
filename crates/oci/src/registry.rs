//! Registries: the distribution protocol, as far as pulling needs it.
//!
//! ```text
//! reference ──► mirrors, then the registry ──► manifest (through an index) ──► configuration and layers, into the cache
//! ```
//!
//! | module | what |
//! |---|---|
//! | `http` | a request, its answer, its deadlines; redirects |
//! | `auth` | becoming known: strangers, passwords, tokens |
//! | `challenge` | what a registry asks for |
//! | `attempts` | when to try once more |
//! | `blob` | a blob into the cache, resumed wherever it breaks off |
//! | `web` | files of a plain web server, by the same means |
//! | `error` | what can go wrong |
//!
//! Nothing is believed: what is asked for by its digest is compared with it, and what is asked for by a tag has the digest
//! of its bytes. A mirror that fails in whatever way is passed over.

mod attempts;
mod auth;
mod blob;
mod challenge;
mod error;
mod http;
mod web;

use std::collections::{HashMap, HashSet};
use std::sync::{Mutex, PoisonError};

use reqwest::header::{ACCEPT, CONTENT_TYPE};

use crate::blobs::{Blobs, Pin, off_thread};
use crate::digest::Digest;
use crate::manifest::{
    self, DOCKER_INDEX, DOCKER_MANIFEST, Document, MANIFEST_BYTES_MAX, Manifest, OCI_INDEX, OCI_MANIFEST,
};
use crate::options::{Endpoint, Options};
use crate::reference::Reference;
use attempts::Attempts;
pub use error::RegistryError;
use http::Clients;
pub use web::Web;

/// Indexes on the way to a manifest. One is usual; two are allowed by the specification.
const INDEXES_MAX: usize = 3;
/// What the registry tells of a manifest's digest.
const CONTENT_DIGEST: &str = "docker-content-digest";

/// A client of registries.
pub struct Registry {
    options: Options,
    clients: Clients,
    /// What each repository is shown.
    shown: tokio::sync::Mutex<HashMap<(Endpoint, String), auth::Shown>>,
    /// Who has answered.
    answered: Mutex<HashSet<Endpoint>>,
}

/// Where an image is asked for.
#[derive(Debug, Clone, Copy)]
struct Repository<'a> {
    endpoint: &'a Endpoint,
    image: &'a Reference,
    /// There is nobody to ask besides.
    is_last: bool,
}

/// A manifest that was found, and where the rest of the image is to be had.
#[derive(Debug)]
pub(crate) struct Found {
    /// What the reference leads to: an index or the manifest.
    pub(crate) target: Digest,
    pub(crate) manifest: Manifest,
    /// The manifest and the indexes on the way, in the cache.
    pub(crate) pins: Vec<Pin>,
    /// Where to ask for layers, in this order.
    pub(crate) endpoints: Vec<Endpoint>,
}

/// A document as it came.
struct Fetched {
    bytes: Vec<u8>,
    said: Option<String>,
}

impl Registry {
    /// A client with these options.
    ///
    /// # Errors
    /// When a proxy or an authority is malformed.
    pub fn new(options: &Options) -> Result<Registry, RegistryError> {
        Ok(Registry {
            clients: Clients::new(options)?,
            options: options.clone(),
            shown: tokio::sync::Mutex::default(),
            answered: Mutex::default(),
        })
    }

    /// What a reference leads to now: the digest that its tag has.
    ///
    /// # Errors
    /// When no registry has it.
    pub async fn resolve(&self, image: &Reference) -> Result<Digest, RegistryError> {
        let endpoints = self.options.endpoints(image.domain());
        // Registries count who fetches manifests, and not who only looks.
        for endpoint in &endpoints {
            let from = Repository { endpoint, image, is_last: false };
            if let Ok(Some(digest)) = self.look(&from).await {
                return Ok(digest);
            }
        }
        let (_, fetched) = self.document(&endpoints, image, &image.target()).await?;
        Ok(Digest::of(&fetched.bytes))
    }

    /// Finds the manifest of an image for the machine that the options name.
    pub(crate) async fn find(&self, image: &Reference, blobs: &Blobs) -> Result<Found, RegistryError> {
        let what = format!("manifest {image}");
        let unusable = |source| RegistryError::Manifest { what: what.clone(), source };
        let keep = |source| RegistryError::Keep { what: what.clone(), source };
        let mut endpoints = self.options.endpoints(image.domain());
        let mut pins = Vec::new();
        let mut wanted = image.digest().map(|digest| (digest, None));
        for _ in 0..INDEXES_MAX {
            let cached = match wanted {
                Some((digest, _)) => blobs.pin(&digest).map_err(keep)?,
                None => None,
            };
            let fetched = match cached {
                Some(pin) => Fetched { bytes: pin.read(MANIFEST_BYTES_MAX).map_err(keep)?, said: None },
                None => {
                    let target = wanted.map_or_else(|| image.target(), |(digest, _)| digest.to_string());
                    let (at, fetched) = self.document(&endpoints, image, &target).await?;
                    // Who had it has the rest; who comes before in the list may be gone.
                    endpoints.drain(..at);
                    fetched
                }
            };
            let (its_blobs, bytes) = (blobs.clone(), fetched.bytes.clone());
            let pin = off_thread(move || its_blobs.put(&bytes)).await.map_err(keep)?;
            let pin = match wanted {
                Some((_, Some(size))) => pin.check_size(size).map_err(keep)?,
                _ => pin,
            };
            pins.push(pin);
            match manifest::parse(&fetched.bytes, fetched.said.as_deref()).map_err(unusable)? {
                Document::Manifest(manifest) => {
                    self.options.limits.check(&manifest).map_err(keep)?;
                    return Ok(Found { target: pins[0].digest, manifest, pins, endpoints });
                }
                Document::Index(index) => {
                    let chosen = index.choose(self.options.architecture).map_err(unusable)?;
                    wanted = Some((chosen.digest, Some(chosen.size)));
                }
            }
        }
        Err(RegistryError::Nested { what })
    }

    /// A manifest or an index, from the first that has it, and which that was.
    async fn document(
        &self,
        endpoints: &[Endpoint],
        image: &Reference,
        target: &str,
    ) -> Result<(usize, Fetched), RegistryError> {
        let mut at = 0;
        loop {
            let from = Repository { endpoint: &endpoints[at], image, is_last: at + 1 == endpoints.len() };
            match self.document_from(&from, target).await {
                Ok(fetched) => return Ok((at, fetched)),
                Err(error) if !from.is_last && !error.is_ours() => {
                    tracing::warn!(
                        mirror = from.endpoint.host,
                        error = &error as &dyn std::error::Error,
                        "passed over"
                    );
                    at += 1;
                }
                Err(error) => return Err(error),
            }
        }
    }

    /// The digest of a manifest, as the registry says it without sending it.
    async fn look(&self, from: &Repository<'_>) -> Result<Option<Digest>, RegistryError> {
        let url = from.endpoint.url(&format!("/v2/{}/manifests/{}", from.image.path(), from.image.target()));
        let client = self.clients.for_endpoint(from.endpoint);
        let what = format!("manifest {}", from.image);
        let response = self.ask(from, &what, || client.head(&url).header(ACCEPT, accepted())).await?;
        let said = response.headers().get(CONTENT_DIGEST).and_then(|said| said.to_str().ok());
        Ok(said.and_then(|said| said.parse().ok()))
    }

    async fn document_from(&self, from: &Repository<'_>, target: &str) -> Result<Fetched, RegistryError> {
        let mut attempts = Attempts::new(&self.clients.patience, from.is_last);
        loop {
            let error = match self.try_document(from, target).await {
                Ok(fetched) => return Ok(fetched),
                Err(error) => error,
            };
            let (pause, error) = attempts.after(error, 0, self.has_answered(from.endpoint))?;
            tracing::debug!(error = &error as &dyn std::error::Error, ?pause, "trying once more");
            tokio::time::sleep(pause).await;
        }
    }

    async fn try_document(&self, from: &Repository<'_>, target: &str) -> Result<Fetched, RegistryError> {
        let what = format!("manifest {}", from.image);
        let url = from.endpoint.url(&format!("/v2/{}/manifests/{target}", from.image.path()));
        let client = self.clients.for_endpoint(from.endpoint);
        let response = self.ask(from, &what, || client.get(&url).header(ACCEPT, accepted())).await?;
        let text = |name: &str| response.headers().get(name)?.to_str().ok().map(str::to_owned);
        let (said, promised) = (text(CONTENT_TYPE.as_str()), text(CONTENT_DIGEST));
        let bytes = self.clients.body(response, &what, MANIFEST_BYTES_MAX).await?;
        let found = Digest::of(&bytes);
        let asked: Option<Digest> = target.parse().ok();
        let promised = promised.and_then(|promised| promised.parse().ok());
        if asked.or(promised).is_some_and(|right| right != found) {
            return Err(RegistryError::Mismatch { host: from.endpoint.host.clone(), what, found });
        }
        Ok(Fetched { bytes, said })
    }

    fn note_answer(&self, endpoint: &Endpoint) {
        self.answered.lock().unwrap_or_else(PoisonError::into_inner).insert(endpoint.clone());
    }

    fn has_answered(&self, endpoint: &Endpoint) -> bool {
        self.answered.lock().unwrap_or_else(PoisonError::into_inner).contains(endpoint)
    }
}

/// The documents that can be read.
fn accepted() -> String {
    [OCI_INDEX, OCI_MANIFEST, DOCKER_INDEX, DOCKER_MANIFEST].join(", ")
}

/// Text as what a registry says to strangers.
pub(crate) fn fuzz_challenge(header: &str) {
    drop(challenge::parse(header));
}

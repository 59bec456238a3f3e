//! Files of a plain web server, fetched as blobs are: with the same patience, and resumed wherever one breaks off. Nobody
//! asks who wants them.

use std::sync::atomic::{AtomicBool, Ordering};

use reqwest::{Response, Url};

use super::attempts::Attempts;
use super::blob::{Origin, Wanted, blob_from, from_byte};
use super::error::RegistryError;
use super::http::Clients;
use crate::blobs::{Blobs, Pin};
use crate::digest::Digest;
use crate::options::Options;
use crate::progress::Progress;

/// A client of one web server.
#[derive(Debug)]
pub struct Web {
    clients: Clients,
    has_answered: AtomicBool,
}

/// A file there.
struct Page<'a> {
    web: &'a Web,
    url: &'a Url,
    host: String,
}

impl Web {
    /// A client with these options.
    ///
    /// # Errors
    /// When a proxy or an authority is malformed.
    pub fn new(options: &Options) -> Result<Web, RegistryError> {
        Ok(Web { clients: Clients::new(options)?, has_answered: AtomicBool::new(false) })
    }

    /// All of a small file, which errors call `what`.
    ///
    /// # Errors
    /// When it cannot be had, or is longer than `limit_bytes`.
    pub async fn document(&self, url: &str, what: &str, limit_bytes: u64) -> Result<Vec<u8>, RegistryError> {
        let url = parsed(url, what)?;
        let page = Page::new(self, &url);
        let mut attempts = Attempts::new(&self.clients.patience, true);
        loop {
            let tried = match page.get(what, 0).await {
                Ok(response) => self.clients.body(response, what, limit_bytes).await,
                Err(error) => Err(error),
            };
            let error = match tried {
                Ok(body) => return Ok(body),
                Err(error) => error,
            };
            let (pause, error) = attempts.after(error, 0, page.has_answered())?;
            tracing::debug!(error = &error as &dyn std::error::Error, ?pause, "trying once more");
            tokio::time::sleep(pause).await;
        }
    }

    /// A file of this digest and size, which errors call `what`, from the cache or the server. Who asks for it while it is
    /// being fetched waits for that.
    ///
    /// # Errors
    /// When it cannot be had, is something else, or cannot be kept.
    pub async fn file(
        &self,
        url: &str,
        what: &str,
        digest: Digest,
        size: u64,
        blobs: &Blobs,
        progress: &dyn Progress,
    ) -> Result<Pin, RegistryError> {
        let url = parsed(url, what)?;
        let wanted = Wanted { what: what.to_owned(), digest, size };
        blob_from(&Page::new(self, &url), &wanted, blobs, progress).await
    }
}

impl Page<'_> {
    fn new<'a>(web: &'a Web, url: &'a Url) -> Page<'a> {
        let name = url.host_str().unwrap_or_default();
        let host = url.port().map_or_else(|| name.to_owned(), |port| format!("{name}:{port}"));
        Page { web, url, host }
    }

    async fn get(&self, what: &str, begin: u64) -> Result<Response, RegistryError> {
        let clients = &self.web.clients;
        let request = from_byte(clients.verified.get(self.url.clone()), begin);
        let response = clients.send(request, &self.host, what).await?;
        self.web.has_answered.store(true, Ordering::Relaxed);
        clients.expect_success(response, &self.host, what, false).await
    }
}

impl Origin for Page<'_> {
    fn host(&self) -> &str {
        &self.host
    }

    fn clients(&self) -> &Clients {
        &self.web.clients
    }

    fn is_last(&self) -> bool {
        true
    }

    fn has_answered(&self) -> bool {
        self.web.has_answered.load(Ordering::Relaxed)
    }

    async fn ask(&self, wanted: &Wanted, begin: u64) -> Result<Response, RegistryError> {
        self.get(&wanted.what, begin).await
    }
}

fn parsed(url: &str, what: &str) -> Result<Url, RegistryError> {
    let host = url.chars().take(200).collect();
    Url::parse(url).map_err(|_| RegistryError::Address { host, what: what.to_owned() })
}

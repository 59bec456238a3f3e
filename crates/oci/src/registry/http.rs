//! One request and its answer: clients, redirects, deadlines, the meaning of a status.

use std::sync::Arc;
use std::time::{Duration, Instant, UNIX_EPOCH};

use bytes::Bytes;
use reqwest::header::{HeaderMap, RETRY_AFTER};
use reqwest::redirect::{Attempt, Policy};
use reqwest::{Certificate, Client, ClientBuilder, NoProxy, Proxy, RequestBuilder, Response, StatusCode};
use serde::Deserialize;
use tokio::time::timeout;

use super::error::RegistryError;
use crate::options::{Endpoint, Options, Patience, Proxies, Security};

/// Registries redirect once, to where they store; some of those once more.
const REDIRECTS_MAX: usize = 5;
/// Of an explanation that comes with an error.
const EXPLANATION_BYTES_MAX: u64 = 16 << 10;
/// What is quoted of it.
const EXPLANATION_LETTERS_MAX: usize = 200;

/// Speaks HTTP.
#[derive(Debug, Clone)]
pub(super) struct Clients {
    pub(super) verified: Client,
    unverified: Client,
    pub(super) patience: Arc<Patience>,
}

impl Clients {
    pub(super) fn new(options: &Options) -> Result<Clients, RegistryError> {
        // One that the program has installed stays; all of banger uses this one.
        drop(rustls::crypto::ring::default_provider().install_default());
        let build = |builder: ClientBuilder| builder.build().map_err(RegistryError::SetUp);
        let mut authorities = Vec::new();
        for pem in &options.extra_authorities {
            authorities.extend(Certificate::from_pem_bundle(pem).map_err(RegistryError::SetUp)?);
        }
        let base = || client(&options.patience, &options.proxies);
        Ok(Clients {
            verified: build(base()?.tls_certs_merge(authorities))?,
            unverified: build(base()?.tls_danger_accept_invalid_certs(true))?,
            patience: Arc::new(options.patience.clone()),
        })
    }

    pub(super) fn for_endpoint(&self, endpoint: &Endpoint) -> &Client {
        match endpoint.security {
            Security::Verified | Security::Plain => &self.verified,
            Security::Unverified => &self.unverified,
        }
    }

    /// Sends a request and waits for the head of its answer, whatever that says.
    pub(super) async fn send(
        &self,
        request: RequestBuilder,
        host: &str,
        what: &str,
    ) -> Result<Response, RegistryError> {
        let (host, what) = (host.to_owned(), what.to_owned());
        match timeout(self.patience.answer, request.send()).await {
            Ok(Ok(response)) => Ok(response),
            Ok(Err(source)) => {
                // It may be where the registry sent us; and an address may hold a secret of its own.
                let asked = source.url().and_then(|url| Some((url.host_str()?.to_owned(), url.port())));
                let host = asked.map_or(host, |(host, port)| match port {
                    Some(port) => format!("{host}:{port}"),
                    None => host,
                });
                Err(RegistryError::Reach { host, what, failure: source.without_url() })
            }
            Err(_) => Err(RegistryError::Silent { host, what, patience: self.patience.answer }),
        }
    }

    /// The whole body of an answer, if that is not too long.
    pub(super) async fn body(&self, mut response: Response, what: &str, limit: u64) -> Result<Vec<u8>, RegistryError> {
        let mut pace = Pace::new(&self.patience);
        let mut body = Vec::new();
        while let Some(chunk) = pace.next(&mut response, what, body.len() as u64).await? {
            body.extend_from_slice(&chunk);
            if body.len() as u64 > limit {
                return Err(RegistryError::TooLarge { what: what.to_owned(), limit_bytes: limit });
            }
        }
        Ok(body)
    }

    /// Makes an error of an answer that is none.
    pub(super) async fn expect_success(
        &self,
        response: Response,
        host: &str,
        what: &str,
        is_known: bool,
    ) -> Result<Response, RegistryError> {
        let status = response.status();
        if status.is_success() {
            return Ok(response);
        }
        let retry_after = retry_after(response.headers());
        let said = match self.body(response, what, EXPLANATION_BYTES_MAX).await {
            Ok(body) => explanation(&body),
            Err(_) => String::new(),
        };
        let (host, what) = (host.to_owned(), what.to_owned());
        Err(match status {
            StatusCode::UNAUTHORIZED => RegistryError::Unauthorized { host, what, is_known, said },
            StatusCode::FORBIDDEN => RegistryError::Forbidden { host, what, said },
            StatusCode::NOT_FOUND => RegistryError::NotFound { host, what, said },
            StatusCode::TOO_MANY_REQUESTS => RegistryError::RateLimited { host, what, retry_after, said },
            StatusCode::REQUEST_TIMEOUT => RegistryError::Unavailable { host, what, status, retry_after, said },
            _ if status.is_server_error() => RegistryError::Unavailable { host, what, status, retry_after, said },
            _ => RegistryError::Status { host, what, status, said },
        })
    }
}

fn client(patience: &Patience, proxies: &Proxies) -> Result<ClientBuilder, RegistryError> {
    let mut builder = Client::builder()
        .user_agent(concat!("banger/", env!("CARGO_PKG_VERSION")))
        .connect_timeout(patience.connect)
        .redirect(Policy::custom(redirect))
        .referer(false)
        .no_proxy();
    let except = proxies.except.as_deref().and_then(NoProxy::from_string);
    if let Some(address) = &proxies.http {
        builder = builder.proxy(Proxy::http(address).map_err(RegistryError::SetUp)?.no_proxy(except.clone()));
    }
    if let Some(address) = &proxies.https {
        builder = builder.proxy(Proxy::https(address).map_err(RegistryError::SetUp)?.no_proxy(except));
    }
    Ok(builder)
}

/// Credentials do not follow to another host: that is reqwest's. That TLS is not left behind is this.
fn redirect(attempt: Attempt<'_>) -> reqwest::redirect::Action {
    let is_left_behind =
        attempt.url().scheme() != "https" && attempt.previous().last().is_some_and(|url| url.scheme() == "https");
    if is_left_behind {
        attempt.error("it redirects from https to plain http")
    } else if attempt.previous().len() > REDIRECTS_MAX {
        attempt.error("it redirects again and again")
    } else {
        attempt.follow()
    }
}

/// Watches that an answer comes fast enough: a drip is ended, however long it might go on.
#[derive(Debug)]
pub(super) struct Pace<'a> {
    patience: &'a Patience,
    began: Instant,
    bytes: u64,
}

impl Pace<'_> {
    pub(super) fn new(patience: &Patience) -> Pace<'_> {
        Pace { patience, began: sys::clock::monotonic(), bytes: 0 }
    }

    /// The next piece of a body of which `at` bytes have come; none at its end.
    pub(super) async fn next(
        &mut self,
        response: &mut Response,
        what: &str,
        at: u64,
    ) -> Result<Option<Bytes>, RegistryError> {
        loop {
            let left = self.patience.stretch.saturating_sub(self.began.elapsed());
            match timeout(left, response.chunk()).await {
                Ok(Ok(Some(chunk))) => {
                    self.bytes += chunk.len() as u64;
                    return Ok(Some(chunk));
                }
                Ok(Ok(None)) => return Ok(None),
                Ok(Err(source)) => {
                    let source = Some(source.without_url());
                    return Err(RegistryError::BrokenOff { what: what.to_owned(), bytes: at, source });
                }
                Err(_) if self.bytes < self.patience.stretch_bytes_min => {
                    let (bytes_min, stretch) = (self.patience.stretch_bytes_min, self.patience.stretch);
                    return Err(RegistryError::Slow { what: what.to_owned(), bytes_min, stretch });
                }
                Err(_) => (self.began, self.bytes) = (sys::clock::monotonic(), 0),
            }
        }
    }
}

/// Seconds or a date.
fn retry_after(headers: &HeaderMap) -> Option<Duration> {
    let text = headers.get(RETRY_AFTER)?.to_str().ok()?.trim();
    if let Ok(seconds) = text.parse() {
        return Some(Duration::from_secs(seconds));
    }
    let until = httpdate::parse_http_date(text).ok()?.duration_since(UNIX_EPOCH).ok()?;
    Some(until.saturating_sub(Duration::from_millis(sys::clock::unix_ms())))
}

#[derive(Deserialize)]
struct Explanation {
    errors: Vec<Reason>,
}

#[derive(Deserialize)]
struct Reason {
    #[serde(default)]
    code: String,
    #[serde(default)]
    message: String,
}

/// What a registry says about an error, for people. A page for browsers says nothing.
fn explanation(body: &[u8]) -> String {
    let Ok(explanation) = serde_json::from_slice::<Explanation>(body) else { return String::new() };
    let said = explanation.errors.first().map(|reason| match reason.message.as_str() {
        "" => reason.code.as_str(),
        message => message,
    });
    said.unwrap_or_default().chars().take(EXPLANATION_LETTERS_MAX).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_pause_is_seconds_or_a_date() {
        let pause = |text: &str| retry_after(&HeaderMap::from_iter([(RETRY_AFTER, text.parse().unwrap())]));
        assert_eq!(pause(" 7 "), Some(Duration::from_secs(7)));
        assert_eq!(pause("Sun, 06 Nov 1994 08:49:37 GMT"), Some(Duration::ZERO));
        assert!(pause("Thu, 01 Jan 2150 00:00:00 GMT").unwrap() > Duration::from_secs(1_000_000));
        for bad in ["soon", "-1", ""] {
            assert_eq!(pause(bad), None, "{bad}");
        }
    }

    #[test]
    fn an_explanation_is_short_and_never_a_page() {
        let long = format!(r#"{{"errors":[{{"code":"X","message":"{}"}}]}}"#, "m".repeat(1000));
        assert_eq!(explanation(long.as_bytes()).len(), 200);
        assert_eq!(explanation(br#"{"errors":[{"code":"DENIED"}]}"#), "DENIED");
        for nothing in [&b"<html>"[..], b"", b"{}", br#"{"errors":[]}"#] {
            assert_eq!(explanation(nothing), "");
        }
    }
}

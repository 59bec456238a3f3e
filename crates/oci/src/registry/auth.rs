//! Becoming known to a registry: nobody, a name and a password, or a token that an authority gives for them.

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use reqwest::header::{AUTHORIZATION, HeaderValue, WWW_AUTHENTICATE};
use reqwest::{RequestBuilder, Response, StatusCode, Url};
use serde::Deserialize;

use super::challenge::{self, Challenge};
use super::error::RegistryError;
use super::{Registry, Repository};
use crate::credentials::Credential;
use crate::options::{Endpoint, Security};

/// Tokens have some KiB.
const TOKEN_BYTES_MAX: u64 = 256 << 10;
/// Whose refresh tokens these are, where an authority wants to know.
const CLIENT_ID: &str = "banger";

/// What a registry is shown with each request.
#[derive(Clone, PartialEq)]
pub(super) struct Shown {
    header: HeaderValue,
    /// It is somebody, and not what strangers are given too.
    is_known: bool,
}

#[derive(Deserialize)]
struct Granted {
    #[serde(default)]
    token: Option<String>,
    #[serde(default)]
    access_token: Option<String>,
}

impl Registry {
    /// Asks for something, showing what is known to be wanted; when the registry wants more, that is shown.
    pub(super) async fn ask(
        &self,
        from: &Repository<'_>,
        what: &str,
        request: impl Fn() -> RequestBuilder,
    ) -> Result<Response, RegistryError> {
        let host = from.endpoint.host.as_str();
        let key = (from.endpoint.clone(), from.image.path().to_owned());
        let shown = self.shown.lock().await.get(&key).cloned();
        let is_known = shown.as_ref().is_some_and(|shown| shown.is_known);
        let header = shown.as_ref().map(|shown| &shown.header);
        let response = self.clients.send(with(request(), header), host, what).await?;
        self.note_answer(from.endpoint);
        // Where the registry stores its blobs is another party: what that one asks for is not shown to it.
        let is_registry = Url::parse(&from.endpoint.url("/")).is_ok_and(|url| url.origin() == response.url().origin());
        if response.status() != StatusCode::UNAUTHORIZED || !is_registry {
            return self.clients.expect_success(response, host, what, is_known).await;
        }
        let challenges = challenges(&response);
        let mut all = self.shown.lock().await;
        // While this waited, another request may have become known.
        let known = all.get(&key).filter(|known| Some(*known) != shown.as_ref()).cloned();
        let known = match known {
            Some(known) => known,
            None => match self.become_known(from, what, &challenges).await? {
                Some(known) => known,
                None => return self.clients.expect_success(response, host, what, false).await,
            },
        };
        all.insert(key, known.clone());
        drop(all);
        let response = self.clients.send(with(request(), Some(&known.header)), host, what).await?;
        self.clients.expect_success(response, host, what, known.is_known).await
    }

    /// What to show to whoever sends these challenges; none when they want a password and there is none.
    async fn become_known(
        &self,
        from: &Repository<'_>,
        what: &str,
        challenges: &[Challenge],
    ) -> Result<Option<Shown>, RegistryError> {
        let host = &from.endpoint.host;
        let credential = self.options.credentials.find(host, from.image).await;
        let credential = credential.map_err(|source| RegistryError::Credentials { host: host.clone(), source })?;
        let is_known = credential.is_some();
        let challenge_of = |scheme: &str| challenges.iter().find(|challenge| challenge.scheme == scheme);
        let header = match (challenge_of("bearer"), challenge_of("basic"), credential) {
            (Some(_), _, Some(Credential::Token(token))) => bearer(&token),
            (Some(challenge), _, credential) => bearer(&self.token(from, what, challenge, credential).await?),
            (None, Some(_), Some(Credential::Basic { user, password })) => basic(&user, &password),
            (None, Some(_), _) => return Ok(None),
            (None, None, _) => {
                let schemes: Vec<_> = challenges.iter().map(|challenge| challenge.scheme.as_str()).collect();
                let schemes = if schemes.is_empty() { "nothing".to_owned() } else { schemes.join(", ") };
                return Err(RegistryError::Challenge { host: host.clone(), schemes });
            }
        };
        let header = header.ok_or_else(|| RegistryError::Token { host: host.clone() })?;
        Ok(Some(Shown { header, is_known }))
    }

    /// Has a token given for pulling this image.
    async fn token(
        &self,
        from: &Repository<'_>,
        what: &str,
        challenge: &Challenge,
        credential: Option<Credential>,
    ) -> Result<String, RegistryError> {
        let host = from.endpoint.host.as_str();
        let realm = realm(from.endpoint, challenge)?;
        let authority = realm.host_str().unwrap_or(host).to_owned();
        let usual = format!("repository:{}:pull", from.image.path());
        let mut query = vec![("scope", challenge.parameter("scope").unwrap_or(&usual))];
        query.extend(challenge.parameter("service").map(|service| ("service", service)));
        let client = self.clients.for_endpoint(from.endpoint);
        let is_known = credential.is_some();
        let request = match &credential {
            Some(Credential::Identity(identity)) => {
                query.extend([("grant_type", "refresh_token"), ("refresh_token", identity), ("client_id", CLIENT_ID)]);
                let mut form = Url::parse("http://form").expect("a plain address");
                form.query_pairs_mut().extend_pairs(&query);
                let form = form.query().unwrap_or_default().to_owned();
                client.post(realm).header("content-type", "application/x-www-form-urlencoded").body(form)
            }
            _ => {
                let mut realm = realm;
                realm.query_pairs_mut().extend_pairs(&query);
                let header = match &credential {
                    Some(Credential::Basic { user, password }) => basic(user, password),
                    _ => None,
                };
                with(client.get(realm), header.as_ref())
            }
        };
        let response = self.clients.send(request, &authority, what).await?;
        let response = self.clients.expect_success(response, &authority, what, is_known).await?;
        let body = self.clients.body(response, "the token", TOKEN_BYTES_MAX).await?;
        let granted = serde_json::from_slice::<Granted>(&body).ok();
        let token = granted.and_then(|granted| granted.token.or(granted.access_token));
        token.filter(|token| !token.is_empty()).ok_or(RegistryError::Token { host: authority })
    }
}

fn challenges(response: &Response) -> Vec<Challenge> {
    let headers = response.headers().get_all(WWW_AUTHENTICATE).iter();
    headers.filter_map(|header| header.to_str().ok()).flat_map(challenge::parse).collect()
}

/// Where the token is given. Passwords do not leave TLS unless they never were in it.
fn realm(endpoint: &Endpoint, challenge: &Challenge) -> Result<Url, RegistryError> {
    let text = challenge.parameter("realm").unwrap_or_default();
    let refused = || RegistryError::Realm { host: endpoint.host.clone(), realm: text.chars().take(200).collect() };
    let realm = Url::parse(text).map_err(|_| refused())?;
    let is_safe = match realm.scheme() {
        "https" => true,
        "http" => endpoint.security == Security::Plain,
        _ => false,
    };
    if is_safe && realm.host_str().is_some() { Ok(realm) } else { Err(refused()) }
}

fn with(request: RequestBuilder, header: Option<&HeaderValue>) -> RequestBuilder {
    match header {
        Some(header) => request.header(AUTHORIZATION, header),
        None => request,
    }
}

fn basic(user: &str, password: &str) -> Option<HeaderValue> {
    secret(&format!("Basic {}", STANDARD.encode(format!("{user}:{password}"))))
}

fn bearer(token: &str) -> Option<HeaderValue> {
    secret(&format!("Bearer {token}"))
}

/// A header that nobody logs.
fn secret(text: &str) -> Option<HeaderValue> {
    let mut header = HeaderValue::from_str(text).ok()?;
    header.set_sensitive(true);
    Some(header)
}

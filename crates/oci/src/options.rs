//! How images are fetched: everything that somebody may want otherwise, as data. Nothing here reads the environment.

use std::collections::BTreeMap;
use std::path::PathBuf;
use std::time::Duration;

use crate::blobs::BlobError;
use crate::credentials::Credentials;
use crate::manifest::{Architecture, CONFIG_BYTES_MAX, Manifest};
use crate::reference::{DOCKER_HUB, DOCKER_HUB_HOST};

/// How images are fetched.
#[derive(Debug, Clone)]
pub struct Options {
    /// For which processor.
    pub architecture: Architecture,
    /// What is special about a registry, by its name in references.
    pub registries: BTreeMap<String, Rules>,
    /// Who the user is to registries.
    pub credentials: Credentials,
    /// How long to wait and how often to try.
    pub patience: Patience,
    /// How large an image may be.
    pub limits: Limits,
    /// Layers that are fetched at once.
    pub parallel: usize,
    /// Through what requests go.
    pub proxies: Proxies,
    /// Authorities that are trusted besides the system's, as PEM.
    pub extra_authorities: Vec<Vec<u8>>,
    /// Where the Docker daemon listens.
    pub docker_socket: PathBuf,
}

/// What is special about a registry.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Rules {
    /// Asked before the registry, in this order.
    pub mirrors: Vec<Endpoint>,
    /// How the registry itself is spoken to; none: verified TLS, and plain HTTP to this host.
    pub security: Option<Security>,
}

/// Where a registry answers.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub struct Endpoint {
    /// Host and perhaps port.
    pub host: String,
    /// How it is spoken to.
    pub security: Security,
}

/// How a registry is spoken to.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Security {
    /// TLS with a certificate by somebody who is trusted.
    Verified,
    /// TLS with any certificate.
    Unverified,
    /// Plain HTTP.
    Plain,
}

/// How long to wait and how often to try.
#[derive(Debug, Clone)]
pub struct Patience {
    /// Tries of one thing, the first counted. A try that brought [`Patience::reset_bytes`] is none.
    pub tries: u32,
    /// The pause before the second try; each one after is twice as long.
    pub pause: Duration,
    /// The longest pause, also when the registry asks for a longer one: then it fails.
    pub pause_max: Duration,
    /// Until a connection is there.
    pub connect: Duration,
    /// Until a request is answered.
    pub answer: Duration,
    /// In each stretch of this length …
    pub stretch: Duration,
    /// … at least so many bytes must come.
    pub stretch_bytes_min: u64,
    /// A try that brought so much starts the count anew.
    pub reset_bytes: u64,
}

/// How large an image may be.
#[derive(Debug, Clone)]
pub struct Limits {
    /// One layer, as it is stored.
    pub layer_bytes: u64,
    /// All of an image's layers, or all that an archive holds.
    pub image_bytes: u64,
    /// Entries of an archive; an image of 127 layers has some 400.
    pub archive_entries: u64,
}

/// Through what requests go.
#[derive(Debug, Clone, Default)]
pub struct Proxies {
    /// For `http:` addresses.
    pub http: Option<String>,
    /// For `https:` addresses.
    pub https: Option<String>,
    /// Hosts that are spoken to directly, as in `NO_PROXY`.
    pub except: Option<String>,
}

impl Default for Options {
    fn default() -> Options {
        Options {
            architecture: Architecture::host(),
            registries: BTreeMap::new(),
            credentials: Credentials::default(),
            patience: Patience::default(),
            limits: Limits::default(),
            parallel: 4,
            proxies: Proxies::default(),
            extra_authorities: Vec::new(),
            docker_socket: "/var/run/docker.sock".into(),
        }
    }
}

impl Default for Patience {
    fn default() -> Patience {
        Patience {
            tries: 6,
            pause: Duration::from_millis(500),
            pause_max: Duration::from_secs(60),
            connect: Duration::from_secs(15),
            answer: Duration::from_secs(60),
            stretch: Duration::from_secs(30),
            stretch_bytes_min: 30 << 10,
            reset_bytes: 1 << 20,
        }
    }
}

impl Default for Limits {
    fn default() -> Limits {
        Limits { layer_bytes: 64 << 30, image_bytes: 128 << 30, archive_entries: 20_000 }
    }
}

impl Limits {
    /// Refuses an image that is too large before any of it comes.
    pub(crate) fn check(&self, manifest: &Manifest) -> Result<(), BlobError> {
        let too_large = |what: String, limit_bytes| Err(BlobError::TooLarge { what, limit_bytes });
        if manifest.config.size > CONFIG_BYTES_MAX {
            return too_large("the configuration".to_owned(), CONFIG_BYTES_MAX);
        }
        if let Some(layer) = manifest.layers.iter().find(|layer| layer.size > self.layer_bytes) {
            return too_large(format!("layer {}", layer.digest), self.layer_bytes);
        }
        let all = manifest.layers.iter().fold(0, |all: u64, layer| all.saturating_add(layer.size));
        if all > self.image_bytes { too_large("the image".to_owned(), self.image_bytes) } else { Ok(()) }
    }
}

impl Options {
    /// Where an image of this registry is asked for, in this order.
    pub(crate) fn endpoints(&self, domain: &str) -> Vec<Endpoint> {
        let rules = self.registries.get(domain).cloned().unwrap_or_default();
        let host = if domain == DOCKER_HUB { DOCKER_HUB_HOST } else { domain };
        let usual = if is_this_host(host) { Security::Plain } else { Security::Verified };
        let own = Endpoint { host: host.to_owned(), security: rules.security.unwrap_or(usual) };
        rules.mirrors.into_iter().chain([own]).collect()
    }
}

impl Endpoint {
    /// Its address with this path.
    pub(crate) fn url(&self, path: &str) -> String {
        let scheme = if self.security == Security::Plain { "http" } else { "https" };
        format!("{scheme}://{}{path}", self.host)
    }
}

/// Whether a host, perhaps with a port, is this one. As Docker does, nobody is asked for a certificate on the loopback
/// interface.
#[must_use]
pub fn is_this_host(host: &str) -> bool {
    let name = host.rsplit_once(':').filter(|(_, port)| !port.ends_with(']')).map_or(host, |(name, _)| name);
    let address = name.trim_start_matches('[').trim_end_matches(']').parse::<std::net::IpAddr>();
    name == "localhost" || address.is_ok_and(|address| address.is_loopback())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn mirrors_come_first_and_this_host_is_plain() {
        let mut options = Options::default();
        let mirror = Endpoint { host: "mirror.lan:5000".into(), security: Security::Plain };
        options.registries.insert("docker.io".into(), Rules { mirrors: vec![mirror.clone()], security: None });
        let urls: Vec<_> = options.endpoints("docker.io").iter().map(|endpoint| endpoint.url("/v2/")).collect();
        assert_eq!(urls, ["http://mirror.lan:5000/v2/", "https://registry-1.docker.io/v2/"]);
        for (domain, url) in [
            ("ghcr.io", "https://ghcr.io/"),
            ("localhost:5000", "http://localhost:5000/"),
            ("localhost.example:5000", "https://localhost.example:5000/"),
            ("127.1.2.3", "http://127.1.2.3/"),
            ("[::1]:5000", "http://[::1]:5000/"),
            ("[::2]", "https://[::2]/"),
        ] {
            assert_eq!(options.endpoints(domain)[0].url("/"), url);
        }
    }
}

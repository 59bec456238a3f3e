//! `[registries."host:port"]`: what is special about a registry.

use std::collections::BTreeMap;

use serde::Deserialize;

use super::{Config, ConfigError};

/// One `[registries."host:port"]`.
#[derive(Debug, Clone, Default, PartialEq, Eq, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Registry {
    /// How it is spoken to.
    pub tls: Option<Tls>,
    /// Hosts, or `http://` and a host, that are asked before it, in this order.
    #[serde(default)]
    pub mirrors: Vec<String>,
}

/// How a registry is spoken to.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Tls {
    /// TLS with a certificate by somebody who is trusted.
    Verify,
    /// TLS with any certificate.
    Any,
    /// Plain HTTP.
    Off,
}

/// A host that is asked before a registry.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Mirror {
    /// Host and perhaps port.
    pub host: String,
    /// How it is spoken to.
    pub tls: Tls,
}

/// Host and perhaps port, nothing before or behind it.
fn is_host(text: &str) -> bool {
    let is_part = |c: char| c.is_ascii_alphanumeric() || matches!(c, '.' | '-' | ':' | '[' | ']');
    !text.is_empty() && text.chars().all(is_part) && !text.starts_with(['-', '.', ':'])
}

impl Config {
    /// The mirrors of `registry`; one with an entry of its own is spoken to as that says.
    pub fn mirrors<'a>(&'a self, registry: &'a Registry) -> impl Iterator<Item = Mirror> + 'a {
        registry.mirrors.iter().map(|text| {
            let (host, tls) = match (text.strip_prefix("http://"), text.strip_prefix("https://")) {
                (Some(host), _) => (host, Some(Tls::Off)),
                (None, Some(host)) => (host, None),
                (None, None) => (text.as_str(), None),
            };
            let own = || self.registries.get(host).and_then(|registry| registry.tls);
            Mirror { host: host.to_owned(), tls: tls.or_else(own).unwrap_or(Tls::Verify) }
        })
    }
}

/// Refuses what is no host.
pub(super) fn check(config: &Config) -> Result<(), ConfigError> {
    let registries: &BTreeMap<String, Registry> = &config.registries;
    for (name, registry) in registries {
        let refused = |what: &str| ConfigError::Registry { name: name.clone(), what: what.to_owned() };
        if !is_host(name) {
            return Err(refused(name));
        }
        if let Some(mirror) = config.mirrors(registry).find(|mirror| !is_host(&mirror.host)) {
            return Err(refused(&mirror.host));
        }
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn config(text: &str) -> Config {
        toml::from_str(text).unwrap()
    }

    #[test]
    fn mirrors_are_spoken_to_as_they_say_or_as_their_own_entry_says() {
        let config = config(
            r#"
            [registries."docker.io"]
            mirrors = ["mirror.lan:5000", "http://cache", "https://other"]
            [registries."mirror.lan:5000"]
            tls = "any"
            "#,
        );
        check(&config).unwrap();
        let mirrors: Vec<_> = config.mirrors(&config.registries["docker.io"]).map(|m| (m.host, m.tls)).collect();
        let expected = [("mirror.lan:5000", Tls::Any), ("cache", Tls::Off), ("other", Tls::Verify)];
        assert_eq!(mirrors, expected.map(|(host, tls)| (host.to_owned(), tls)));
    }

    #[test]
    fn what_is_no_host_is_refused() {
        for bad in ["[registries.\"https://docker.io\"]", "[registries.\"\"]", "[registries.x]\nmirrors = [\"a/b\"]"] {
            assert!(matches!(check(&config(bad)), Err(ConfigError::Registry { .. })), "{bad}");
        }
    }
}

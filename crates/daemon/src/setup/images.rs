//! How images are fetched, as the configuration and the environment say.

use std::ffi::OsString;
use std::path::PathBuf;

use daemon::config::Config;
use daemon::config::registries::Tls;
use oci::Options;
use oci::credentials::{Credentials, Places};
use oci::options::{Endpoint, Proxies, Rules, Security};

/// What of the environment decides about it.
#[derive(Debug, Clone, Default)]
pub(crate) struct Surroundings {
    /// Where credentials may be.
    pub(crate) places: Places,
    /// Through what requests go.
    pub(crate) proxies: Proxies,
}

impl Surroundings {
    /// Asks `variable` for each variable that counts; `path` is that of programs.
    pub(crate) fn read(variable: &dyn Fn(&str) -> Option<OsString>, path: OsString) -> Surroundings {
        let file = |name: &str| variable(name).map(PathBuf::from);
        // As in curl(1), small letters come first.
        let text = |names: &[&str]| {
            names.iter().find_map(|name| variable(name)).map(|value| value.to_string_lossy().into_owned())
        };
        Surroundings {
            places: Places {
                home: file("HOME"),
                runtime_dir: file("XDG_RUNTIME_DIR"),
                config_home: file("XDG_CONFIG_HOME"),
                auth_file: file("REGISTRY_AUTH_FILE"),
                docker_config: file("DOCKER_CONFIG"),
                path,
            },
            proxies: Proxies {
                http: text(&["http_proxy", "HTTP_PROXY"]),
                https: text(&["https_proxy", "HTTPS_PROXY"]),
                except: text(&["no_proxy", "NO_PROXY"]),
            },
        }
    }
}

/// How images are fetched.
pub(crate) fn options(config: &Config, surroundings: &Surroundings) -> Options {
    let registries = config.registries.iter().map(|(name, registry)| {
        let mirrors = config.mirrors(registry);
        let mirrors = mirrors.map(|mirror| Endpoint { host: mirror.host, security: security(mirror.tls) }).collect();
        (name.clone(), Rules { mirrors, security: registry.tls.map(security) })
    });
    Options {
        registries: registries.collect(),
        credentials: Credentials::at(&surroundings.places),
        proxies: surroundings.proxies.clone(),
        ..Options::default()
    }
}

fn security(tls: Tls) -> Security {
    match tls {
        Tls::Verify => Security::Verified,
        Tls::Any => Security::Unverified,
        Tls::Off => Security::Plain,
    }
}

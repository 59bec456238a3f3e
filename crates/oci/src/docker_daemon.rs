//! Images of the Docker daemon of this host: it makes an archive of one, on its Unix socket.

use std::future::Future;
use std::io;
use std::path::PathBuf;

use reqwest::{Client, Response, StatusCode, Url};
use tokio::time::timeout;

use crate::archive::{Inlet, Outlet, pipe};
use crate::options::Options;
use crate::reference::{DOCKER_HUB, Reference};

/// An image that the Docker daemon does not give.
#[derive(Debug, thiserror::Error)]
pub enum DockerDaemonError {
    /// Nobody listens, or not to this user.
    #[error("cannot reach it at {}", path.display())]
    Reach {
        /// Where it should listen.
        path: PathBuf,
        /// Why not.
        #[source]
        source: reqwest::Error,
    },
    /// It says nothing.
    #[error("it does not answer at {}", path.display())]
    Silent {
        /// Where it listens.
        path: PathBuf,
    },
    /// It has no such image.
    #[error("it has no image {image}")]
    NotFound {
        /// Which.
        image: String,
    },
    /// It refuses.
    #[error("it answers {status}")]
    Status {
        /// What it answers.
        status: StatusCode,
    },
}

impl DockerDaemonError {
    /// What a person can do about it.
    #[must_use]
    pub fn hint(&self) -> Option<String> {
        match self {
            DockerDaemonError::Reach { .. } => {
                Some("is Docker running, and is this user in the group docker?".to_owned())
            }
            DockerDaemonError::NotFound { .. } => Some("docker images lists what it has".to_owned()),
            _ => None,
        }
    }
}

/// Has the daemon make an archive: where to read it, and what brings it there as long as it is driven.
pub(crate) async fn save(
    image: &Reference,
    options: &Options,
) -> Result<(Outlet, impl Future<Output = ()> + use<>), DockerDaemonError> {
    let path = options.docker_socket.clone();
    let reach = |source| DockerDaemonError::Reach { path: path.clone(), source };
    drop(rustls::crypto::ring::default_provider().install_default());
    let client = Client::builder().no_proxy().unix_socket(path.clone()).build().map_err(reach)?;
    let mut url = Url::parse("http://docker/images").expect("a plain address");
    url.path_segments_mut().expect("it has a path").push(&familiar(image)).push("get");
    let response = timeout(options.patience.answer, client.get(url).send()).await;
    let response = response.map_err(|_| DockerDaemonError::Silent { path: path.clone() })?;
    let response = response.map_err(reqwest::Error::without_url).map_err(reach)?;
    match response.status() {
        status if status.is_success() => {}
        StatusCode::NOT_FOUND => return Err(DockerDaemonError::NotFound { image: image.to_string() }),
        status => return Err(DockerDaemonError::Status { status }),
    }
    let (inlet, outlet) = pipe();
    Ok((outlet, feed(response, inlet)))
}

async fn feed(mut response: Response, inlet: Inlet) {
    loop {
        let piece = match response.chunk().await {
            Ok(Some(piece)) => Ok(piece),
            Ok(None) => return,
            Err(error) => Err(io::Error::other(error.without_url())),
        };
        let is_over = piece.is_err();
        if !inlet.put(piece).await || is_over {
            return;
        }
    }
}

/// As Docker calls it: images of its Hub go without the registry there.
fn familiar(image: &Reference) -> String {
    let name = image.to_string();
    let hub = format!("{DOCKER_HUB}/");
    let name = name.strip_prefix(&hub).map_or(name.as_str(), |name| name.strip_prefix("library/").unwrap_or(name));
    match (image.digest(), image.tag()) {
        // It knows no name with both.
        (Some(digest), Some(tag)) => name.replace(&format!(":{tag}@{digest}"), &format!("@{digest}")),
        _ => name.to_owned(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::digest::Digest;

    #[test]
    fn names_are_dockers() {
        let digest = Digest::of(b"");
        for (name, expected) in [
            ("alpine".to_owned(), "alpine:latest".to_owned()),
            ("a/b:1".to_owned(), "a/b:1".to_owned()),
            ("ghcr.io/library/x".to_owned(), "ghcr.io/library/x:latest".to_owned()),
            (format!("x:1@{digest}"), format!("x@{digest}")),
        ] {
            assert_eq!(familiar(&name.parse().unwrap()), expected);
        }
    }
}

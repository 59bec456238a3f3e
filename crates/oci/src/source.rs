//! Where an image comes from, as people type it.
//!
//! | spelling | where |
//! |---|---|
//! | `[REGISTRY/]NAME[:TAG][@DIGEST]` | a registry |
//! | `docker-archive:PATH[:REF]` or `docker-archive:PATH:@N` | a file of `docker save`; `N` counts its images from 0 |
//! | `oci-archive:PATH[:TAG]` | a tar of an OCI layout |
//! | `oci:PATH[:TAG]` | a directory with an OCI layout |
//! | `docker-daemon:REF` | the Docker daemon of this host |
//!
//! As in skopeo, the first colon behind a transport's own ends the path. An image that is called as a transport is
//! written with its registry.

use std::fmt;
use std::path::{Path, PathBuf};
use std::str::FromStr;

use crate::reference::{Reference, ReferenceError};

/// Where an image comes from.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Source {
    /// A registry.
    Registry(Reference),
    /// A file that `docker save` or its kin wrote.
    DockerArchive {
        /// The file.
        path: PathBuf,
        /// Which image of it.
        choice: Choice,
    },
    /// A tar of an OCI layout.
    OciArchive {
        /// The file.
        path: PathBuf,
        /// Which image of it.
        choice: Choice,
    },
    /// A directory with an OCI layout.
    OciLayout {
        /// The directory.
        path: PathBuf,
        /// Which image of it.
        choice: Choice,
    },
    /// The Docker daemon of this host.
    DockerDaemon(Reference),
}

/// Which image of several.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub enum Choice {
    /// There is only one.
    #[default]
    Only,
    /// The one with this tag or reference.
    Named(String),
    /// The one at this place, counted from 0.
    At(usize),
}

/// Text that says nothing about where an image is.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum SourceError {
    /// No transport, and no reference either.
    #[error(transparent)]
    Reference(#[from] ReferenceError),
    /// A transport without a path.
    #[error("{0:?} names no file: write TRANSPORT:PATH[:NAME]")]
    NoPath(String),
    /// `@` and no number behind it.
    #[error("{0:?} is no place in an archive: write @0 for its first image")]
    NoPlace(String),
}

impl Source {
    /// What the image is called here unless somebody says otherwise.
    #[must_use]
    pub fn default_name(&self) -> String {
        match self {
            Source::Registry(reference) | Source::DockerDaemon(reference) => reference.default_name(),
            Source::DockerArchive { path, choice }
            | Source::OciArchive { path, choice }
            | Source::OciLayout { path, choice } => name_of(path, choice),
        }
    }
}

/// That of the reference, or the file's name and the tag.
fn name_of(path: &Path, choice: &Choice) -> String {
    let named = |text: &String| text.parse::<Reference>().ok().filter(|_| text.contains([':', '/', '@']));
    if let Choice::Named(text) = choice
        && let Some(reference) = named(text)
    {
        return reference.default_name();
    }
    let stem = path.file_stem().unwrap_or_default().to_string_lossy();
    let mut name: String = match choice {
        Choice::Named(tag) if tag != "latest" => format!("{stem}-{tag}"),
        _ => stem.into_owned(),
    };
    name =
        name.chars().map(|c| if c.is_ascii_alphanumeric() || matches!(c, '.' | '_' | '-') { c } else { '-' }).collect();
    name = name.trim_start_matches(['.', '-']).chars().take(128).collect();
    if name.is_empty() { "image".to_owned() } else { name }
}

impl FromStr for Source {
    type Err = SourceError;

    fn from_str(text: &str) -> Result<Source, SourceError> {
        match text.split_once(':') {
            Some(("docker-archive", rest)) => {
                file(text, rest).map(|(path, choice)| Source::DockerArchive { path, choice })
            }
            Some(("oci-archive", rest)) => file(text, rest).map(|(path, choice)| Source::OciArchive { path, choice }),
            Some(("oci", rest)) => file(text, rest).map(|(path, choice)| Source::OciLayout { path, choice }),
            Some(("docker-daemon", rest)) => Ok(Source::DockerDaemon(rest.parse()?)),
            Some(("docker", rest)) if rest.starts_with("//") => Ok(Source::Registry(rest[2..].parse()?)),
            _ => Ok(Source::Registry(text.parse()?)),
        }
    }
}

fn file(text: &str, rest: &str) -> Result<(PathBuf, Choice), SourceError> {
    let (path, name) = rest.split_once(':').map_or((rest, None), |(path, name)| (path, Some(name)));
    if path.is_empty() {
        return Err(SourceError::NoPath(text.to_owned()));
    }
    let choice = match name {
        None | Some("") => Choice::Only,
        Some(name) => match name.strip_prefix('@') {
            Some(place) => Choice::At(place.parse().map_err(|_| SourceError::NoPlace(name.to_owned()))?),
            None => Choice::Named(name.to_owned()),
        },
    };
    Ok((path.into(), choice))
}

impl fmt::Display for Choice {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Choice::Only => Ok(()),
            Choice::Named(name) => write!(f, ":{name}"),
            Choice::At(place) => write!(f, ":@{place}"),
        }
    }
}

impl fmt::Display for Source {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Source::Registry(reference) => write!(f, "{reference}"),
            Source::DockerArchive { path, choice } => write!(f, "docker-archive:{}{choice}", path.display()),
            Source::OciArchive { path, choice } => write!(f, "oci-archive:{}{choice}", path.display()),
            Source::OciLayout { path, choice } => write!(f, "oci:{}{choice}", path.display()),
            Source::DockerDaemon(reference) => write!(f, "docker-daemon:{reference}"),
        }
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn transports_are_told_by_their_prefix() {
        let table = [
            ("debian:bookworm", "docker.io/library/debian:bookworm", "debian-bookworm"),
            ("docker://debian", "docker.io/library/debian:latest", "debian"),
            ("docker-archive:/a/b.tar", "docker-archive:/a/b.tar", "b"),
            ("docker-archive:b.tar:x.io/debian:12", "docker-archive:b.tar:x.io/debian:12", "debian-12"),
            ("docker-archive:b.tar:@2", "docker-archive:b.tar:@2", "b"),
            ("oci-archive:/a/b.tar:v1", "oci-archive:/a/b.tar:v1", "b-v1"),
            ("oci:/a/my layout:latest", "oci:/a/my layout:latest", "my-layout"),
            ("oci:./dir", "oci:./dir", "dir"),
            ("oci:/..", "oci:/..", "image"),
            ("oci:dir", "oci:dir", "dir"),
            ("docker-daemon:x", "docker-daemon:docker.io/library/x:latest", "x"),
        ];
        for (text, shown, name) in table {
            let source: Source = text.parse().unwrap();
            assert_eq!((source.to_string(), source.default_name()), (shown.to_owned(), name.to_owned()), "{text}");
        }
        for bad in ["docker-archive:", "oci-archive::tag", "docker-archive:x:@y", "docker-daemon:", "X"] {
            assert!(bad.parse::<Source>().is_err(), "{bad}");
        }
    }

    proptest! {
        #[test]
        fn arbitrary_text_never_panics(
            transport in "(docker-archive:|oci-archive:|oci:|docker-daemon:|docker:)?",
            rest in "\\PC{0,60}",
        ) {
            if let Ok(source) = format!("{transport}{rest}").parse::<Source>() {
                prop_assert!(!source.default_name().is_empty());
            }
        }
    }
}

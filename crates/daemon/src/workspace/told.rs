//! What would travel, for people: dry runs, and checks before anything is made.

use wire::api::{Inspection, WorkspaceMode};

use super::repository::Repository;
use super::shown;

/// Files at the top that pin tools.
const TOOLING: [&str; 2] = [".mise.toml", ".tool-versions"];
/// Files that describe a development container, the preferred first (containers.dev).
const DEVCONTAINER: [&str; 2] = [".devcontainer/devcontainer.json", ".devcontainer.json"];

impl Repository {
    /// What would travel. `list`: all paths are named.
    #[must_use]
    pub fn told(&self, list: bool) -> Inspection {
        let all = self.all();
        let mut told = Inspection {
            root: self.root().display().to_string(),
            mode: self.source.mode,
            base_commit: self.base_commit(),
            branch: self.branch(),
            tooling: TOOLING.iter().filter(|name| self.has(name)).map(|name| (*name).to_owned()).collect(),
            devcontainer: DEVCONTAINER.iter().find(|name| self.has(name)).map(|name| (*name).to_owned()),
            paths: list.then(Vec::new),
            ..Inspection::default()
        };
        let mut missing = Vec::new();
        for repository in all {
            let name = |path: &Vec<u8>| shown::text(&shown::below(&repository.path, path));
            told.files += repository.files.len() as u64;
            told.bytes += repository.files.iter().map(|file| file.seen.stamp.bytes()).sum::<u64>();
            told.untracked_left_out += repository.untracked_left_out;
            told.secrets.extend(repository.secrets.iter().map(name));
            told.submodules.extend((!repository.path.is_empty()).then(|| shown::text(&repository.path)));
            missing.extend(repository.directories.iter().map(name));
            if let Some(paths) = &mut told.paths {
                paths.extend(repository.files.iter().map(|file| name(&file.path)));
            }
        }
        told.submodules.extend_from_slice(&missing);
        told.submodules.sort();
        if !missing.is_empty() {
            told.warnings.push(match told.mode {
                WorkspaceMode::MetadataOnly => format!("submodules not initialised here: {}", missing.join(", ")),
                WorkspaceMode::Overlay | WorkspaceMode::FullCopy => {
                    format!("submodules not initialised here arrive as empty directories: {}", missing.join(", "))
                }
            });
        }
        told
    }

    fn has(&self, path: &str) -> bool {
        self.files.binary_search_by(|file| file.path.as_slice().cmp(path.as_bytes())).is_ok()
    }
}

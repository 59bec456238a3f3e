//! What would travel, for people: dry runs, and checks before anything is made.

use wire::api::{Inspection, WORKSPACE_PATH, WorkspaceMode};

use super::repository::Repository;
use super::shown;

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
            tooling: self.tooling(),
            pins: self.pins(),
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
        let asked = self.container(WORKSPACE_PATH);
        (told.devcontainer, told.container) = (asked.file, asked.container);
        told.warnings.extend(asked.remarks);
        told
    }
}

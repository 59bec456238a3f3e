//! What a repository's own files ask of the machine: tools in certain versions, a development container. Only files that
//! travel are heeded, with the content that travels.

use std::io::Read;

use wire::api::{DevContainer, ToolPin};

use super::devcontainer::{self, Places};
use super::files::{Opened, Tree};
use super::pins::{self, MANIFESTS};
use super::repository::Repository;
use super::{WorkspaceError, shown};

/// Files at the top that mise reads (mise.jdx.dev/configuration, "mise.toml"; `mise config ls`).
const MISE: [&str; 11] = [
    ".mise.toml",
    "mise.toml",
    ".mise.local.toml",
    "mise.local.toml",
    "mise/config.toml",
    "mise/config.local.toml",
    ".mise/config.toml",
    ".config/mise.toml",
    ".config/mise/config.toml",
    ".config/mise/mise.toml",
    ".tool-versions",
];
/// Files that describe a development container, the preferred first (containers.dev).
const DEVCONTAINER: [&str; 2] = [".devcontainer/devcontainer.json", ".devcontainer.json"];
/// Most bytes of such a file.
const BYTES_MAX: u64 = 1 << 20;

/// A development container, as it was described.
#[derive(Debug, Default)]
pub struct Container {
    /// The file.
    pub file: Option<String>,
    /// What is heeded of it; none when it cannot be understood.
    pub container: Option<DevContainer>,
    /// What a person should know.
    pub remarks: Vec<String>,
}

impl Repository {
    /// The files that mise reads.
    #[must_use]
    pub fn tooling(&self) -> Vec<String> {
        MISE.iter().filter(|name| self.has(name)).map(|name| (*name).to_owned()).collect()
    }

    /// Versions of tools that other files pin, and those of mise do not.
    pub(super) fn pins(&self) -> Vec<ToolPin> {
        let of_mise = self.tooling();
        let mut known: Vec<String> = of_mise
            .iter()
            .flat_map(|file| self.text(file).map(|text| pins::pinned_by_mise(file, &text)).unwrap_or_default())
            .collect();
        let mut pins = Vec::new();
        for manifest in MANIFESTS {
            if known.iter().any(|tool| tool == manifest.tool) || !self.has(manifest.file) {
                continue;
            }
            if let Some(version) = self.text(manifest.file).ok().as_deref().and_then(manifest.read) {
                known.push(manifest.tool.to_owned());
                pins.push(ToolPin { tool: manifest.tool.to_owned(), version, file: manifest.file.to_owned() });
            }
        }
        pins
    }

    /// The development container it describes, for a workspace at `guest_path`.
    #[must_use]
    pub fn container(&self, guest_path: &str) -> Container {
        let file = match self.devcontainer_file() {
            Ok(Some(file)) => file,
            Ok(None) => return Container::default(),
            Err(several) => {
                let remark = format!("several development containers, of which none is used: {}", several.join(", "));
                return Container { remarks: vec![remark], ..Container::default() };
            }
        };
        let root = self.root().display().to_string();
        let (container, remarks) = match self.text(&file) {
            Ok(text) => devcontainer::read(&text, Places { host: &root, guest: guest_path }),
            Err(why) => (None, vec![format!("it is left out: {why}")]),
        };
        let remarks = remarks.into_iter().map(|remark| format!("{file}: {remark}")).collect();
        Container { file: Some(file), container, remarks }
    }

    /// The file that describes it; several of which none is preferred are an error.
    fn devcontainer_file(&self) -> Result<Option<String>, Vec<String>> {
        if let Some(file) = DEVCONTAINER.iter().find(|name| self.has(name)) {
            return Ok(Some((*file).to_owned()));
        }
        let below = |path: &[u8]| {
            let folder = path.strip_prefix(b".devcontainer/")?.strip_suffix(b"/devcontainer.json")?;
            (!folder.is_empty() && !folder.contains(&b'/')).then(|| shown::text(path))
        };
        let mut found: Vec<String> = self.files.iter().filter_map(|file| below(&file.path)).collect();
        match found.len() {
            0 | 1 => Ok(found.pop()),
            _ => Err(found),
        }
    }

    fn has(&self, path: &str) -> bool {
        self.files.binary_search_by(|file| file.path.as_slice().cmp(path.as_bytes())).is_ok()
    }

    /// What is in a file that travels; else why that is not known.
    fn text(&self, path: &str) -> Result<String, String> {
        let bytes = self.bytes(path).map_err(|error| wire::api::chain(&error))?;
        let bytes = bytes.ok_or_else(|| "it is no file".to_owned())?;
        if bytes.len() as u64 > BYTES_MAX {
            return Err("it is too large".to_owned());
        }
        String::from_utf8(bytes).map_err(|_| "it is not UTF-8".to_owned())
    }

    /// At most one byte more than is wanted.
    fn bytes(&self, path: &str) -> Result<Option<Vec<u8>>, WorkspaceError> {
        if self.is_elsewhere {
            let entry = self.entries.iter().find(|entry| entry.path == path.as_bytes());
            let known = self.files.iter().find(|file| file.path == path.as_bytes());
            let is_small = known.is_some_and(|file| file.seen.stamp.bytes() <= BYTES_MAX);
            return match entry.filter(|_| is_small) {
                Some(entry) => self.git.tell(&["cat-file", "blob", &entry.oid.to_string()]).map(Some),
                None => Ok(None),
            };
        }
        let Some(Opened::File(file, _)) = Tree::open(self.root())?.read(path.as_bytes())? else { return Ok(None) };
        let mut bytes = Vec::new();
        let read = file.take(BYTES_MAX + 1).read_to_end(&mut bytes);
        read.map_err(|source| WorkspaceError::Read { path: self.root().join(path), source })?;
        Ok(Some(bytes))
    }
}

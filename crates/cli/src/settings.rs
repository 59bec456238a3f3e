//! What the environment says, read once at the start: directories, the executable's own place, who runs it.

use std::ffi::OsString;
use std::path::{Path, PathBuf};

use wire::layout::{Environment, HomeError, UserDirs};

/// The process's surroundings.
#[derive(Debug, Clone)]
pub(crate) struct Settings {
    environment: Environment,
    /// This program, symbolic links resolved.
    pub(crate) exe: Option<PathBuf>,
    /// Where programs are: `PATH`.
    pub(crate) programs: OsString,
}

impl Settings {
    /// Reads the environment.
    pub(crate) fn read() -> Settings {
        let path = |name: &str| variable(name).filter(|value| !value.is_empty()).map(PathBuf::from);
        let environment = Environment {
            banger_home: path("BANGER_HOME"),
            home: path("HOME"),
            xdg_state_home: path("XDG_STATE_HOME"),
            xdg_cache_home: path("XDG_CACHE_HOME"),
            xdg_config_home: path("XDG_CONFIG_HOME"),
            xdg_runtime_dir: path("XDG_RUNTIME_DIR"),
            uid: rustix::process::getuid().as_raw(),
        };
        let exe = std::env::current_exe().and_then(std::fs::canonicalize).ok();
        Settings { environment, exe, programs: variable("PATH").unwrap_or_default() }
    }

    /// This user's directories.
    ///
    /// # Errors
    /// When no home is known.
    pub(crate) fn dirs(&self) -> Result<UserDirs, HomeError> {
        UserDirs::from_environment(&self.environment)
    }

    /// The directories that the environment names, by their variables: what a daemon started elsewhere has to be told.
    pub(crate) fn places(&self) -> Vec<(&'static str, &Path)> {
        let environment = &self.environment;
        if let Some(home) = &environment.banger_home {
            return vec![("BANGER_HOME", home)];
        }
        let named = [
            ("XDG_STATE_HOME", &environment.xdg_state_home),
            ("XDG_CACHE_HOME", &environment.xdg_cache_home),
            ("XDG_CONFIG_HOME", &environment.xdg_config_home),
        ];
        named.into_iter().filter_map(|(name, place)| Some((name, place.as_deref()?))).collect()
    }

    /// Who runs this.
    pub(crate) fn uid(&self) -> u32 {
        self.environment.uid
    }
}

/// One environment variable, to be passed on to a guest.
#[expect(clippy::disallowed_methods, reason = "the one place that reads the environment")]
pub(crate) fn variable(name: &str) -> Option<OsString> {
    std::env::var_os(name)
}

//! Where an installed tree keeps its parts, and where a user's files live. Pure: the caller reads the environment.
//!
//! ```text
//! PREFIX/bin/banger
//! PREFIX/libexec/banger/{bangerd,banger-helper,banger-agent}
//! PREFIX/share/banger/images/<recipe>/recipe.toml
//! ```
//! Programs find each other from their own executable, so a tree works wherever it is put. User files follow the XDG
//! base directory specification; `BANGER_HOME` puts all of them beneath one directory.

use std::path::{Path, PathBuf};

/// The parts of one installed tree.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Install {
    /// Holds `bangerd`, `banger-helper` and `banger-agent`.
    pub libexec: PathBuf,
    /// Holds `images/<recipe>/recipe.toml`.
    pub share: PathBuf,
}

impl Install {
    /// The tree around `exe`, an absolute path with symbolic links resolved: `PREFIX/bin/x` or `PREFIX/libexec/banger/x`.
    #[must_use]
    pub fn around(exe: &Path) -> Option<Install> {
        let dir = exe.parent()?;
        let prefix = match dir.file_name()?.to_str()? {
            "bin" => dir.parent()?,
            "banger" if dir.parent()?.file_name()? == "libexec" => dir.parent()?.parent()?,
            _ => return None,
        };
        Some(Install { libexec: prefix.join("libexec/banger"), share: prefix.join("share/banger") })
    }

    /// The daemon.
    #[must_use]
    pub fn daemon(&self) -> PathBuf {
        self.libexec.join("bangerd")
    }

    /// The guest agent, which is also the initramfs `/init`.
    #[must_use]
    pub fn agent(&self) -> PathBuf {
        self.libexec.join("banger-agent")
    }

    /// The recipes of images this tree can build.
    #[must_use]
    pub fn recipes(&self) -> PathBuf {
        self.share.join("images")
    }

    /// The recipes of kernels this tree can build.
    #[must_use]
    pub fn kernels(&self) -> PathBuf {
        self.share.join("kernels")
    }
}

/// What the environment says about a user's directories; empty values count as absent.
#[derive(Debug, Clone, Default)]
pub struct Environment {
    /// `BANGER_HOME`.
    pub banger_home: Option<PathBuf>,
    /// `HOME`.
    pub home: Option<PathBuf>,
    /// `XDG_STATE_HOME`.
    pub xdg_state_home: Option<PathBuf>,
    /// `XDG_CACHE_HOME`.
    pub xdg_cache_home: Option<PathBuf>,
    /// `XDG_CONFIG_HOME`.
    pub xdg_config_home: Option<PathBuf>,
    /// `XDG_RUNTIME_DIR`.
    pub xdg_runtime_dir: Option<PathBuf>,
    /// The real user id.
    pub uid: u32,
}

/// One user's directories.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct UserDirs {
    /// Database, disks, images, kernels.
    pub state: PathBuf,
    /// What can be made again.
    pub cache: PathBuf,
    /// `config.toml`.
    pub config: PathBuf,
    /// Sockets; private to the user.
    pub run: PathBuf,
}

/// Why a user's directories are unknown.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum HomeError {
    /// Neither `HOME` nor `BANGER_HOME` names an absolute directory.
    #[error("cannot tell where your files live: neither HOME nor BANGER_HOME is set to an absolute path")]
    Unknown,
    /// `BANGER_HOME` would mean another place in every directory; falling back to `HOME` would use the wrong VMs.
    #[error("BANGER_HOME must be an absolute path, not {}", .0.display())]
    Relative(PathBuf),
}

impl UserDirs {
    /// Where `env` puts them. Relative values of XDG variables are ignored, as their specification asks.
    ///
    /// # Errors
    /// When no absolute home is known, or `BANGER_HOME` is relative.
    pub fn from_environment(env: &Environment) -> Result<UserDirs, HomeError> {
        let absolute = |path: &Option<PathBuf>| path.clone().filter(|p| p.is_absolute());
        if let Some(base) = &env.banger_home {
            if !base.is_absolute() {
                return Err(HomeError::Relative(base.clone()));
            }
            return Ok(UserDirs {
                state: base.join("state"),
                cache: base.join("cache"),
                config: base.join("config"),
                run: base.join("run"),
            });
        }
        let home = absolute(&env.home);
        let below = |xdg: &Option<PathBuf>, default: &str| {
            absolute(xdg)
                .or_else(|| home.as_ref().map(|h| h.join(default)))
                .map(|p| p.join("banger"))
                .ok_or(HomeError::Unknown)
        };
        Ok(UserDirs {
            state: below(&env.xdg_state_home, ".local/state")?,
            cache: below(&env.xdg_cache_home, ".cache")?,
            config: below(&env.xdg_config_home, ".config")?,
            run: absolute(&env.xdg_runtime_dir)
                .map_or_else(|| PathBuf::from(format!("/tmp/banger-runtime-{}", env.uid)), |p| p.join("banger")),
        })
    }

    /// The daemon's API socket.
    #[must_use]
    pub fn daemon_socket(&self) -> PathBuf {
        self.run.join("bangerd.sock")
    }

    /// Held by the one daemon of this user.
    #[must_use]
    pub fn daemon_lock(&self) -> PathBuf {
        self.run.join("bangerd.lock")
    }

    /// What the daemon remembers.
    #[must_use]
    pub fn database(&self) -> PathBuf {
        self.state.join("state.db")
    }

    /// What a daemon started on demand writes.
    #[must_use]
    pub fn daemon_log(&self) -> PathBuf {
        self.state.join("bangerd.log")
    }

    /// What its owner decided; it need not exist.
    #[must_use]
    pub fn config_file(&self) -> PathBuf {
        self.config.join("config.toml")
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_tree_is_found_from_either_side() {
        let tree = Install::around(Path::new("/opt/b/bin/banger"));
        assert_eq!(tree, Install::around(Path::new("/opt/b/libexec/banger/bangerd")));
        assert_eq!(tree.map(|t| t.agent()), Some(PathBuf::from("/opt/b/libexec/banger/banger-agent")));
        assert_eq!(Install::around(Path::new("/opt/b/other/banger")), None);
    }

    #[test]
    fn user_directories() {
        let mut env = Environment { home: Some("/h".into()), uid: 7, ..Environment::default() };
        let dirs = UserDirs::from_environment(&env).unwrap();
        assert_eq!(dirs.state, Path::new("/h/.local/state/banger"));
        assert_eq!(dirs.run, Path::new("/tmp/banger-runtime-7"));
        env.xdg_state_home = Some("relative".into());
        env.xdg_runtime_dir = Some("/run/user/7".into());
        let dirs = UserDirs::from_environment(&env).unwrap();
        assert_eq!(dirs.state, Path::new("/h/.local/state/banger"));
        assert_eq!(dirs.daemon_socket(), Path::new("/run/user/7/banger/bangerd.sock"));
        env.banger_home = Some("/b".into());
        assert_eq!(UserDirs::from_environment(&env).unwrap().run, Path::new("/b/run"));
        assert_eq!(UserDirs::from_environment(&Environment::default()), Err(HomeError::Unknown));
        env.banger_home = Some("b".into());
        assert_eq!(UserDirs::from_environment(&env), Err(HomeError::Relative("b".into())));
    }
}

//! Looks whether something starts the daemon when the host boots: files that systemd(1) and its tools keep.

use std::path::{Path, PathBuf};

use crate::model::autostart::{Autostart, UNIT};

/// Where to look.
#[derive(Debug, Clone)]
pub struct Places {
    /// What stands for `/`.
    pub root: PathBuf,
    /// This user's `~/.config`, as the service manager knows it.
    pub config_home: PathBuf,
    /// This user.
    pub uid: u32,
}

/// Looks, changing nothing.
#[must_use]
pub fn probe(places: &Places) -> Autostart {
    let below = |path: &str| places.root.join(path);
    let user = user_name(&below("etc/passwd"), places.uid);
    let system_unit = below("etc/systemd/system/multi-user.target.wants").join(UNIT);
    let user_units = [places.config_home.join("systemd/user"), below("etc/systemd/user")];
    Autostart {
        // As sd_booted(3).
        has_systemd: below("run/systemd/system").is_dir(),
        has_system_unit: user.as_ref().is_some_and(|user| runs_as(&system_unit, user, places.uid)),
        has_user_unit: user_units.iter().any(|dir| dir.join("default.target.wants").join(UNIT).is_file()),
        lingers: user.is_some_and(|user| below("var/lib/systemd/linger").join(user).exists()),
    }
}

/// The name of a user, as in passwd(5).
fn user_name(passwd: &Path, uid: u32) -> Option<String> {
    let text = std::fs::read_to_string(passwd).ok()?;
    text.lines().find_map(|line| {
        let mut fields = line.split(':');
        let name = fields.next()?;
        (fields.nth(1)?.parse() == Ok(uid)).then(|| name.to_owned())
    })
}

/// Whether a unit says that it runs as this user.
fn runs_as(unit: &Path, user: &str, uid: u32) -> bool {
    let text = std::fs::read_to_string(unit).unwrap_or_default();
    let said = text.lines().rev().find_map(|line| line.strip_prefix("User="));
    said.is_some_and(|said| said.trim() == user || said.trim().parse() == Ok(uid))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn put(path: &Path, text: &str) {
        std::fs::create_dir_all(path.parent().unwrap()).unwrap();
        std::fs::write(path, text).unwrap();
    }

    #[test]
    fn each_part_is_found_by_itself() {
        let dir = tempfile::tempdir().unwrap();
        let (root, home) = (dir.path().join("root"), dir.path().join("home/.config"));
        let places = Places { root: root.clone(), config_home: home.clone(), uid: 4242 };
        let look = || probe(&places);
        put(&root.join("etc/passwd"), "root:x:0:0::/root:/bin/sh\nalice:x:4242:4242::/home/alice:/bin/sh\n");
        assert_eq!(look(), Autostart::default());
        std::fs::create_dir_all(root.join("run/systemd/system")).unwrap();
        assert_eq!(look(), Autostart { has_systemd: true, ..Autostart::default() });

        // A link to a unit that is gone enables nothing.
        let (unit, link) =
            (home.join("systemd/user").join(UNIT), home.join("systemd/user/default.target.wants").join(UNIT));
        std::fs::create_dir_all(link.parent().unwrap()).unwrap();
        std::os::unix::fs::symlink(&unit, &link).unwrap();
        assert!(!look().has_user_unit);
        put(&unit, "[Service]\n");
        assert!(look().has_user_unit && !look().is_set_up());
        put(&root.join("var/lib/systemd/linger/bob"), "");
        assert!(!look().lingers, "somebody else does");
        put(&root.join("var/lib/systemd/linger/alice"), "");
        assert!(look().lingers && look().is_set_up());
    }

    #[test]
    fn a_system_unit_counts_for_the_user_it_names() {
        let dir = tempfile::tempdir().unwrap();
        let places = Places { root: dir.path().to_path_buf(), config_home: "/none".into(), uid: 7 };
        std::fs::create_dir_all(dir.path().join("run/systemd/system")).unwrap();
        put(&dir.path().join("etc/passwd"), "carol:x:7:7:::\n");
        let unit = dir.path().join("etc/systemd/system/multi-user.target.wants").join(UNIT);
        for (text, is_set_up) in [
            ("[Service]\nUser=carol\n", true),
            ("[Service]\nUser=7\n", true),
            ("[Service]\nUser=dave\n", false),
            ("[Service]\n", false),
        ] {
            put(&unit, text);
            assert_eq!(probe(&places).is_set_up(), is_set_up, "{text:?}");
        }
    }
}

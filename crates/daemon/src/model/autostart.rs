//! Whether the daemon comes with the host: what a VM that is to come back after a reboot needs. Pure; `doctor` looks.

/// The unit's name.
pub const UNIT: &str = "bangerd.service";

/// What was found of it.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Autostart {
    /// systemd runs this host.
    pub has_systemd: bool,
    /// A system unit of this user is enabled.
    pub has_system_unit: bool,
    /// A unit of this user's own service manager is enabled.
    pub has_user_unit: bool,
    /// That service manager is there from the host's boot on, and not from a login on.
    pub lingers: bool,
}

impl Autostart {
    /// Whether something starts the daemon at boot.
    #[must_use]
    pub fn is_set_up(&self) -> bool {
        self.has_systemd && (self.has_system_unit || (self.has_user_unit && self.lingers))
    }

    /// What it is that does, in words.
    #[must_use]
    pub fn found(&self) -> String {
        if self.has_system_unit {
            return format!("the system's {UNIT} starts the daemon at boot");
        }
        format!("{UNIT} of this user starts the daemon at boot")
    }

    /// What is missing, in words.
    #[must_use]
    pub fn lack(&self) -> String {
        let unit = format!("{UNIT} of this user is not enabled");
        let lingering = "this user's services begin with a login only";
        match (self.has_systemd, self.has_user_unit, self.lingers) {
            (false, ..) => "systemd does not run this host".to_owned(),
            (true, true, _) => lingering.to_owned(),
            (true, false, true) => unit,
            (true, false, false) => format!("{unit}, and {lingering}"),
        }
    }

    /// The commands that set up what is missing, in order; none where systemd is not there to be set up.
    #[must_use]
    pub fn commands(&self) -> Vec<String> {
        let mut commands = Vec::new();
        if !self.has_systemd || self.is_set_up() {
            return commands;
        }
        if !self.has_user_unit {
            let file = format!("~/.config/systemd/user/{UNIT}");
            commands.push(format!("mkdir -p ~/.config/systemd/user && banger daemon unit > {file}"));
            commands.push(format!("systemctl --user enable {UNIT}"));
        }
        if !self.lingers {
            commands.push("loginctl enable-linger".to_owned());
        }
        commands
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_missing_is_named_with_the_commands_for_it() {
        let found = |has_system_unit, has_user_unit, lingers| Autostart {
            has_systemd: true,
            has_system_unit,
            has_user_unit,
            lingers,
        };
        for (autostart, is_set_up, commands) in [
            (found(true, false, false), true, 0),
            (found(false, true, true), true, 0),
            (found(false, true, false), false, 1),
            (found(false, false, true), false, 2),
            (found(false, false, false), false, 3),
            (Autostart { has_systemd: false, ..found(true, true, true) }, false, 0),
        ] {
            assert_eq!(autostart.is_set_up(), is_set_up, "{autostart:?}");
            assert_eq!(autostart.commands().len(), commands, "{autostart:?}");
        }
        assert_eq!(found(false, true, false).commands(), ["loginctl enable-linger"]);
        assert!(found(false, false, true).lack().contains("not enabled"));
        assert_eq!(Autostart::default().lack(), "systemd does not run this host");
    }
}

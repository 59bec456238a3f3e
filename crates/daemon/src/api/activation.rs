//! Commands of a workspace that pins tools are run by mise, with those tools as far as they are installed.

use wire::api::Workspace;

/// Runs a command, or the user's shell, through mise. Nothing is installed or looked up for it, unless the command's environment says otherwise;
/// a mise of the command's own finds nothing of that set. The shell between the two tells of a program that is not there:
/// mise has one status for everything.
const SCRIPT: &str = r#"mise=$1
shift
[ $# -gt 0 ] || set -- "${SHELL:-/bin/sh}"
[ -x "$mise" ] || exec "$@"
if [ -z "${MISE_EXEC_AUTO_INSTALL+set}${MISE_OFFLINE+set}" ]; then
    export MISE_EXEC_AUTO_INSTALL=false MISE_OFFLINE=1
    exec "$mise" exec -- /bin/sh -c 'unset MISE_EXEC_AUTO_INSTALL MISE_OFFLINE; exec "$@"' banger "$@"
fi
exec "$mise" exec -- /bin/sh -c 'exec "$@"' banger "$@""#;

/// What runs a command in this directory of the workspace's guest, absent: in the workspace; nothing elsewhere, and where
/// there is no mise.
pub(super) fn through(workspace: &Workspace, cwd: Option<&str>) -> Vec<String> {
    let Some(mise) = workspace.mise.as_deref().filter(|_| is_within(&workspace.guest_path, cwd)) else {
        return Vec::new();
    };
    ["/bin/sh", "-c", SCRIPT, "banger", mise].map(str::to_owned).to_vec()
}

/// Whether a directory is in the workspace, as far as its name says.
fn is_within(top: &str, cwd: Option<&str>) -> bool {
    let Some(cwd) = cwd else { return true };
    let is_below = cwd.strip_prefix(top).is_some_and(|below| below.is_empty() || below.starts_with('/'));
    is_below && cwd.split('/').all(|part| part != "..")
}

#[cfg(test)]
mod tests {
    use std::os::unix::fs::PermissionsExt;
    use std::path::Path;
    use std::process::Output;

    use super::*;

    fn workspace(mise: Option<&Path>) -> Workspace {
        let record = r#"{"guest_path":"/root/repo","host_path":"/src/app","head_commit":null}"#;
        let mise = mise.map(|path| path.to_str().unwrap().to_owned());
        Workspace { mise, ..serde_json::from_str(record).unwrap() }
    }

    #[test]
    fn only_in_a_workspace_with_mise() {
        let with = workspace(Some(Path::new("/usr/bin/mise")));
        for (cwd, is_within) in [
            (None, true),
            (Some("/root/repo"), true),
            (Some("/root/repo/"), true),
            (Some("/root/repo/sub/dir"), true),
            (Some("/root"), false),
            (Some("/root/repository"), false),
            (Some("/root/repo/../x"), false),
            (Some("repo"), false),
            (Some(""), false),
        ] {
            assert_eq!(!through(&with, cwd).is_empty(), is_within, "{cwd:?}");
            assert!(through(&workspace(None), cwd).is_empty(), "{cwd:?}");
        }
    }

    /// Runs `words` through a mise that says what it was given, and then does it.
    fn ran(dir: &Path, env: &[(&str, &str)], words: &[&str]) -> Output {
        let mise = dir.join("mise");
        let script = "#!/bin/sh\nprintf '%s|' \"$1\" \"$2\" \"$MISE_EXEC_AUTO_INSTALL\" \"$MISE_OFFLINE\"\nshift 2\nTOOL=1 exec \"$@\"\n";
        std::fs::write(&mise, script).unwrap();
        std::fs::set_permissions(&mise, std::fs::Permissions::from_mode(0o755)).unwrap();
        plain(&mise, env, words)
    }

    fn plain(mise: &Path, env: &[(&str, &str)], words: &[&str]) -> Output {
        let through = through(&workspace(Some(mise)), None);
        let mut command = sys::process::command(&through[0]);
        command.args(&through[1..]).args(words).env_clear().env("PATH", "/usr/bin:/bin").envs(env.iter().copied());
        command.output().unwrap()
    }

    fn text(bytes: &[u8]) -> String {
        String::from_utf8_lossy(bytes).into_owned()
    }

    #[test]
    fn words_status_and_environment_are_the_commands_own() {
        let dir = tempfile::tempdir().unwrap();
        let script = "printf '%s|' \"$0\" \"$@\" \"$TOOL\" \"${MISE_OFFLINE-none}\"; exit 42";
        let words = ["sh", "-c", script, "a b", "it's", "", "-x", "$HOME", "line\nend"];
        let output = ran(dir.path(), &[], &words);
        assert_eq!(output.status.code(), Some(42));
        assert_eq!(text(&output.stdout), "exec|--|false|1|a b|it's||-x|$HOME|line\nend|1|none|");
        let output = ran(dir.path(), &[("MISE_OFFLINE", "0")], &words);
        assert_eq!(text(&output.stdout), "exec|--||0|a b|it's||-x|$HOME|line\nend|1|0|");
    }

    #[test]
    fn a_program_that_is_not_there_is_the_one_that_is_named() {
        let dir = tempfile::tempdir().unwrap();
        for (word, status) in [("no-such-program", 127), ("/no/such", 127), ("/etc/passwd", 126)] {
            let output = ran(dir.path(), &[], &[word, "x"]);
            assert_eq!(output.status.code(), Some(status), "{word}");
            let told = text(&output.stderr);
            assert!(told.starts_with("banger: ") && told.contains(word) && !told.contains("mise"), "{told}");
        }
    }

    #[test]
    fn a_shell_is_the_users() {
        let dir = tempfile::tempdir().unwrap();
        let output = ran(dir.path(), &[("SHELL", "/usr/bin/env")], &[]);
        let told = text(&output.stdout);
        assert!(output.status.success() && told.contains("\nTOOL=1\n") && !told.contains("\nMISE_"), "{told}");
    }

    #[test]
    fn without_mise_it_runs_all_the_same() {
        let output = plain(Path::new("/no/mise"), &[], &["sh", "-c", "echo \"${MISE_OFFLINE-none}\"; exit 3"]);
        assert_eq!((output.status.code(), text(&output.stdout)), (Some(3), "none\n".to_owned()));
    }
}

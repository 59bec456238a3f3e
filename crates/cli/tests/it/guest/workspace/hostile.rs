//! Guests that want to do something to the host with what they send back. Nothing is written but the file that was asked
//! for, nothing of theirs is run, and no terminal obeys them.

use std::collections::BTreeMap;
use std::fs;
use std::os::unix::ffi::OsStrExt;
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};

use super::state::shell;
use crate::guest::host::{Host, Ran};
use crate::terminal::sit_down_with;

/// What a terminal would obey: a title, and text that blinks. banger itself never says either.
const ORDERS: [&str; 3] = ["\x1b]", "\x1b[5;7;31m", "\x07"];
/// The same as the guest's shell writes it.
const ORDER: &str = "$(printf '\\033]0;title\\007\\033[5;7;31mred')";

/// A host with a repository, a directory for what is exported, and a VM that has the repository.
struct Scene {
    host: Host,
    repository: PathBuf,
    out: PathBuf,
}

impl Scene {
    fn new() -> Scene {
        let host = Host::new();
        let (repository, out) = (host.home().join("outer/repository"), host.home().join("out"));
        fs::create_dir_all(&repository).unwrap();
        fs::create_dir(&out).unwrap();
        shell(&repository, b"git init -q -b trunk; seq 20 >file; ln -s file link; git add -A; git commit -qm first");
        // Whoever changes a ref of it, or works in it, is seen.
        for hook in
            ["reference-transaction", "post-update", "post-receive", "post-commit", "post-merge", "post-applypatch"]
        {
            let path = repository.join(".git/hooks").join(hook);
            fs::write(&path, format!("#!/bin/sh\ntouch {}/hook-{hook}\n", out.display())).unwrap();
            fs::set_permissions(path, fs::Permissions::from_mode(0o755)).unwrap();
        }
        host.ok(&["run", "--name", "web", "-d", "--wait", "agent"]);
        let scene = Scene { host, repository, out };
        scene.prepare(&[]).code(0);
        scene
    }

    fn prepare(&self, more: &[&str]) -> Ran {
        let repository = self.repository.to_str().unwrap();
        self.host.run(&[&["workspace", "prepare", "web", repository], more].concat())
    }

    fn in_guest(&self, script: &str) -> String {
        self.host.ok(&["exec", "web", "--", "sh", "-ec", script])
    }

    /// From now on, git in the guest is this script; `real` in it is git.
    fn replace_git(&self, script: &str) {
        let script = format!("#!/bin/sh\nreal() {{ /usr/bin/git \"$@\"; }}\n{script}\n");
        let put = "cat >/usr/local/bin/git; chmod +x /usr/local/bin/git";
        self.host.pipe(&["exec", "-i", "web", "--", "sh", "-ec", put], script.as_bytes()).code(0);
    }

    fn export(&self, file: &str, more: &[&str]) -> Ran {
        let file = self.out.join(file);
        self.host.run(&[&["workspace", "export", "web", "-o", file.to_str().unwrap()], more].concat())
    }

    /// The host's files: the repository with all that is git's, what is around it, and what was exported.
    fn everything(&self) -> BTreeMap<PathBuf, Vec<u8>> {
        let mut all = BTreeMap::new();
        let mut waiting = vec![self.repository.parent().unwrap().to_owned(), self.out.clone()];
        while let Some(path) = waiting.pop() {
            let kind = fs::symlink_metadata(&path).unwrap().file_type();
            let content = if kind.is_dir() {
                waiting.extend(fs::read_dir(&path).unwrap().map(|entry| entry.unwrap().path()));
                Vec::new()
            } else if kind.is_symlink() {
                fs::read_link(&path).unwrap().as_os_str().as_bytes().to_vec()
            } else {
                fs::read(&path).unwrap()
            };
            all.insert(path, content);
        }
        all
    }

    /// What a person sees at a terminal; it has no orders of the guest's.
    #[track_caller]
    fn screen(&self, args: &[&str]) -> String {
        let person = sit_down_with(&self.host.program(), args, |command| {
            self.host.surround(command);
            command.env("TERM", "xterm-256color");
        });
        let screen = person.leaves().1;
        for order in ORDERS {
            assert!(!screen.contains(order), "{args:?}: {}", screen.escape_debug());
        }
        screen
    }
}

/// The guest's repository may be configured to run whatever it wants: that happens in the guest, and the patch is the same.
#[test]
fn what_a_guest_configures_and_leaves_lying_about_stays_there() {
    let scene = Scene::new();
    let before = scene.everything();
    scene.in_guest(
        "cat >/root/evil <<'.'
#!/bin/sh
touch /tmp/ran
echo evil
.
        chmod +x /root/evil
        for key in core.fsmonitor core.sshCommand diff.external core.pager core.editor diff.x.textconv diff.x.command \
            core.askPass gpg.program alias.diff alias.status; do git config $key /root/evil; done
        git config diff.noprefix true; git config core.quotePath false; git config color.ui always
        echo '* diff=x' >.gitattributes
        mkdir -p .git/hooks; for hook in pre-commit post-index-change reference-transaction; do cp /root/evil .git/hooks/$hook; done
        seq 30 >file; ln -sf /etc/passwd link; ln -s ../../../../.. out; mknod device b 8 0; mknod zero c 1 5; mkfifo pipe
        mkdir sub; echo x >sub/inner; ln -s / root",
    );
    scene.export("patch", &[]).code(0);
    let mut after = scene.everything();
    let patch = after.remove(&scene.out.join("patch")).unwrap();
    assert!(before == after, "only the patch is new");
    let text = String::from_utf8_lossy(&patch);
    for device in ["device", "zero", "pipe"] {
        assert!(!text.contains(&format!("b/{device}")), "{text}");
    }
    // It is what a person expects, on a copy of theirs.
    let copy = scene.host.home().join("copy");
    let apply = format!(
        "git clone -q '{}' copy; cd copy; git apply --index ../out/patch; cat file; readlink link out root",
        scene.repository.display()
    );
    let told = String::from_utf8(shell(scene.host.home(), apply.as_bytes())).unwrap();
    assert!(told.starts_with("1\n") && told.ends_with("30\n/etc/passwd\n../../../../..\n/\n"), "{told}");
    assert!(!copy.join("device").exists());
    // Nothing of it travels when the host's side goes in again.
    fs::write(scene.repository.join("new"), "new").unwrap();
    shell(&scene.repository, b"git -c core.hooksPath=/dev/null add new");
    scene.prepare(&[]).code(0);
    assert_eq!(fs::read_dir(&scene.out).unwrap().count(), 1, "no hook of the host's ran");
    scene.host.ok(&["delete", "--discard", "web"]);
    scene.host.ends_clean();
}

/// git in the guest is the guest's: it says what it wants.
#[test]
fn git_in_a_guest_says_what_it_wants() {
    let scene = Scene::new();
    scene.in_guest("seq 30 >file");
    let before = scene.everything();
    let patch = |name: &str| {
        format!("diff --git a/{name} b/{name}\nnew file mode 100644\n--- /dev/null\n+++ b/{name}\n@@ -0,0 +1 @@\n+x\n")
    };
    let link = "diff --git a/way b/way\nnew file mode 120000\n--- /dev/null\n+++ b/way\n@@ -0,0 +1 @@\n+..\n\
                \\ No newline at end of file\n";
    let id = "0123456789012345678901234567890123456789";
    let raw = format!(":100644 100644 {id} {id} M\tfile\n\n");
    for bad in [
        patch("../../written"),
        patch("/tmp/../written"),
        patch(".git/hooks/post-checkout"),
        link.to_owned() + &patch("way/w"),
    ] {
        let said = format!("{raw}{bad}");
        scene.replace_git(&format!("case \"$*\" in *' -p '*) cat <<'.'\n{said}.\n;; *) real \"$@\" ;; esac"));
        scene.export("lie", &[]).code(0);
        let mut after = scene.everything();
        assert_eq!(after.remove(&scene.out.join("lie")).unwrap(), bad.as_bytes(), "it is passed on, and no more");
        assert!(before == after);
        let apply = "rm -rf copy; git clone -q outer/repository copy; cd copy; git apply --index ../out/lie 2>&1 || echo refused";
        let told = String::from_utf8(shell(scene.host.home(), apply.as_bytes())).unwrap();
        assert!(told.ends_with("refused\n"), "{bad}: {told}");
        fs::remove_file(scene.out.join("lie")).unwrap();
    }
    // What is no patch, what breaks off, and what complains in colour: no file is left.
    let orders = "printf '\\033]0;title\\007\\033[5;7;31mred\\n'";
    for bad in [
        format!("printf 'not a patch'; {orders}"),
        format!("printf '%s' '{raw}diff --git a/file b/file'; {orders} >&2; exit 3"),
        format!("{orders}; {orders} >&2; kill -9 $$"),
        "kill -9 $PPID".to_owned(),
        "yes".to_owned(),
        "exec head -c 300000 /dev/urandom".to_owned(),
    ] {
        scene.replace_git(&format!("case \"$*\" in *' -p '*) {bad} ;; *) real \"$@\" ;; esac"));
        let failed = scene.export("lie", &[]);
        assert_eq!(failed.code, 1, "{bad}: {}", failed.stderr);
        assert!(ORDERS.iter().all(|order| !failed.stderr.contains(order)), "{bad}: {}", failed.stderr.escape_debug());
        assert!(before == scene.everything(), "{bad}");
    }
    // Heads, bases and counts that are none.
    for bad in ["echo nonsense", orders, "echo ../../refs/heads/trunk", "printf '%s\\n' -rf", "exit 7"] {
        scene.replace_git(&format!("case \"$*\" in *rev-parse*|*rev-list*|*diff*) {bad} ;; *) real \"$@\" ;; esac"));
        for format in ["patch", "mbox"] {
            let base = ["--base-commit", &id[..8], "--format", format];
            assert_eq!(scene.export("lie", &base).code, 1, "{bad}");
        }
        scene.screen(&["workspace", "status", "web"]);
        assert!(before == scene.everything(), "{bad}");
    }
    scene.host.ok(&["delete", "--discard", "web"]);
    scene.host.ends_clean();
}

#[test]
fn names_and_content_of_a_guests_reach_no_terminal_as_orders() {
    let scene = Scene::new();
    scene.in_guest(&format!("seq 30 >\"{ORDER}\"; mkdir \"dir{ORDER}\"; printf 'x\\033]0;t\\007\\n' >>file; rm link"));
    for args in [
        &["workspace", "status", "web"][..],
        &["workspace", "diff", "web"],
        &["workspace", "export", "web"],
        &["diff", "web"],
    ] {
        let screen = scene.screen(args);
        assert!(screen.contains("red") || args[0] == "diff", "{args:?}: {}", screen.escape_debug());
    }
    // Both sides have it: a conflict tells its name.
    let name = "printf '\\033]0;title\\007\\033[5;7;31mred'";
    shell(&scene.repository, format!("seq 5 >\"$({name})\"; git -c core.hooksPath=/dev/null add -A").as_bytes());
    let conflict = scene.screen(&["workspace", "prepare", "web", scene.repository.to_str().unwrap()]);
    assert!(conflict.contains("red") && conflict.contains("--force"), "{}", conflict.escape_debug());
    scene.in_guest(&format!(
        "git checkout -q -b \"$(printf 'b\\302\\233x')\" || :; git add -A; git -c user.name=\"{ORDER}\" \
        -c user.email=x commit -qm \"{ORDER}\""
    ));
    scene.screen(&["workspace", "status", "web"]);
    scene.screen(&["workspace", "export", "web", "--format", "mbox"]);
    // Into a file and a pipe it goes as it is.
    scene.export("mails", &["--format", "mbox"]).code(0);
    scene.host.ok(&["delete", "--discard", "web"]);
    scene.host.ends_clean();
}

#[test]
fn a_branch_takes_sound_objects_only_and_runs_nothing() {
    let scene = Scene::new();
    let before = scene.everything();
    let commit = "export GIT_AUTHOR_NAME=a GIT_AUTHOR_EMAIL=a GIT_COMMITTER_NAME=a GIT_COMMITTER_EMAIL=a;";
    let branch = ["workspace", "export", "web", "--format", "branch"];
    // Trees that a checkout would follow out of the work tree, or into git's own directory.
    for (mode, name) in [("100644", ".git"), ("100644", ".."), ("100755", ".GIT"), ("100644", "a/b")] {
        scene.in_guest(&format!(
            "{commit} blob=$(echo x | git hash-object -w --stdin)
            tree=$({{ printf '{mode} {name}\\000'; echo $blob | perl -ne 'chomp; print pack \"H*\", $_'; }} |
                git hash-object -t tree --literally -w --stdin)
            git update-ref HEAD $(git commit-tree -p HEAD -m evil $tree)"
        ));
        let refused = scene.host.run(&branch).code(1);
        assert!(ORDERS.iter().all(|order| !refused.stderr.contains(order)), "{}", refused.stderr);
        assert!(before == scene.everything(), "{name}: refs and objects are as they were");
        scene.in_guest("git update-ref HEAD HEAD~1");
    }
    scene.in_guest(&format!("{commit} seq 40 >file; git commit -qam good; git tag evil; git branch trunk2"));
    scene.host.ok(&branch);
    let refs = shell(&scene.repository, b"git for-each-ref --format='%(refname)'; git show -s --format=%s banger/web");
    assert_eq!(String::from_utf8(refs).unwrap(), "refs/heads/banger/web\nrefs/heads/trunk\ngood\n");
    assert_eq!(fs::read_dir(&scene.out).unwrap().count(), 0, "no hook of the host's ran");
    let now = scene.everything();
    let is_work = |path: &&PathBuf| !path.starts_with(scene.repository.join(".git"));
    assert!(before.keys().filter(is_work).eq(now.keys().filter(is_work)), "the work tree is as it was");
    assert_eq!(before[&head(&scene.repository)], now[&head(&scene.repository)]);
    scene.host.ok(&["delete", "--discard", "web"]);
    scene.host.ends_clean();
}

fn head(repository: &Path) -> PathBuf {
    repository.join(".git/HEAD")
}

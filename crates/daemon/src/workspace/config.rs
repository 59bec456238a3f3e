//! What of the host's git configuration the guest's repository gets: how files are kept, who commits, and where the
//! repository came from, without anything that opens a door there. The rest stays: what is run, what is included, what
//! is secret.

use std::ffi::OsStr;
use std::os::unix::ffi::OsStrExt;
use std::path::{Path, PathBuf};

use super::WorkspaceError;
use super::git::Git;

/// How files are kept: whoever says so on the host.
const CORE: [&str; 10] = [
    "core.filemode",
    "core.symlinks",
    "core.ignorecase",
    "core.autocrlf",
    "core.eol",
    "core.safecrlf",
    "core.precomposeunicode",
    "core.sparsecheckout",
    "core.sparsecheckoutcone",
    "core.longpaths",
];
/// Who commits: where the repository itself says so.
const IDENTITY: [&str; 2] = ["user.name", "user.email"];

/// The settings of a repository, in git's order: the last of a name is in force.
#[derive(Debug, Default)]
pub(super) struct Settings {
    all: Vec<Setting>,
}

#[derive(Debug)]
struct Setting {
    /// `section.key` or `section.name.key`; all but the name in small letters.
    key: Vec<u8>,
    value: Vec<u8>,
    /// The repository's own file says so.
    is_own: bool,
}

impl Settings {
    /// Reads them.
    ///
    /// # Errors
    /// When git fails or its answer is not understood.
    pub(super) fn read(git: &Git, own: &[PathBuf]) -> Result<Settings, WorkspaceError> {
        let listed = git.tell(&["config", "--list", "-z", "--includes", "--show-origin"])?;
        let own: Vec<PathBuf> = own.iter().filter_map(|file| std::fs::canonicalize(file).ok()).collect();
        let mut records = listed.split(|byte| *byte == 0);
        let mut all = Vec::new();
        let mut last: (&[u8], bool) = (b"", false);
        while let Some(origin) = records.next().filter(|origin| !origin.is_empty()) {
            let Some(record) = records.next() else { return Err(git.odd("its configuration")) };
            if last.0 != origin {
                last = (origin, is_own(git.directory(), origin, &own));
            }
            let (key, value) = match memchr::memchr(b'\n', record) {
                Some(at) => (&record[..at], &record[at + 1..]),
                None => (record, &b"true"[..]),
            };
            all.push(Setting { key: key.to_vec(), value: value.to_vec(), is_own: last.1 });
        }
        Ok(Settings { all })
    }

    /// The names of its filters.
    pub(super) fn filters(&self) -> impl Iterator<Item = &[u8]> {
        let name = |setting: &Setting| {
            let rest = setting.key.strip_prefix(b"filter.".as_slice())?;
            rest.iter().rposition(|byte| *byte == b'.').map(|at| at + b"filter.".len())
        };
        self.all.iter().filter_map(move |setting| Some(&setting.key[b"filter.".len()..name(setting)?]))
    }

    /// The value in force.
    pub(super) fn value(&self, key: &[u8]) -> Option<&[u8]> {
        self.all.iter().rev().find(|setting| setting.key == key).map(|setting| setting.value.as_slice())
    }

    fn own<'a>(&'a self, key: &[u8]) -> Vec<&'a [u8]> {
        let is_meant = |setting: &&Setting| setting.is_own && setting.key == key;
        self.all.iter().filter(is_meant).map(|setting| setting.value.as_slice()).collect()
    }

    /// The remote that a branch follows.
    fn remote_of(&self, branch: &[u8]) -> Option<&[u8]> {
        self.own(&[b"branch.", branch, b".remote"].concat()).pop().filter(|remote| *remote != b".")
    }

    /// The remote that has the objects which this repository lacks (`git clone --filter`).
    pub(super) fn promisor(&self) -> Option<&[u8]> {
        self.all.iter().find_map(|setting| {
            let remote = setting.key.strip_prefix(b"remote.".as_slice())?.strip_suffix(b".promisor".as_slice())?;
            (setting.is_own && setting.value == b"true").then_some(remote)
        })
    }

    /// The guest's configuration. `followed`: the branch of the host that is checked out there too.
    pub(super) fn render(&self, is_sha256: bool, followed: Option<&[u8]>) -> Vec<u8> {
        let mut file = Vec::new();
        section(&mut file, b"core", None);
        let is_extended = is_sha256 || self.promisor().is_some();
        variable(&mut file, b"repositoryformatversion", if is_extended { b"1" } else { b"0" });
        variable(&mut file, b"bare", b"false");
        for key in CORE {
            if let Some(value) = self.value(key.as_bytes()) {
                variable(&mut file, &key.as_bytes()[b"core.".len()..], value);
            }
        }
        if is_extended {
            section(&mut file, b"extensions", None);
        }
        if is_sha256 {
            variable(&mut file, b"objectFormat", b"sha256");
        }
        if let Some(remote) = self.promisor() {
            variable(&mut file, b"partialClone", remote);
        }
        let identity: Vec<(&str, &[u8])> =
            IDENTITY.iter().filter_map(|key| Some((&key[5..], self.own(key.as_bytes()).pop()?))).collect();
        if !identity.is_empty() {
            section(&mut file, b"user", None);
            identity.iter().for_each(|(key, value)| variable(&mut file, key.as_bytes(), value));
        }
        let mut remotes: Vec<&[u8]> = vec![b"origin"];
        remotes.extend(self.promisor().filter(|remote| *remote != b"origin"));
        remotes.extend(followed.and_then(|branch| self.remote_of(branch)).filter(|remote| *remote != b"origin"));
        remotes.dedup();
        for remote in remotes {
            self.remote(&mut file, remote);
        }
        if let Some(branch) = followed {
            let values = |key: &[u8]| self.own(&[b"branch.", branch, b".", key].concat());
            let (remote, merge) = (values(b"remote"), values(b"merge"));
            if !remote.is_empty() || !merge.is_empty() {
                section(&mut file, b"branch", Some(branch));
                remote.iter().for_each(|value| variable(&mut file, b"remote", value));
                merge.iter().for_each(|value| variable(&mut file, b"merge", value));
            }
        }
        self.submodules(&mut file);
        file
    }

    fn remote(&self, file: &mut Vec<u8>, name: &[u8]) {
        let values = |key: &[u8]| self.own(&[b"remote.", name, b".", key].concat());
        let urls: Vec<Vec<u8>> = values(b"url").into_iter().filter_map(without_secrets).collect();
        if urls.is_empty() {
            return;
        }
        section(file, b"remote", Some(name));
        urls.iter().for_each(|url| variable(file, b"url", url));
        for key in [&b"fetch"[..], b"promisor", b"partialclonefilter"] {
            values(key).iter().for_each(|value| variable(file, key, value));
        }
    }

    /// Which submodules are in use, and where they came from.
    fn submodules(&self, file: &mut Vec<u8>) {
        for setting in self.all.iter().filter(|setting| setting.is_own) {
            let Some(rest) = setting.key.strip_prefix(b"submodule.".as_slice()) else { continue };
            let Some(at) = rest.iter().rposition(|byte| *byte == b'.') else { continue };
            let (name, key) = (&rest[..at], &rest[at + 1..]);
            let value = match key {
                b"url" => without_secrets(&setting.value),
                b"active" => Some(setting.value.clone()),
                _ => None,
            };
            if let Some(value) = value {
                section(file, b"submodule", Some(name));
                variable(file, key, &value);
            }
        }
    }
}

/// Whether a setting's origin, as git tells it, is one of these files.
fn is_own(directory: &Path, origin: &[u8], own: &[PathBuf]) -> bool {
    let Some(path) = origin.strip_prefix(b"file:") else { return false };
    let path = directory.join(OsStr::from_bytes(path));
    std::fs::canonicalize(path).is_ok_and(|path| own.contains(&path))
}

fn section(file: &mut Vec<u8>, name: &[u8], of: Option<&[u8]>) {
    file.push(b'[');
    file.extend_from_slice(name);
    if let Some(of) = of {
        file.extend_from_slice(b" \"");
        for byte in of {
            if matches!(byte, b'"' | b'\\') {
                file.push(b'\\');
            }
            file.push(*byte);
        }
        file.push(b'"');
    }
    file.extend_from_slice(b"]\n");
}

fn variable(file: &mut Vec<u8>, key: &[u8], value: &[u8]) {
    file.push(b'\t');
    file.extend_from_slice(key);
    file.extend_from_slice(b" = \"");
    for byte in value {
        match byte {
            b'\n' => file.extend_from_slice(b"\\n"),
            b'\t' => file.extend_from_slice(b"\\t"),
            b'"' | b'\\' => file.extend_from_slice(&[b'\\', *byte]),
            byte => file.push(*byte),
        }
    }
    file.extend_from_slice(b"\"\n");
}

/// An address without what opens its door: user and password, but the user of ssh, and what is asked behind it. None when it
/// is not sure what is which.
pub(super) fn without_secrets(url: &[u8]) -> Option<Vec<u8>> {
    let Some(at) = memchr::memmem::find(url, b"://") else {
        // `ext::…` and its like name programs and their arguments.
        return memchr::memmem::find(url, b"::").is_none().then(|| without_password(url));
    };
    let (scheme, rest) = (&url[..at], &url[at + 3..]);
    if !scheme.iter().all(|byte| byte.is_ascii_alphanumeric() || matches!(byte, b'+' | b'-' | b'.')) {
        return None;
    }
    if scheme.eq_ignore_ascii_case(b"file") {
        return Some(url.to_vec());
    }
    let is_ssh = [&b"ssh"[..], b"git+ssh", b"ssh+git"].iter().any(|ssh| scheme.eq_ignore_ascii_case(ssh));
    let end = rest.iter().position(|byte| matches!(byte, b'/' | b'?' | b'#')).unwrap_or(rest.len());
    let (authority, path) = rest.split_at(end);
    let (user, host) = match authority.iter().rposition(|byte| *byte == b'@') {
        Some(at) => (&authority[..at], &authority[at + 1..]),
        None => (&b""[..], authority),
    };
    // With a slash in it, a password looks like a port.
    let port = host.iter().rposition(|byte| matches!(byte, b':' | b']')).filter(|at| host[*at] == b':');
    if port.is_some_and(|at| !host[at + 1..].iter().all(u8::is_ascii_digit)) {
        return None;
    }
    let user = user.split(|byte| *byte == b':').next().filter(|user| is_ssh && !user.is_empty());
    let path = if is_ssh { path } else { path.split(|byte| matches!(byte, b'?' | b'#')).next().unwrap_or_default() };
    let user = user.map(|user| [user, b"@"].concat()).unwrap_or_default();
    Some([scheme, b"://", &user, host, path].concat())
}

/// `user:password@host:path`, which is none of scp's forms, but people try.
fn without_password(address: &[u8]) -> Vec<u8> {
    let end = memchr::memchr(b'/', address).unwrap_or(address.len());
    let Some(at) = memchr::memrchr(b'@', &address[..end]) else { return address.to_vec() };
    match memchr::memchr(b':', &address[..at]) {
        Some(colon) => [&address[..colon], &address[at..]].concat(),
        None => address.to_vec(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn addresses_lose_their_secrets() {
        let cases = [
            ("https://github.com/a/b.git", Some("https://github.com/a/b.git")),
            ("https://me:s3cret@host:8443/a", Some("https://host:8443/a")),
            ("https://ghp_token@host/a?token=x#y", Some("https://host/a")),
            ("https://me:p@ss@host/a", Some("https://host/a")),
            ("https://me:pa/ss@host/a", None),
            ("http://[::1]:80/a", Some("http://[::1]:80/a")),
            ("http://[::1]/a", Some("http://[::1]/a")),
            ("ssh://git@host:22/a", Some("ssh://git@host:22/a")),
            ("ssh://git:pw@host/~/a", Some("ssh://git@host/~/a")),
            ("git@host:a/b.git", Some("git@host:a/b.git")),
            ("me:pw@host:a", Some("me@host:a")),
            ("../up", Some("../up")),
            ("/srv/a@b:c", Some("/srv/a@b:c")),
            ("file:///srv/a", Some("file:///srv/a")),
            ("ext::sh -c x", None),
            ("https::https://me:pw@host/", None),
        ];
        for (url, expected) in cases {
            let cleaned = without_secrets(url.as_bytes()).map(|url| String::from_utf8(url).unwrap());
            assert_eq!(cleaned.as_deref(), expected, "{url}");
        }
    }

    fn setting(key: &str, value: &str, is_own: bool) -> Setting {
        Setting { key: key.into(), value: value.into(), is_own }
    }

    #[test]
    fn what_is_carried() {
        let all = vec![
            setting("user.email", "everybody@example.org", false),
            setting("core.autocrlf", "input", false),
            setting("core.sshcommand", "evil", true),
            setting("core.filemode", "true", true),
            setting("user.name", "A \"B\" \\ C", true),
            setting("credential.helper", "store", true),
            setting("filter.a.b.clean", "evil", true),
            setting("remote.origin.url", "https://me:pw@host/a", true),
            setting("remote.origin.fetch", "+refs/heads/*:refs/remotes/origin/*", true),
            setting("remote.other.url", "https://host/other", true),
            setting("branch.ma\"in.remote", "origin", true),
            setting("branch.ma\"in.merge", "refs/heads/main", true),
        ];
        let settings = Settings { all };
        let file = String::from_utf8(settings.render(false, Some(b"ma\"in"))).unwrap();
        let expected = "[core]\n\trepositoryformatversion = \"0\"\n\tbare = \"false\"\n\tfilemode = \"true\"\n\
            \tautocrlf = \"input\"\n[user]\n\tname = \"A \\\"B\\\" \\\\ C\"\n[remote \"origin\"]\n\turl = \"https://host/a\"\n\
            \tfetch = \"+refs/heads/*:refs/remotes/origin/*\"\n[branch \"ma\\\"in\"]\n\tremote = \"origin\"\n\
            \tmerge = \"refs/heads/main\"\n";
        assert_eq!(file, expected);
        assert_eq!(settings.filters().collect::<Vec<_>>(), [b"a.b"]);
    }
}

//! What `banger cp SOURCE DESTINATION` means: which side is the guest, and where exactly things go. Pure; the rules are
//! docker's:
//!
//! | source | destination | becomes |
//! |---|---|---|
//! | file | not there | that file; an error with a slash behind it |
//! | file | a directory | a file in it, by the source's name |
//! | file | a file | that file, replaced |
//! | directory | not there | that directory |
//! | directory | a directory | a directory in it, by the source's name |
//! | directory with `/.` behind it | a directory | what is in the one, in the other |
//! | directory | a file | an error |

use std::ffi::{OsStr, OsString};
use std::os::unix::ffi::{OsStrExt, OsStringExt};
use std::path::PathBuf;

use clap::error::ErrorKind;
use clap::{ArgMatches, Command, FromArgMatches};

use crate::complete;

/// From where to where.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum Ends {
    /// Into a guest.
    In {
        /// From where on this host.
        from: Here,
        /// Where in which guest.
        to: There,
    },
    /// Out of a guest.
    Out {
        /// From where in which guest.
        from: There,
        /// Where on this host.
        to: Here,
    },
}

/// One end on this host.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum Here {
    /// A file or a directory.
    Path(PathBuf),
    /// `-`: a tar stream on standard input or output.
    Tar,
}

/// One end in a guest.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct There {
    /// The VM, by name or id.
    pub(crate) vm: String,
    /// Absolute.
    pub(crate) path: String,
}

/// The two words as they are typed.
#[derive(Debug, clap::Args)]
struct Words {
    /// What to copy: a path here, VM:PATH, or - for a tar stream on standard input
    #[arg(value_name = "SOURCE", add = complete::vm_paths())]
    source: OsString,
    /// Where to: a path here, VM:PATH, or - for a tar stream on standard output
    #[arg(value_name = "DESTINATION", add = complete::vm_paths())]
    destination: OsString,
}

impl clap::Args for Ends {
    fn augment_args(command: Command) -> Command {
        Words::augment_args(command)
    }

    fn augment_args_for_update(command: Command) -> Command {
        Words::augment_args_for_update(command)
    }
}

impl FromArgMatches for Ends {
    fn from_arg_matches(matches: &ArgMatches) -> Result<Ends, clap::Error> {
        let words = Words::from_arg_matches(matches)?;
        Ends::of(&words.source, &words.destination)
            .map_err(|why| clap::Error::raw(ErrorKind::ValueValidation, format!("{why}\n")))
    }

    fn update_from_arg_matches(&mut self, matches: &ArgMatches) -> Result<(), clap::Error> {
        *self = Ends::from_arg_matches(matches)?;
        Ok(())
    }
}

impl Ends {
    fn of(source: &OsStr, destination: &OsStr) -> Result<Ends, String> {
        match (End::of(source)?, End::of(destination)?) {
            (End::Here(from), End::There(to)) => Ok(Ends::In { from, to }),
            (End::There(from), End::Here(to)) => Ok(Ends::Out { from, to }),
            (End::There(_), End::There(_)) => {
                Err("one side must be on this host: copy here first, then into the other VM".to_owned())
            }
            (End::Here(_), End::Here(_)) => {
                Err("one side must be in a VM, as VM:PATH: banger cp file web:/root/".to_owned())
            }
        }
    }

    /// Both, for people.
    pub(crate) fn shown(&self) -> (String, String) {
        match self {
            Ends::In { from, to } => (from.shown(), to.shown()),
            Ends::Out { from, to } => (from.shown(), to.shown()),
        }
    }

    /// The guest's end.
    pub(crate) fn there(&self) -> &There {
        match self {
            Ends::In { to: there, .. } | Ends::Out { from: there, .. } => there,
        }
    }
}

impl Here {
    fn shown(&self) -> String {
        match self {
            Here::Path(path) => path.display().to_string(),
            Here::Tar => "-".to_owned(),
        }
    }
}

impl There {
    /// As it is typed.
    pub(crate) fn shown(&self) -> String {
        format!("{}:{}", self.vm, self.path)
    }
}

enum End {
    Here(Here),
    There(There),
}

impl End {
    /// What stands before a colon is a VM, unless it is a path: a file with a colon in its name is `./a:b`.
    fn of(word: &OsStr) -> Result<End, String> {
        let bytes = word.as_bytes();
        if bytes.is_empty() {
            return Err("a path is expected".to_owned());
        }
        if bytes == b"-" {
            return Ok(End::Here(Here::Tar));
        }
        let colon = bytes.iter().position(|byte| *byte == b':').filter(|at| *at > 0 && !bytes[..*at].contains(&b'/'));
        let Some(colon) = colon else { return Ok(End::Here(Here::Path(PathBuf::from(word)))) };
        let text =
            word.to_str().ok_or_else(|| format!("{word:?} is not UTF-8, which paths in a guest must be here"))?;
        let (vm, path) = (&text[..colon], &text[colon + 1..]);
        if path.is_empty() {
            return Err(format!("a path is expected after {vm}: as in {vm}:/root"));
        }
        // As docker has it, there is no other directory than the root to start from.
        let path = if path.starts_with('/') { path.to_owned() } else { format!("/{path}") };
        if path.split('/').any(|part| part == "..") {
            return Err(format!("{path:?} leads upwards: paths in a guest have no .."));
        }
        Ok(End::There(There { vm: vm.to_owned(), path }))
    }
}

/// A source as it is named.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Named<'a> {
    /// Without the slashes and dots behind it.
    pub(crate) path: &'a [u8],
    /// Its last component; none of a root, or of `..`.
    pub(crate) name: Option<&'a [u8]>,
    /// A slash stands behind it: a directory is meant, also behind a link.
    pub(crate) is_directory: bool,
    /// What is in it is meant.
    pub(crate) is_content: bool,
}

impl Named<'_> {
    /// Reads `path`.
    pub(crate) fn of(path: &[u8]) -> Named<'_> {
        let (mut rest, mut is_directory, mut is_content) = (path, false, path == b".");
        loop {
            rest = match rest {
                [shorter @ .., b'/', b'.'] => {
                    is_content = true;
                    shorter
                }
                [shorter @ .., b'/'] => shorter,
                _ => break,
            };
            is_directory = true;
        }
        if rest.is_empty() {
            // The root, which has no name.
            let path = if path.starts_with(b"/") { &path[..1] } else { path };
            return Named { path, name: None, is_directory: true, is_content: true };
        }
        let name = rest.rsplit(|byte| *byte == b'/').next().filter(|name| *name != b".." && *name != b".");
        Named { path: rest, name, is_directory, is_content: is_content || name.is_none() }
    }
}

/// What is at a destination, its links followed.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Found {
    Nothing,
    Directory,
    /// A file, or a link to nowhere.
    File,
    /// A device, a pipe or a socket.
    Special,
}

/// Where the top of a stream goes.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum Placed {
    /// Into the directory that the destination is, by this name; none: its content, by its own names.
    Inside(Option<OsString>),
    /// To the destination itself.
    Itself,
}

/// Where `source`, a directory or not, goes at a destination that is `found`, with or without a slash behind it.
pub(crate) fn place(
    source: Named<'_>,
    is_directory: bool,
    found: Found,
    has_slash: bool,
) -> Result<Placed, &'static str> {
    match found {
        Found::Directory if is_directory && source.is_content => Ok(Placed::Inside(None)),
        Found::Directory => Ok(Placed::Inside(source.name.map(|name| OsString::from_vec(name.to_vec())))),
        Found::Nothing if has_slash && !is_directory => Err("there is no such directory"),
        Found::Nothing => Ok(Placed::Itself),
        Found::Special => Err("the destination is a device, a pipe or a socket"),
        Found::File if is_directory => Err("a file is there, and a directory was to be copied"),
        Found::File if has_slash => Err("the destination is not a directory"),
        Found::File => Ok(Placed::Itself),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn sides() {
        let of = |source: &str, destination: &str| Ends::of(OsStr::new(source), OsStr::new(destination));
        let web = |path: &str| There { vm: "web".to_owned(), path: path.to_owned() };
        let here = |path: &str| Here::Path(PathBuf::from(path));
        assert_eq!(of("a", "web:/b"), Ok(Ends::In { from: here("a"), to: web("/b") }));
        assert_eq!(of("./a:b", "web:b/c"), Ok(Ends::In { from: here("./a:b"), to: web("/b/c") }));
        assert_eq!(of("web:/a:b", "/x/y:z"), Ok(Ends::Out { from: web("/a:b"), to: here("/x/y:z") }));
        assert_eq!(of("-", "web:/b"), Ok(Ends::In { from: Here::Tar, to: web("/b") }));
        assert_eq!(of("web:/b", "-"), Ok(Ends::Out { from: web("/b"), to: Here::Tar }));
        assert_eq!(of(":x", "web:/"), Ok(Ends::In { from: here(":x"), to: web("/") }));
        for (source, destination) in
            [("a", "b"), ("-", "b"), ("web:/a", "db:/b"), ("", "web:/"), ("a", ""), ("a", "web:"), ("a", "web:/x/../y")]
        {
            assert!(of(source, destination).is_err(), "{source} {destination}");
        }
    }

    #[test]
    fn names() {
        for (path, rest, name, is_directory, is_content) in [
            ("a", "a", Some("a"), false, false),
            ("/x/a", "/x/a", Some("a"), false, false),
            ("a/", "a", Some("a"), true, false),
            ("a//", "a", Some("a"), true, false),
            ("a/.", "a", Some("a"), true, true),
            ("a/./", "a", Some("a"), true, true),
            ("a/.//.", "a", Some("a"), true, true),
            (".", ".", None, false, true),
            ("./", ".", None, true, true),
            ("..", "..", None, false, true),
            ("/", "/", None, true, true),
            ("/.", "/", None, true, true),
            ("...", "...", Some("..."), false, false),
            ("a/.b", "a/.b", Some(".b"), false, false),
        ] {
            let name = name.map(str::as_bytes);
            let expected = Named { path: rest.as_bytes(), name, is_directory, is_content };
            assert_eq!(Named::of(path.as_bytes()), expected, "{path}");
        }
    }

    #[test]
    fn places_are_dockers() {
        let inside = |name: &str| Ok(Placed::Inside(Some(OsString::from(name))));
        let place = |source: &str, is_directory, found, has_slash| {
            place(Named::of(source.as_bytes()), is_directory, found, has_slash)
        };
        assert_eq!(place("f", false, Found::Nothing, false), Ok(Placed::Itself));
        assert!(place("f", false, Found::Nothing, true).is_err());
        assert_eq!(place("x/f", false, Found::Directory, false), inside("f"));
        assert_eq!(place("f", false, Found::File, false), Ok(Placed::Itself));
        assert!(place("f", false, Found::File, true).is_err());
        assert_eq!(place("d", true, Found::Nothing, false), Ok(Placed::Itself));
        assert_eq!(place("d/", true, Found::Nothing, true), Ok(Placed::Itself));
        assert_eq!(place("d", true, Found::Directory, true), inside("d"));
        assert_eq!(place("d/.", true, Found::Directory, false), Ok(Placed::Inside(None)));
        assert_eq!(place("d/.", true, Found::Nothing, false), Ok(Placed::Itself));
        assert_eq!(place(".", true, Found::Directory, false), Ok(Placed::Inside(None)));
        assert!(place("d", true, Found::File, false).is_err());
        assert!(place("d/.", true, Found::File, false).is_err());
        assert!(place("f", false, Found::Special, false).is_err());
    }
}

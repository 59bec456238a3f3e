//! Files of git LFS. git has a pointer to the content where the work tree has the content; nobody but the filter, which is
//! not run, makes one of the other. But the pointer names the content's SHA-256, which is known once the file was read.

use super::WorkspaceError;
use super::git::Git;
use super::listing::Oid;
use crate::model::digest::Digest;

/// The filter's name, wherever it is set up.
pub(super) const FILTER: &[u8] = b"lfs";
/// Longest pointer: its specification allows no longer one.
const POINTER_BYTES_MAX: u64 = 1024;

/// What the contents are to which these objects point; none where an object is no pointer.
///
/// # Errors
/// When git fails.
pub(super) fn pointers(git: &Git, oids: &[Oid]) -> Result<Vec<Option<Digest>>, WorkspaceError> {
    let mut sizes = git.objects("--batch-check")?;
    let sizes = sizes.read(oids)?;
    let is_small = |size: &Option<super::git::Object>| {
        size.as_ref().is_some_and(|object| object.kind == b"blob" && object.bytes <= POINTER_BYTES_MAX)
    };
    let small: Vec<Oid> = oids.iter().zip(&sizes).filter(|(_, size)| is_small(size)).map(|(oid, _)| *oid).collect();
    let mut contents = git.objects("--batch")?.read(&small)?.into_iter();
    let found = sizes.iter().map(|size| {
        let content = is_small(size).then(|| contents.next()).flatten().flatten();
        content.and_then(|object| parse(&object.content))
    });
    Ok(found.collect())
}

/// `version https://git-lfs.github.com/spec/v1`, and a line `oid sha256:…` somewhere below.
fn parse(pointer: &[u8]) -> Option<Digest> {
    let text = std::str::from_utf8(pointer).ok()?;
    let mut lines = text.lines();
    lines.next()?.strip_prefix("version https://")?.strip_suffix("/spec/v1")?;
    lines.find_map(|line| line.strip_prefix("oid sha256:"))?.parse().ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn pointers_are_understood() {
        let digest = Digest::of(b"content");
        let pointer = format!("version https://git-lfs.github.com/spec/v1\noid sha256:{digest}\nsize 7\n");
        assert_eq!(parse(pointer.as_bytes()), Some(digest));
        for other in ["", "oid sha256:00\n", "version https://git-lfs.github.com/spec/v1\nsize 1\n", "text\n\u{0}"] {
            assert_eq!(parse(other.as_bytes()), None, "{other}");
        }
    }
}

//! An archive that arrives as a stream: what its first bytes say it is.
//!
//! A bundle is a tar packed with zstd that holds `rootfs.ext4` and `manifest.json`, an object. Archives of other tools may be packed
//! with zstd as well, and Docker's have a `manifest.json` too: a list.

use std::io::{self, Read};

use bytes::{Bytes, BytesMut};
use catalog::bundle::{MANIFEST, ROOTFS};
use futures_util::{StreamExt, stream};

use crate::ops::puller::Archive;

/// Bytes that are looked at, at most: the names of a few entries, after unpacking.
const HEAD_BYTES: usize = 1 << 20;
/// When it is looked at first; each time after that there is twice as much.
const LOOK_BYTES: usize = 4 << 10;
/// Unpacked bytes that are looked at.
const UNPACKED_BYTES: u64 = 4 << 20;
/// How zstd's frames begin (RFC 8878, 3.1.1).
const ZSTD: [u8; 4] = [0x28, 0xb5, 0x2f, 0xfd];

/// Takes the beginning of `archive` and puts it back: whether it is a bundle of banger's.
///
/// # Errors
/// When it cannot be read.
pub(super) async fn is_bundle(archive: &mut Archive) -> io::Result<bool> {
    let mut head = BytesMut::new();
    let mut next_look = LOOK_BYTES;
    while head.len() < HEAD_BYTES {
        let has_other_beginning = head.len() >= ZSTD.len() && !head.starts_with(&ZSTD);
        if has_other_beginning {
            break;
        }
        if head.len() >= next_look {
            if first_entry(&head).is_some() {
                break;
            }
            next_look = 2 * head.len();
        }
        match archive.next().await {
            Some(piece) => head.extend_from_slice(&piece?),
            None => break,
        }
    }
    let is_bundle = head.starts_with(&ZSTD) && first_entry(&head).is_some_and(|found| found == Found::Bundle);
    let rest = std::mem::replace(archive, Box::pin(stream::empty()));
    let head: Bytes = head.freeze();
    *archive = Box::pin(stream::once(async move { Ok(head) }).chain(rest));
    Ok(is_bundle)
}

#[derive(Debug, PartialEq, Eq)]
enum Found {
    Bundle,
    Other,
}

/// What the first entry is, once enough of it is here.
fn first_entry(head: &[u8]) -> Option<Found> {
    if !head.starts_with(&ZSTD) {
        return None;
    }
    let mut decoder = zstd::stream::read::Decoder::new(head).ok()?;
    // A bundle's window may be larger than what zstd takes by itself.
    decoder.window_log_max(catalog::bundle::WINDOW_LOG).ok()?;
    let mut archive = tar::Archive::new(decoder.take(UNPACKED_BYTES));
    let mut entry = archive.entries().ok()?.next()?.ok()?;
    let path = entry.path_bytes();
    let name = path.strip_prefix(b"./").unwrap_or(&path);
    if name == ROOTFS.as_bytes() {
        return Some(Found::Bundle);
    }
    if name != MANIFEST.as_bytes() {
        return Some(Found::Other);
    }
    let mut first = [0];
    loop {
        entry.read_exact(&mut first).ok()?;
        match first[0] {
            b' ' | b'\t' | b'\r' | b'\n' => {}
            b'{' => return Some(Found::Bundle),
            _ => return Some(Found::Other),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn packed(name: &str, content: &[u8]) -> Vec<u8> {
        let mut tar = tar::Builder::new(Vec::new());
        let mut header = tar::Header::new_gnu();
        header.set_size(content.len() as u64);
        header.set_mode(0o644);
        tar.append_data(&mut header, name, content).unwrap();
        zstd::encode_all(tar.into_inner().unwrap().as_slice(), 3).unwrap()
    }

    #[tokio::test]
    async fn bundles_are_told_from_other_archives_whatever_the_pieces() {
        let cases = [
            (packed("rootfs.ext4", &[7; 100_000]), true),
            (packed("./rootfs.ext4", b""), true),
            (packed("manifest.json", b" {\"name\": \"x\"}"), true),
            (packed("manifest.json", b"[{}]"), false),
            (packed("oci-layout", b"{}"), false),
            (b"plain tar".to_vec(), false),
            (b"".to_vec(), false),
            (ZSTD.to_vec(), false),
        ];
        for (bytes, expected) in cases {
            for piece in [1, 7, 4096] {
                let pieces: Vec<io::Result<Bytes>> =
                    bytes.chunks(piece).map(|piece| Ok(Bytes::copy_from_slice(piece))).collect();
                let mut archive: Archive = Box::pin(stream::iter(pieces));
                assert_eq!(is_bundle(&mut archive).await.unwrap(), expected, "{:?}", &bytes[..bytes.len().min(8)]);
                let mut all = Vec::new();
                while let Some(piece) = archive.next().await {
                    all.extend(piece.unwrap());
                }
                assert_eq!(all, bytes, "nothing is lost");
                if bytes.len() > 10_000 {
                    break;
                }
            }
        }
    }
}

//! Unpacks a bzImage (`vmlinuz`) to the ELF file inside it.
//!
//! Offsets and meanings are Documentation/arch/x86/boot.rst: a setup header at 0x1f1 of the first sector says how
//! many sectors of real-mode code follow; the protected-mode code after them holds the compressed kernel at
//! `payload_offset`, `payload_length` bytes long (protocol 2.08 and later).

use std::io::{self, Read};

use crate::image::codec::{Codec, UnsupportedCodec};
use crate::image::stream::{Bounded, Watched};
use crate::model::progress::Watcher;

/// Largest kernel that is unpacked; a kernel with its debug information is under half of it.
pub(crate) const VMLINUX_MAX_BYTES: u64 = 512 << 20;

const SETUP_SECTS: usize = 0x1f1;
const BOOT_FLAG: usize = 0x1fe;
const MAGIC: usize = 0x202;
const VERSION: usize = 0x206;
const KERNEL_VERSION: usize = 0x20e;
const PAYLOAD_OFFSET: usize = 0x248;
const PAYLOAD_LENGTH: usize = 0x24c;
const PROTOCOL_MIN: u16 = 0x0208;
const SECTOR_BYTES: usize = 512;

/// Why a bzImage cannot be unpacked.
#[derive(Debug, thiserror::Error)]
pub enum BzImageError {
    /// Not a bzImage.
    #[error("neither a bzImage nor an ELF file")]
    Magic,
    /// Too old to say where its payload is.
    #[error(
        "boot protocol {major}.{minor:02} is too old: 2.08 (Linux 2.6.26) is the first that says where the kernel lies"
    )]
    Protocol {
        /// Major version.
        major: u16,
        /// Minor version.
        minor: u16,
    },
    /// The payload lies outside the file.
    #[error("cut short: the header promises a payload up to byte {end}, the file has {len}")]
    Truncated {
        /// Where the payload should end.
        end: u64,
        /// Length of the file.
        len: usize,
    },
    /// The payload is in no format known.
    #[error("its payload begins with {head:02x?}, which is no known compression")]
    UnknownPayload {
        /// The first bytes.
        head: Vec<u8>,
    },
    /// The payload is in a format that is not read.
    #[error("its payload cannot be unpacked")]
    Unsupported(#[source] UnsupportedCodec),
    /// The payload does not unpack.
    #[error("its {codec} payload is damaged or too large")]
    Unpack {
        /// The format.
        codec: &'static str,
        /// What the decompressor said.
        #[source]
        err: io::Error,
    },
    /// The payload unpacks to another length than the image promises.
    #[error("its {codec} payload is damaged: it unpacks to {got} bytes where the image promises {promised}")]
    Length {
        /// The format.
        codec: &'static str,
        /// Bytes that came out.
        got: u64,
        /// Bytes promised.
        promised: u32,
    },
}

/// What a bzImage holds.
#[derive(Debug)]
pub(crate) struct Unpacked {
    /// The payload, unpacked; not yet checked to be ELF.
    pub(crate) vmlinux: Vec<u8>,
    /// The release in the setup header, where it is a plain one.
    pub(crate) release: Option<String>,
}

fn u16_at(bytes: &[u8], at: usize) -> Option<u16> {
    Some(u16::from_le_bytes(bytes.get(at..at + 2)?.try_into().ok()?))
}

fn u32_at(bytes: &[u8], at: usize) -> Option<u32> {
    Some(u32::from_le_bytes(bytes.get(at..at + 4)?.try_into().ok()?))
}

/// Whether `bytes` begin like a bzImage.
pub(crate) fn is_bzimage(bytes: &[u8]) -> bool {
    u16_at(bytes, BOOT_FLAG) == Some(0xaa55) && bytes.get(MAGIC..MAGIC + 4) == Some(b"HdrS")
}

/// The release the setup header names: the first word of the string `kernel_version` points to.
fn header_release(image: &[u8]) -> Option<String> {
    let pointer = usize::from(u16_at(image, KERNEL_VERSION)?);
    if pointer == 0 {
        return None;
    }
    let text = image.get(pointer + SECTOR_BYTES..)?;
    let word = text.iter().take(128).position(|byte| *byte == b' ' || *byte == 0)?;
    let release = std::str::from_utf8(&text[..word]).ok()?;
    super::is_release(release).then(|| release.to_owned())
}

/// The compressed kernel inside `image`.
fn payload(image: &[u8]) -> Result<&[u8], BzImageError> {
    if !is_bzimage(image) {
        return Err(BzImageError::Magic);
    }
    let cut = |end: u64| BzImageError::Truncated { end, len: image.len() };
    let version = u16_at(image, VERSION).ok_or(cut(VERSION as u64 + 2))?;
    if version < PROTOCOL_MIN {
        return Err(BzImageError::Protocol { major: version >> 8, minor: version & 0xff });
    }
    let (Some(offset), Some(length)) = (u32_at(image, PAYLOAD_OFFSET), u32_at(image, PAYLOAD_LENGTH)) else {
        return Err(cut(PAYLOAD_LENGTH as u64 + 4));
    };
    let setup_sects = match image[SETUP_SECTS] {
        0 => 4, // boot.rst: for backwards compatibility zero means 4
        sectors => u64::from(sectors),
    };
    let start = (setup_sects + 1) * SECTOR_BYTES as u64 + u64::from(offset);
    let end = start + u64::from(length);
    let range = usize::try_from(start).ok().zip(usize::try_from(end).ok());
    range.and_then(|(start, end)| image.get(start..end)).ok_or(cut(end))
}

/// Unpacks `image`; at most [`VMLINUX_MAX_BYTES`] come out.
pub(crate) fn unpack(image: &[u8], watcher: Watcher<'_>) -> Result<Unpacked, BzImageError> {
    let payload = payload(image)?;
    let codec = Codec::sniff(payload)
        .ok_or_else(|| BzImageError::UnknownPayload { head: payload.iter().take(6).copied().collect() })?;
    let name = codec.name();
    let promised = promised_bytes(payload);
    let decoder =
        codec.decode(Watched::new(payload, watcher, Some(payload.len() as u64))).map_err(BzImageError::Unsupported)?;
    let mut vmlinux = Vec::with_capacity(promised.unwrap_or(0).min(128 << 20) as usize);
    Bounded::new(decoder, VMLINUX_MAX_BYTES)
        .read_to_end(&mut vmlinux)
        .map_err(|err| BzImageError::Unpack { codec: name, err })?;
    let got = vmlinux.len() as u64;
    match promised {
        Some(promised) if u64::from(promised) != got => Err(BzImageError::Length { codec: name, got, promised }),
        _ => Ok(Unpacked { vmlinux, release: header_release(image) }),
    }
}

/// The unpacked size, which the kernel's build puts in the last four bytes of every payload (scripts/Makefile.lib,
/// `size_append`; gzip ends with it by itself).
fn promised_bytes(payload: &[u8]) -> Option<u32> {
    u32_at(payload, payload.len().checked_sub(4)?)
}

#[cfg(test)]
pub(crate) mod tests {
    use super::*;
    use crate::image::codec;
    use proptest::prelude::*;

    /// A bzImage around `packed`, followed by the size `data` has.
    pub(crate) fn sample(packed: &[u8], len: usize, release: &str) -> Vec<u8> {
        let mut image = vec![0; SECTOR_BYTES * 3];
        image[SETUP_SECTS] = 2;
        image[BOOT_FLAG..BOOT_FLAG + 2].copy_from_slice(&0xaa55u16.to_le_bytes());
        image[MAGIC..MAGIC + 4].copy_from_slice(b"HdrS");
        image[VERSION..VERSION + 2].copy_from_slice(&0x020fu16.to_le_bytes());
        image[KERNEL_VERSION..KERNEL_VERSION + 2].copy_from_slice(&0x100u16.to_le_bytes());
        let text = format!("{release} (who@where) #1\0");
        image[0x300..0x300 + text.len()].copy_from_slice(text.as_bytes());
        image[PAYLOAD_OFFSET..PAYLOAD_OFFSET + 4].copy_from_slice(&16u32.to_le_bytes());
        image[PAYLOAD_LENGTH..PAYLOAD_LENGTH + 4].copy_from_slice(&(packed.len() as u32 + 4).to_le_bytes());
        image.extend([0x90; 16]);
        image.extend(packed);
        image.extend((len as u32).to_le_bytes());
        image.extend([0xcc; 64]);
        image
    }

    fn packed(codec: Codec) -> (Vec<u8>, Vec<u8>) {
        let data: Vec<u8> = (0..300_000u32).flat_map(|i| (i / 9).to_le_bytes()).collect();
        (codec::tests::encode(codec, &data), data)
    }

    #[test]
    fn every_compression_unpacks() {
        for codec in [Codec::Lz4Legacy, Codec::Gzip, Codec::Xz, Codec::Zstd, Codec::Lzma] {
            let (packed, data) = packed(codec);
            let image = sample(&packed, data.len(), "6.1.0-test");
            let unpacked = unpack(&image, Watcher::none()).unwrap();
            assert!(unpacked.vmlinux == data, "{}", codec.name());
            assert_eq!(unpacked.release.as_deref(), Some("6.1.0-test"));
        }
    }

    #[test]
    fn damage_is_named() {
        let (packed, data) = packed(Codec::Zstd);
        let good = sample(&packed, data.len(), "6.1.0-test");
        let says = |image: &[u8], what: &str| {
            let err = unpack(image, Watcher::none()).expect_err(what).to_string();
            assert!(err.contains(what), "{err} should say {what}");
        };
        says(b"", "neither");
        says(&good[..good.len() - 100], "cut short");
        let mut old = good.clone();
        old[VERSION] = 7;
        says(&old, "2.07");
        says(&sample(&packed, data.len() + 1, "6.1"), "promises");
        says(&sample(b"\0\0\0\0\0\0\0\0", 8, "6.1"), "no known compression");
        says(&sample(b"BZh91AY&SY", 8, "6.1"), "cannot be unpacked");
        says(&sample(&packed[..packed.len() / 2], data.len(), "6.1"), "damaged");
    }

    proptest! {
        #[test]
        fn flipped_bytes_never_panic(at in 0usize..1600, with in any::<u8>()) {
            let mut image = sample(&codec::tests::encode(Codec::Gzip, b"hello"), 5, "6.1.0");
            if let Some(byte) = image.get_mut(at) {
                *byte = with;
            }
            let _outcome = unpack(&image, Watcher::none());
        }
    }
}

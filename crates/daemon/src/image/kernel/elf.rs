//! Reads what banger needs from a kernel's ELF file: that it is one, its PVH note, its banner and its configuration.
//!
//! The layout is elf(5); the PVH note is `XEN_ELFNOTE_PHYS32_ENTRY` of xen/include/public/elfnote.h; the embedded
//! configuration is kernel/configs.c.

use std::io::Read;

use crate::image::codec::Codec;
use crate::image::stream::Bounded;

const EM_X86_64: u16 = 62;
const PT_LOAD: u32 = 1;
const PT_NOTE: u32 = 4;
const PVH_NOTE_NAME: &[u8] = b"Xen\0";
const PVH_NOTE_TYPE: u32 = 18;
const PROGRAM_HEADER_BYTES: usize = 56;
/// A `.config` is some 300 KB; this stops a bomb.
const CONFIG_MAX_BYTES: u64 = 8 << 20;

/// Why a file is not a kernel's ELF file for this processor.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum ElfError {
    /// Not ELF at all.
    #[error("not an ELF file")]
    Magic,
    /// 32-bit or big-endian.
    #[error("not a 64-bit little-endian ELF file")]
    Class,
    /// For another processor.
    #[error("built for ELF machine {machine}, not for x86-64 ({EM_X86_64})")]
    Machine {
        /// `e_machine` as it stands.
        machine: u16,
    },
    /// The table of segments or a segment lies outside the file.
    #[error("cut short: {part} lies outside its {len} bytes")]
    Truncated {
        /// What lies outside.
        part: &'static str,
        /// Bytes there are.
        len: usize,
    },
    /// Nothing to load.
    #[error("it has no segment to load")]
    NoSegments,
}

/// A kernel's ELF file, checked.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Elf<'a> {
    bytes: &'a [u8],
    pub(crate) pvh: bool,
}

fn u16_at(bytes: &[u8], at: usize) -> Option<u16> {
    Some(u16::from_le_bytes(bytes.get(at..at.checked_add(2)?)?.try_into().ok()?))
}

fn u32_at(bytes: &[u8], at: usize) -> Option<u32> {
    Some(u32::from_le_bytes(bytes.get(at..at.checked_add(4)?)?.try_into().ok()?))
}

fn u64_at(bytes: &[u8], at: usize) -> Option<u64> {
    Some(u64::from_le_bytes(bytes.get(at..at.checked_add(8)?)?.try_into().ok()?))
}

/// Whether `bytes` begin like an ELF file.
pub(crate) fn is_elf(bytes: &[u8]) -> bool {
    bytes.starts_with(b"\x7fELF")
}

impl<'a> Elf<'a> {
    pub(crate) fn parse(bytes: &'a [u8]) -> Result<Self, ElfError> {
        let truncated = |part| ElfError::Truncated { part, len: bytes.len() };
        if !is_elf(bytes) {
            return Err(ElfError::Magic);
        }
        if bytes.len() < 64 {
            return Err(truncated("its header"));
        }
        if bytes[4] != 2 || bytes[5] != 1 {
            return Err(ElfError::Class);
        }
        let machine = u16_at(bytes, 18).ok_or(truncated("its header"))?;
        if machine != EM_X86_64 {
            return Err(ElfError::Machine { machine });
        }
        let table_at = u64_at(bytes, 32).ok_or(truncated("its header"))?;
        let count = u16_at(bytes, 56).ok_or(truncated("its header"))?;
        let table = usize::try_from(table_at)
            .ok()
            .and_then(|at| bytes.get(at..at.checked_add(usize::from(count) * PROGRAM_HEADER_BYTES)?))
            .ok_or(truncated("the table of its segments"))?;
        let (mut loads, mut pvh) = (0, false);
        for header in table.chunks_exact(PROGRAM_HEADER_BYTES) {
            let kind = u32_at(header, 0).unwrap_or(0);
            if kind != PT_LOAD && kind != PT_NOTE {
                continue;
            }
            let segment = segment(bytes, header).ok_or(truncated("a segment"))?;
            if kind == PT_LOAD {
                loads += 1;
            } else {
                pvh |= has_pvh_note(segment);
            }
        }
        if loads == 0 {
            return Err(ElfError::NoSegments);
        }
        Ok(Self { bytes, pvh })
    }

    /// The release in the banner "Linux version <release> (…": what `uname -r` will say.
    pub(crate) fn release(&self) -> Option<String> {
        const BANNER: &[u8] = b"Linux version ";
        memchr::memmem::find_iter(self.bytes, BANNER).find_map(|at| {
            let rest = &self.bytes[at + BANNER.len()..];
            let end = rest.iter().take(128).position(|byte| *byte == b' ')?;
            let release = std::str::from_utf8(&rest[..end]).ok()?;
            super::is_release(release).then(|| release.to_owned())
        })
    }

    /// The configuration the kernel carries in itself, where it was built with `CONFIG_IKCONFIG`.
    pub(crate) fn ikconfig(&self) -> Option<String> {
        const START: &[u8] = b"IKCFG_ST";
        memchr::memmem::find_iter(self.bytes, START).find_map(|at| {
            let packed = &self.bytes[at + START.len()..];
            let codec = Codec::sniff(packed).filter(|codec| *codec == Codec::Gzip)?;
            let mut text = String::new();
            let unpacked = codec.decode(packed).ok()?;
            Bounded::new(unpacked, CONFIG_MAX_BYTES).read_to_string(&mut text).ok()?;
            Some(text)
        })
    }
}

fn segment<'a>(bytes: &'a [u8], header: &[u8]) -> Option<&'a [u8]> {
    let at = usize::try_from(u64_at(header, 8)?).ok()?;
    let len = usize::try_from(u64_at(header, 32)?).ok()?;
    bytes.get(at..at.checked_add(len)?)
}

/// Walks the notes of one segment; padding is 4 bytes, as the kernel's linker script aligns them.
fn has_pvh_note(mut notes: &[u8]) -> bool {
    while let (Some(name_len), Some(value_len), Some(kind)) = (u32_at(notes, 0), u32_at(notes, 4), u32_at(notes, 8)) {
        let name_end = 12usize.saturating_add((name_len as usize).next_multiple_of(4));
        let end = name_end.saturating_add((value_len as usize).next_multiple_of(4));
        let Some(name) = notes.get(12..12usize.saturating_add(name_len as usize)) else {
            return false;
        };
        if kind == PVH_NOTE_TYPE && name == PVH_NOTE_NAME {
            return true;
        }
        match notes.get(end..) {
            Some(rest) => notes = rest,
            None => return false,
        }
    }
    false
}

#[cfg(test)]
pub(crate) mod tests {
    use super::*;
    use crate::image::codec;
    use proptest::prelude::*;

    /// A minimal x86-64 ELF file with one loaded segment holding `text` and, if asked for, a PVH note.
    pub(crate) fn sample(text: &[u8], pvh: bool) -> Vec<u8> {
        let mut note = Vec::new();
        if pvh {
            note.extend(4u32.to_le_bytes());
            note.extend(8u32.to_le_bytes());
            note.extend(PVH_NOTE_TYPE.to_le_bytes());
            note.extend(PVH_NOTE_NAME);
            note.extend([0; 8]);
        }
        let text_at = 64 + 2 * PROGRAM_HEADER_BYTES;
        let mut elf = b"\x7fELF\x02\x01\x01".to_vec();
        elf.resize(64, 0);
        elf[16..18].copy_from_slice(&2u16.to_le_bytes());
        elf[18..20].copy_from_slice(&EM_X86_64.to_le_bytes());
        elf[32..40].copy_from_slice(&64u64.to_le_bytes());
        elf[56..58].copy_from_slice(&2u16.to_le_bytes());
        for (kind, at, len) in [(PT_LOAD, text_at, text.len()), (PT_NOTE, text_at + text.len(), note.len())] {
            let mut header = [0; PROGRAM_HEADER_BYTES];
            header[..4].copy_from_slice(&kind.to_le_bytes());
            header[8..16].copy_from_slice(&(at as u64).to_le_bytes());
            header[32..40].copy_from_slice(&(len as u64).to_le_bytes());
            elf.extend(header);
        }
        elf.extend(text);
        elf.extend(note);
        elf
    }

    #[test]
    fn reads_note_banner_and_configuration() {
        let mut text = b"Linux version %s\0..Linux version 6.1.0-9-test (gcc) #1".to_vec();
        text.extend(b"IKCFG_ST");
        text.extend(codec::tests::encode(Codec::Gzip, b"CONFIG_EXT4_FS=y\n"));
        text.extend(b"IKCFG_ED");
        for pvh in [false, true] {
            let bytes = sample(&text, pvh);
            let elf = Elf::parse(&bytes).expect("well-formed");
            assert_eq!(elf.pvh, pvh);
            assert_eq!(elf.release().as_deref(), Some("6.1.0-9-test"));
            assert_eq!(elf.ikconfig().as_deref(), Some("CONFIG_EXT4_FS=y\n"));
        }
    }

    #[test]
    fn refuses_what_is_not_a_kernel_for_this_processor() {
        let good = sample(b"text", true);
        let patched = |at: usize, with: u8| {
            let mut bytes = good.clone();
            bytes[at] = with;
            Elf::parse(&bytes).expect_err("refused").to_string()
        };
        assert!(patched(0, 0).contains("not an ELF"));
        assert!(patched(4, 1).contains("64-bit"));
        assert!(patched(18, 183).contains("183"));
        assert!(patched(39, 0xff).contains("cut short"));
        assert!(patched(56, 0).contains("no segment"));
        for len in 0..good.len() - 1 {
            assert!(Elf::parse(&good[..len]).is_err(), "cut to {len}");
        }
    }

    proptest! {
        #[test]
        fn arbitrary_bytes_never_panic(mut tail in proptest::collection::vec(any::<u8>(), 58..400)) {
            tail.splice(..6, *b"\x7fELF\x02\x01");
            tail[18..20].copy_from_slice(&EM_X86_64.to_le_bytes());
            if let Ok(elf) = Elf::parse(&tail) {
                let _facts = (elf.release(), elf.ikconfig());
            }
        }
    }
}

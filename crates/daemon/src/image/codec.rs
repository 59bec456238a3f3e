//! The compressed formats kernels, modules and packages come in, each as a plain reader.
//!
//! Formats are told apart by their first bytes, never by a name. bzip2 and LZO are recognised so that
//! they can be refused by name.

use std::io::{self, Read};

/// Memory an xz or lzma stream may ask for: the kernel's own xz preset needs 129 MiB.
const XZ_MEMORY_MAX_BYTES: u64 = 512 << 20;
/// Uncompressed size of a full block of LZ4's legacy frame (lz4_Frame_format.md, "Legacy frame").
const LZ4_LEGACY_BLOCK_BYTES: usize = 8 << 20;
/// Largest compressed block: LZ4's bound for incompressible data.
const LZ4_LEGACY_COMPRESSED_MAX_BYTES: usize = LZ4_LEGACY_BLOCK_BYTES + LZ4_LEGACY_BLOCK_BYTES / 255 + 16;

/// A compressed format.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Codec {
    Gzip,
    Xz,
    Zstd,
    Lzma,
    Lz4Legacy,
    Bzip2,
    Lzo,
}

/// A format that is recognised and cannot be read.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("compressed with {0}, which banger does not read")]
pub struct UnsupportedCodec(&'static str);

impl Codec {
    /// The format `head`, the first bytes of a stream, shows.
    pub(crate) fn sniff(head: &[u8]) -> Option<Self> {
        // The magic numbers of lib/decompress.c in the kernel, where LZMA's is the properties byte and dictionary size.
        const TABLE: [(&[u8], Codec); 8] = [
            (&[0x1f, 0x8b], Codec::Gzip),
            (&[0xfd, b'7', b'z', b'X', b'Z', 0], Codec::Xz),
            (&[0x28, 0xb5, 0x2f, 0xfd], Codec::Zstd),
            (&[0x5d, 0x00, 0x00], Codec::Lzma),
            (&[0x02, 0x21, 0x4c, 0x18], Codec::Lz4Legacy),
            (b"BZh", Codec::Bzip2),
            (&[0x89, b'L', b'Z', b'O'], Codec::Lzo),
            (&[0x1f, 0x9e], Codec::Gzip),
        ];
        TABLE.iter().find(|(magic, _)| head.starts_with(magic)).map(|(_, codec)| *codec)
    }

    pub(crate) fn name(self) -> &'static str {
        match self {
            Self::Gzip => "gzip",
            Self::Xz => "xz",
            Self::Zstd => "zstd",
            Self::Lzma => "lzma",
            Self::Lz4Legacy => "lz4",
            Self::Bzip2 => "bzip2",
            Self::Lzo => "lzo",
        }
    }

    /// A reader of what `inner` holds compressed. What follows the compressed stream is left alone.
    pub(crate) fn decode<'a>(self, inner: impl Read + 'a) -> Result<Box<dyn Read + 'a>, UnsupportedCodec> {
        Ok(match self {
            Self::Gzip => Box::new(flate2::read::GzDecoder::new(inner)),
            Self::Xz => Box::new(liblzma::read::XzDecoder::new_stream(
                inner,
                liblzma::stream::Stream::new_stream_decoder(XZ_MEMORY_MAX_BYTES, 0)
                    .expect("fixed arguments; fails only without memory"),
            )),
            Self::Lzma => Box::new(liblzma::read::XzDecoder::new_stream(
                inner,
                liblzma::stream::Stream::new_lzma_decoder(XZ_MEMORY_MAX_BYTES)
                    .expect("fixed arguments; fails only without memory"),
            )),
            Self::Zstd => {
                Box::new(zstd::stream::read::Decoder::new(inner).expect("fails only without memory").single_frame())
            }
            Self::Lz4Legacy => Box::new(Lz4Legacy::new(inner)),
            Self::Bzip2 | Self::Lzo => return Err(UnsupportedCodec(self.name())),
        })
    }
}

/// Reads LZ4's legacy frame, which the kernel and `lz4 -l` write: the magic, then blocks of a
/// little-endian length and that many bytes. It has no end mark; a stream ends where no length that could be one follows.
struct Lz4Legacy<R> {
    inner: R,
    started: bool,
    ended: bool,
    compressed: Vec<u8>,
    block: Vec<u8>,
    block_len: usize,
    at: usize,
}

impl<R: Read> Lz4Legacy<R> {
    fn new(inner: R) -> Self {
        Self { inner, started: false, ended: false, compressed: Vec::new(), block: Vec::new(), block_len: 0, at: 0 }
    }

    /// The next little-endian word; `None` where the stream ends before it.
    fn word(&mut self) -> io::Result<Option<u32>> {
        let mut bytes = [0; 4];
        let mut have = 0;
        while have < bytes.len() {
            match self.inner.read(&mut bytes[have..]) {
                Ok(0) => return Ok(None),
                Ok(got) => have += got,
                Err(err) if err.kind() == io::ErrorKind::Interrupted => {}
                Err(err) => return Err(err),
            }
        }
        Ok(Some(u32::from_le_bytes(bytes)))
    }

    fn next_block(&mut self) -> io::Result<()> {
        if !self.started {
            self.word()?;
            self.started = true;
        }
        self.at = 0;
        self.block_len = 0;
        let Some(len) = self.word()? else {
            self.ended = true;
            return Ok(());
        };
        let len = len as usize;
        if len == 0 || len > LZ4_LEGACY_COMPRESSED_MAX_BYTES {
            // The kernel appends the uncompressed size to the payload; larger than any block, or nothing after it.
            self.ended = true;
            return Ok(());
        }
        self.compressed.resize(len, 0);
        let mut have = 0;
        while have < len {
            match self.inner.read(&mut self.compressed[have..]) {
                Ok(0) => break,
                Ok(got) => have += got,
                Err(err) if err.kind() == io::ErrorKind::Interrupted => {}
                Err(err) => return Err(err),
            }
        }
        if have == 0 && !self.block.is_empty() {
            // A size below the largest block, at the very end: the appended size of a small payload.
            self.ended = true;
            return Ok(());
        }
        if have < len {
            return Err(io::Error::new(
                io::ErrorKind::UnexpectedEof,
                format!("an lz4 block of {len} bytes ends after {have}"),
            ));
        }
        self.block.resize(LZ4_LEGACY_BLOCK_BYTES, 0);
        self.block_len = lz4_flex::block::decompress_into(&self.compressed, &mut self.block)
            .map_err(|err| io::Error::new(io::ErrorKind::InvalidData, err))?;
        Ok(())
    }
}

impl<R: Read> Read for Lz4Legacy<R> {
    fn read(&mut self, buf: &mut [u8]) -> io::Result<usize> {
        while self.at == self.block_len && !self.ended && !buf.is_empty() {
            self.next_block()?;
        }
        let got = buf.len().min(self.block_len - self.at);
        buf[..got].copy_from_slice(&self.block[self.at..self.at + got]);
        self.at += got;
        Ok(got)
    }
}

#[cfg(test)]
pub(crate) mod tests {
    use super::*;
    use proptest::prelude::*;
    use std::io::Write;

    /// `data` compressed with `codec`, for the tests of whoever reads compressed things.
    pub(crate) fn encode(codec: Codec, data: &[u8]) -> Vec<u8> {
        match codec {
            Codec::Gzip => {
                let mut out = flate2::write::GzEncoder::new(Vec::new(), flate2::Compression::fast());
                out.write_all(data).expect("memory");
                out.finish().expect("memory")
            }
            Codec::Xz => {
                let mut out = liblzma::write::XzEncoder::new(Vec::new(), 1);
                out.write_all(data).expect("memory");
                out.finish().expect("memory")
            }
            Codec::Lzma => {
                let options = liblzma::stream::LzmaOptions::new_preset(1).expect("preset 1");
                let stream = liblzma::stream::Stream::new_lzma_encoder(&options).expect("options");
                let mut out = liblzma::write::XzEncoder::new_stream(Vec::new(), stream);
                out.write_all(data).expect("memory");
                out.finish().expect("memory")
            }
            Codec::Zstd => zstd::encode_all(data, 1).expect("memory"),
            Codec::Lz4Legacy => {
                let mut out = vec![0x02, 0x21, 0x4c, 0x18];
                for chunk in data.chunks(LZ4_LEGACY_BLOCK_BYTES) {
                    let block = lz4_flex::block::compress(chunk);
                    out.extend((block.len() as u32).to_le_bytes());
                    out.extend(block);
                }
                out
            }
            Codec::Bzip2 | Codec::Lzo => unreachable!("no encoder"),
        }
    }

    const READABLE: [Codec; 5] = [Codec::Gzip, Codec::Xz, Codec::Zstd, Codec::Lzma, Codec::Lz4Legacy];

    fn decode(packed: &[u8]) -> io::Result<Vec<u8>> {
        let mut out = Vec::new();
        Codec::sniff(packed)
            .ok_or_else(|| io::Error::other("unknown"))?
            .decode(packed)
            .map_err(io::Error::other)?
            .read_to_end(&mut out)?;
        Ok(out)
    }

    #[test]
    fn every_format_reads_back_and_leaves_the_kernels_trailer_alone() {
        for codec in READABLE {
            for len in [0, 1, 100_000, LZ4_LEGACY_BLOCK_BYTES + 3] {
                let data: Vec<u8> = (0..len).map(|i| (i / 7) as u8).collect();
                let mut packed = encode(codec, &data);
                packed.extend((len as u32).to_le_bytes());
                if codec == Codec::Lz4Legacy && len == 0 {
                    continue; // a frame without a block cannot be told from its trailer
                }
                assert!(decode(&packed).unwrap() == data, "{} {len}", codec.name());
            }
        }
    }

    #[test]
    fn a_cut_stream_is_an_error() {
        let data: Vec<u8> = (0..60_000u32).flat_map(|i| (i * i).to_le_bytes()).collect();
        for codec in READABLE {
            let packed = encode(codec, &data);
            let cut = decode(&packed[..packed.len() / 2]);
            assert!(cut.is_err(), "{}", codec.name());
        }
    }

    #[test]
    fn what_cannot_be_read_is_named() {
        for (head, name) in [(b"BZh91AY".as_slice(), "bzip2"), (b"\x89LZO\0\r\n", "lzo")] {
            let codec = Codec::sniff(head).expect("known magic");
            let err = codec.decode(head).err().expect("refused").to_string();
            assert!(err.contains(name), "{err}");
        }
    }

    proptest! {
        #[test]
        fn arbitrary_bytes_never_panic(codec in 0..READABLE.len(), tail in proptest::collection::vec(any::<u8>(), 0..400)) {
            let mut packed = encode(READABLE[codec], b"x")[..4].to_vec();
            packed.extend(tail);
            let reader = READABLE[codec].decode(packed.as_slice()).expect("readable");
            let _outcome = reader.take(1 << 20).read_to_end(&mut Vec::new());
        }
    }
}

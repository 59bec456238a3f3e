//! The name of some content: its SHA-256, as registries write it.

use std::fmt;
use std::str::FromStr;

use serde::{Deserialize, Serialize};
use sha2::{Digest as _, Sha256};

/// How every digest begins.
const ALGORITHM: &str = "sha256:";
/// Most letters of a malformed digest that are quoted.
const QUOTED_MAX: usize = 100;

/// A SHA-256, written `sha256:` and 64 lower-case hexadecimal digits.
#[derive(Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(into = "String", try_from = "String")]
pub struct Digest([u8; 32]);

/// Text that is no digest this crate can check.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("{0:?} is no digest: sha256: and 64 lower-case hexadecimal digits")]
pub struct NotADigest(String);

impl Digest {
    /// The digest of `bytes`.
    #[must_use]
    pub fn of(bytes: &[u8]) -> Digest {
        Digest(Sha256::digest(bytes).into())
    }

    /// The digest a hasher arrived at.
    #[must_use]
    pub fn finish(hasher: Sha256) -> Digest {
        Digest(hasher.finalize().into())
    }

    /// The 64 hexadecimal digits alone: the name of a blob's file.
    #[must_use]
    pub fn hex(&self) -> String {
        self.to_string().split_off(ALGORITHM.len())
    }

    /// The digest of these 64 hexadecimal digits.
    ///
    /// # Errors
    /// When they are none.
    pub fn from_hex(hex: &str) -> Result<Digest, NotADigest> {
        let refused = || NotADigest(hex.chars().take(QUOTED_MAX).collect());
        let digits = hex.as_bytes();
        if digits.len() != 64 {
            return Err(refused());
        }
        let value = |digit: u8| match digit {
            b'0'..=b'9' => Ok(digit - b'0'),
            b'a'..=b'f' => Ok(digit - b'a' + 10),
            _ => Err(refused()),
        };
        let mut bytes = [0; 32];
        for (byte, pair) in bytes.iter_mut().zip(digits.chunks_exact(2)) {
            *byte = value(pair[0])? << 4 | value(pair[1])?;
        }
        Ok(Digest(bytes))
    }
}

impl fmt::Display for Digest {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(ALGORITHM)?;
        self.0.iter().try_for_each(|byte| write!(f, "{byte:02x}"))
    }
}

impl fmt::Debug for Digest {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(self, f)
    }
}

impl FromStr for Digest {
    type Err = NotADigest;

    fn from_str(text: &str) -> Result<Digest, NotADigest> {
        let refused = || NotADigest(text.chars().take(QUOTED_MAX).collect());
        let hex = text.strip_prefix(ALGORITHM).ok_or_else(refused)?;
        Digest::from_hex(hex).map_err(|_| refused())
    }
}

impl TryFrom<String> for Digest {
    type Error = NotADigest;

    fn try_from(text: String) -> Result<Digest, NotADigest> {
        text.parse()
    }
}

impl From<Digest> for String {
    fn from(digest: Digest) -> String {
        digest.to_string()
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn only_whole_lower_case_sha256_is_a_digest() {
        let empty = "sha256:e3b0c44298fc1c149afbf4c8996fb92427ae41e4649b934ca495991b7852b855";
        assert_eq!(empty.parse(), Ok(Digest::of(b"")));
        assert_eq!(Digest::of(b"").to_string(), empty);
        for bad in ["", "sha256:", &empty[7..], &empty[..70], &empty.to_uppercase(), &empty.replace("256", "512")] {
            assert!(bad.parse::<Digest>().is_err(), "{bad}");
        }
    }

    proptest! {
        #[test]
        fn what_is_written_reads_back(bytes in any::<[u8; 32]>()) {
            let digest = Digest(bytes);
            prop_assert_eq!(digest.to_string().parse(), Ok(digest));
            prop_assert_eq!(Digest::from_hex(&digest.hex()), Ok(digest));
        }

        #[test]
        fn arbitrary_text_never_panics(text in "\\PC*") {
            let _outcome = format!("sha256:{text}").parse::<Digest>();
        }
    }
}

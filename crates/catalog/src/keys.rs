//! Keys: whom catalogs are believed, and what signs them.
//!
//! | | written as |
//! |---|---|
//! | public | one line, `ed25519:<base64>` or `ecdsa-p256-sha256:<base64>`; or the PEM of `openssl pkey -pubout` |
//! | private | PKCS#8, PEM or DER, as `openssl genpkey` makes it; not encrypted |
//!
//! A key's id is the beginning of the SHA-256 of its DER. It says which key to try, and proves nothing.

use std::fmt;
use std::str::FromStr;

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use oci::Digest;
use ring::rand::SystemRandom;
use ring::signature::{
    ECDSA_P256_SHA256_ASN1, ECDSA_P256_SHA256_ASN1_SIGNING, ED25519, EcdsaKeyPair, Ed25519KeyPair, KeyPair,
    UnparsedPublicKey, VerificationAlgorithm,
};
use serde::{Deserialize, Serialize};

/// What stands before the 32 bytes of a key in a `SubjectPublicKeyInfo` (RFC 8410).
const ED25519_SPKI: [u8; 12] = [0x30, 0x2a, 0x30, 0x05, 0x06, 0x03, 0x2b, 0x65, 0x70, 0x03, 0x21, 0x00];
/// What stands before the 65 bytes of an uncompressed point on P-256 (RFC 5480).
const P256_SPKI: [u8; 26] = [
    0x30, 0x59, 0x30, 0x13, 0x06, 0x07, 0x2a, 0x86, 0x48, 0xce, 0x3d, 0x02, 0x01, 0x06, 0x08, 0x2a, 0x86, 0x48, 0xce,
    0x3d, 0x03, 0x01, 0x07, 0x03, 0x42, 0x00,
];
/// What stands before the seed in the PKCS#8 of an Ed25519 key without its public half (RFC 8410).
const ED25519_PKCS8: [u8; 16] =
    [0x30, 0x2e, 0x02, 0x01, 0x00, 0x30, 0x05, 0x06, 0x03, 0x2b, 0x65, 0x70, 0x04, 0x22, 0x04, 0x20];
/// How the key of before PKCS#8 begins, behind its length: version 1, and 32 bytes (RFC 5915).
const SEC1_P256: [u8; 5] = [0x02, 0x01, 0x01, 0x04, 0x20];
/// Uncompressed points begin so (SEC 1, 2.3.3).
const UNCOMPRESSED: u8 = 4;
/// Digits of an id.
const ID_DIGITS: usize = 16;
/// A file with a key has some hundred bytes.
pub(crate) const KEY_FILE_BYTES_MAX: u64 = 64 << 10;

/// How a catalog is signed.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Serialize, Deserialize)]
pub enum Algorithm {
    /// Ed25519 (RFC 8032).
    #[serde(rename = "ed25519")]
    Ed25519,
    /// ECDSA on P-256 with SHA-256; the signature is ASN.1, as `openssl dgst -sign` makes it.
    #[serde(rename = "ecdsa-p256-sha256")]
    EcdsaP256Sha256,
}

/// A key whose signatures can be checked.
#[derive(Clone, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(into = "String", try_from = "String")]
pub struct PublicKey {
    algorithm: Algorithm,
    bytes: Vec<u8>,
}

/// A key that signs.
pub struct PrivateKey {
    pair: Pair,
    public: PublicKey,
}

enum Pair {
    Ed25519(Ed25519KeyPair),
    P256(EcdsaKeyPair),
}

/// A key that was just made.
pub struct Generated {
    /// The private half, PKCS#8 in PEM: for a file that only its owner reads.
    pub private_pem: String,
    /// The public half.
    pub public: PublicKey,
}

/// A key that cannot be used.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum KeyError {
    /// Not a public key, or one of another kind.
    #[error("{0:?} is no public key for catalogs")]
    Public(String),
    /// Not a private key, or one of another kind.
    #[error("this is no private key that can sign catalogs")]
    Private,
    /// It wants a password.
    #[error("the private key is encrypted")]
    Encrypted,
    /// It is a key in the form of before PKCS#8.
    #[error("the private key is not in PKCS#8")]
    Old,
    /// The system gave no random numbers, or the key does not sign.
    #[error("cannot {0} with this key")]
    Use(&'static str),
}

impl KeyError {
    /// What a person can do about it.
    #[must_use]
    pub fn hint(&self) -> Option<&'static str> {
        match self {
            KeyError::Public(_) => {
                Some("write it as ed25519:BASE64 or ecdsa-p256-sha256:BASE64, or the PEM of openssl pkey -pubout")
            }
            KeyError::Private => Some("make one: openssl genpkey -algorithm ed25519 -out catalog.pem"),
            KeyError::Encrypted => Some("decrypt it where nobody else reads it: openssl pkey -in KEY -out PLAIN"),
            KeyError::Old => Some("rewrite it: openssl pkcs8 -topk8 -nocrypt -in KEY -out PKCS8"),
            KeyError::Use(_) => None,
        }
    }
}

impl Algorithm {
    /// As files and settings spell it.
    #[must_use]
    pub const fn name(self) -> &'static str {
        match self {
            Algorithm::Ed25519 => "ed25519",
            Algorithm::EcdsaP256Sha256 => "ecdsa-p256-sha256",
        }
    }

    fn prefix(self) -> &'static [u8] {
        match self {
            Algorithm::Ed25519 => &ED25519_SPKI,
            Algorithm::EcdsaP256Sha256 => &P256_SPKI,
        }
    }
}

impl fmt::Display for Algorithm {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.name())
    }
}

impl PublicKey {
    fn new(algorithm: Algorithm, bytes: &[u8]) -> Option<PublicKey> {
        let is_key = match algorithm {
            Algorithm::Ed25519 => bytes.len() == 32,
            Algorithm::EcdsaP256Sha256 => bytes.len() == 65 && bytes[0] == UNCOMPRESSED,
        };
        is_key.then(|| PublicKey { algorithm, bytes: bytes.to_vec() })
    }

    fn from_spki(der: &[u8]) -> Option<PublicKey> {
        let of = |algorithm: Algorithm| PublicKey::new(algorithm, der.strip_prefix(algorithm.prefix())?);
        of(Algorithm::Ed25519).or_else(|| of(Algorithm::EcdsaP256Sha256))
    }

    /// How it signs.
    #[must_use]
    pub fn algorithm(&self) -> Algorithm {
        self.algorithm
    }

    /// Its name in signatures.
    #[must_use]
    pub fn id(&self) -> String {
        let mut id = Digest::of(&[self.algorithm.prefix(), &self.bytes].concat()).hex();
        id.truncate(ID_DIGITS);
        id
    }

    /// As `openssl pkey -pubout` writes it.
    #[must_use]
    pub fn to_pem(&self) -> String {
        pem("PUBLIC KEY", &[self.algorithm.prefix(), &self.bytes].concat())
    }

    /// Whether it made this signature of these bytes.
    #[must_use]
    pub fn has_signed(&self, bytes: &[u8], signature: &[u8]) -> bool {
        let algorithm: &'static dyn VerificationAlgorithm = match self.algorithm {
            Algorithm::Ed25519 => &ED25519,
            Algorithm::EcdsaP256Sha256 => &ECDSA_P256_SHA256_ASN1,
        };
        UnparsedPublicKey::new(algorithm, &self.bytes).verify(bytes, signature).is_ok()
    }
}

impl fmt::Display for PublicKey {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}:{}", self.algorithm, STANDARD.encode(&self.bytes))
    }
}

impl fmt::Debug for PublicKey {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(self, f)
    }
}

impl FromStr for PublicKey {
    type Err = KeyError;

    fn from_str(text: &str) -> Result<PublicKey, KeyError> {
        let text = text.trim();
        let key = match unwrapped(text, "PUBLIC KEY") {
            Some(der) => PublicKey::from_spki(&der),
            None => text.split_once(':').and_then(|(algorithm, bytes)| {
                let all = [Algorithm::Ed25519, Algorithm::EcdsaP256Sha256];
                let algorithm = all.into_iter().find(|one| one.name() == algorithm)?;
                PublicKey::new(algorithm, &STANDARD.decode(bytes).ok()?)
            }),
        };
        key.ok_or_else(|| KeyError::Public(text.chars().take(100).collect()))
    }
}

impl TryFrom<String> for PublicKey {
    type Error = KeyError;

    fn try_from(text: String) -> Result<PublicKey, KeyError> {
        text.parse()
    }
}

impl From<PublicKey> for String {
    fn from(key: PublicKey) -> String {
        key.to_string()
    }
}

impl PrivateKey {
    /// Reads a key as it is in its file.
    ///
    /// # Errors
    /// When it is none, is encrypted, or is of a kind that signs no catalogs.
    pub fn parse(file: &[u8]) -> Result<PrivateKey, KeyError> {
        let der = match std::str::from_utf8(file).ok().filter(|text| text.contains("-----BEGIN ")) {
            Some(text) => match unwrapped(text.trim(), "PRIVATE KEY") {
                Some(der) => der,
                None if text.contains("ENCRYPTED") => return Err(KeyError::Encrypted),
                None if text.contains("EC PRIVATE KEY") => return Err(KeyError::Old),
                None => return Err(KeyError::Private),
            },
            None => file.to_vec(),
        };
        if let Ok(pair) = Ed25519KeyPair::from_pkcs8_maybe_unchecked(&der) {
            let public = PublicKey::new(Algorithm::Ed25519, pair.public_key().as_ref()).ok_or(KeyError::Private)?;
            return Ok(PrivateKey { pair: Pair::Ed25519(pair), public });
        }
        let pair = EcdsaKeyPair::from_pkcs8(&ECDSA_P256_SHA256_ASN1_SIGNING, &der, &SystemRandom::new());
        let is_old = der.get(2..7) == Some(&SEC1_P256);
        let pair = pair.map_err(|_| if is_old { KeyError::Old } else { KeyError::Private })?;
        let public = PublicKey::new(Algorithm::EcdsaP256Sha256, pair.public_key().as_ref()).ok_or(KeyError::Private)?;
        Ok(PrivateKey { pair: Pair::P256(pair), public })
    }

    /// Its public half.
    #[must_use]
    pub fn public(&self) -> &PublicKey {
        &self.public
    }

    /// Signs.
    ///
    /// # Errors
    /// When the system gives no random numbers.
    pub fn sign(&self, bytes: &[u8]) -> Result<Vec<u8>, KeyError> {
        match &self.pair {
            Pair::Ed25519(pair) => Ok(pair.sign(bytes).as_ref().to_vec()),
            Pair::P256(pair) => {
                let signature = pair.sign(&SystemRandom::new(), bytes).map_err(|_| KeyError::Use("sign"))?;
                Ok(signature.as_ref().to_vec())
            }
        }
    }
}

impl fmt::Debug for PrivateKey {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "the private half of {}", self.public)
    }
}

impl fmt::Debug for Generated {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Debug::fmt(&self.public, f)
    }
}

/// Makes a key.
///
/// # Errors
/// When the system gives no random numbers.
pub fn keygen(algorithm: Algorithm) -> Result<Generated, KeyError> {
    let der = match algorithm {
        Algorithm::Ed25519 => [ED25519_PKCS8.as_slice(), &sys::rand::bytes::<32>()].concat(),
        Algorithm::EcdsaP256Sha256 => {
            let made = EcdsaKeyPair::generate_pkcs8(&ECDSA_P256_SHA256_ASN1_SIGNING, &SystemRandom::new());
            made.map_err(|_| KeyError::Use("begin"))?.as_ref().to_vec()
        }
    };
    let public = PrivateKey::parse(&der)?.public;
    Ok(Generated { private_pem: pem("PRIVATE KEY", &der), public })
}

/// The bytes of a text that is one PEM of this label and nothing else.
fn unwrapped(text: &str, label: &str) -> Option<Vec<u8>> {
    let body =
        text.strip_prefix(&format!("-----BEGIN {label}-----"))?.strip_suffix(&format!("-----END {label}-----"))?;
    let body: String = body.split_ascii_whitespace().collect();
    STANDARD.decode(body).ok()
}

fn pem(label: &str, der: &[u8]) -> String {
    let encoded = STANDARD.encode(der);
    let mut text = format!("-----BEGIN {label}-----\n");
    for line in encoded.as_bytes().chunks(64) {
        text.extend(line.iter().map(|byte| char::from(*byte)));
        text.push('\n');
    }
    text + &format!("-----END {label}-----\n")
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    const BOTH: [Algorithm; 2] = [Algorithm::Ed25519, Algorithm::EcdsaP256Sha256];

    #[test]
    fn what_one_key_signs_no_other_did() {
        for algorithm in BOTH {
            let made = keygen(algorithm).unwrap();
            let key = PrivateKey::parse(made.private_pem.as_bytes()).unwrap();
            assert_eq!(key.public(), &made.public);
            let signature = key.sign(b"content").unwrap();
            assert!(made.public.has_signed(b"content", &signature));
            assert!(!made.public.has_signed(b"other", &signature));
            assert!(!made.public.has_signed(b"content", &signature[1..]));
            assert!(!keygen(algorithm).unwrap().public.has_signed(b"content", &signature));
            for text in [made.public.to_string(), made.public.to_pem()] {
                assert_eq!(text.parse::<PublicKey>().unwrap(), made.public);
            }
            assert_eq!(made.public.id().len(), 16);
            assert!(!format!("{key:?} {made:?}").contains("PRIVATE"));
        }
    }

    #[test]
    fn what_is_no_key_is_refused_with_what_to_do() {
        let ours = keygen(Algorithm::Ed25519).unwrap();
        let short = ours.public.to_string().replace("ed25519:", "ecdsa-p256-sha256:");
        for bad in ["", "ed25519:", "rsa:AAAA", "ed25519:!!", &short, &ours.private_pem] {
            assert!(matches!(bad.parse::<PublicKey>(), Err(KeyError::Public(_))), "{bad}");
        }
        for (text, expected) in [
            ("-----BEGIN ENCRYPTED PRIVATE KEY-----\nAAAA\n-----END ENCRYPTED PRIVATE KEY-----", KeyError::Encrypted),
            ("-----BEGIN EC PRIVATE KEY-----\nAAAA\n-----END EC PRIVATE KEY-----", KeyError::Old),
            ("-----BEGIN PRIVATE KEY-----\nAAAA\n-----END PRIVATE KEY-----", KeyError::Private),
            ("x", KeyError::Private),
        ] {
            assert_eq!(PrivateKey::parse(text.as_bytes()).unwrap_err(), expected, "{text}");
            assert!(expected.hint().is_some());
        }
    }

    proptest! {
        #[test]
        fn arbitrary_bytes_never_panic(bytes in prop::collection::vec(any::<u8>(), 0..200)) {
            drop(PrivateKey::parse(&bytes));
            let _outcome = String::from_utf8_lossy(&bytes).parse::<PublicKey>();
        }
    }
}

//! `catalog.json.sig`: who says that a catalog is his.
//!
//! ```json
//! { "version": 1, "signatures": [ { "algorithm": "ed25519", "key": "<id>", "sha256": "<of catalog.json>", "signature": "<base64>" } ] }
//! ```
//!
//! What is signed are the bytes of `catalog.json`, so that any tool can check it. There may be several signatures: of several
//! keys, while one replaces another; and of the catalog that is being replaced, so that whoever fetches the two files while
//! they change has a pair that belongs together, whichever catalog he got.

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use oci::Digest;
use serde::{Deserialize, Serialize};

use crate::keys::{Algorithm, KeyError, PrivateKey, PublicKey};

/// The format that is read and written.
const VERSION: u64 = 1;
/// A signature has some 300 bytes.
pub const SIGNATURE_BYTES_MAX: u64 = 64 << 10;
/// Of two catalogs by several keys.
const SIGNATURES_MAX: usize = 16;

/// All that is in a file of signatures.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Signatures {
    all: Vec<Signature>,
}

#[derive(Debug, Clone, PartialEq, Eq)]
struct Signature {
    algorithm: Algorithm,
    key: String,
    /// Of the document it is for. It saves checking the others, and proves nothing.
    sha256: Digest,
    bytes: Vec<u8>,
}

/// A document that nobody who is trusted has signed.
#[derive(Debug, thiserror::Error)]
pub enum SignatureError {
    /// It has no end.
    #[error("the file of signatures has more than {SIGNATURE_BYTES_MAX} bytes")]
    TooLarge,
    /// It is no JSON, or not this.
    #[error("the file of signatures is malformed")]
    Malformed(#[source] serde_json::Error),
    /// It is of another format.
    #[error("the file of signatures is of version {0}, and this banger reads version {VERSION}")]
    Version(u64),
    /// Something in it cannot be.
    #[error("the file of signatures cannot be used: {0}")]
    Part(&'static str),
    /// It is another document's.
    #[error("the signatures are those of another catalog")]
    Another,
    /// Whoever signed is not known.
    #[error("the catalog is signed by {}, which is not trusted", .0.join(", "))]
    Unknown(Vec<String>),
    /// Somebody claims to be who he is not.
    #[error("the catalog's signature by {0} is wrong")]
    Wrong(String),
}

impl SignatureError {
    /// What a person can do about it.
    #[must_use]
    pub fn hint(&self) -> Option<&'static str> {
        match self {
            SignatureError::Version(version) if *version > VERSION => Some("update banger"),
            SignatureError::Unknown(_) => Some(
                "if the publisher has a new key, get it from him by another way than this server, and add it to the trusted keys",
            ),
            SignatureError::Another => {
                Some("try again in a while: a server in between may have kept one file longer than the other")
            }
            SignatureError::Wrong(_) => Some("the catalog was changed after it was signed: ask its publisher"),
            _ => None,
        }
    }
}

#[derive(Deserialize)]
struct Head {
    version: u64,
}

#[derive(Serialize, Deserialize)]
struct Raw {
    version: u64,
    signatures: Vec<RawSignature>,
}

#[derive(Serialize, Deserialize)]
struct RawSignature {
    algorithm: String,
    key: String,
    sha256: String,
    signature: String,
}

impl Signatures {
    /// Signs a document with each of these keys.
    ///
    /// # Errors
    /// When a key does not sign.
    pub fn sign(document: &[u8], keys: &[PrivateKey]) -> Result<Signatures, KeyError> {
        let sha256 = Digest::of(document);
        let sign = |key: &PrivateKey| {
            let (algorithm, id) = (key.public().algorithm(), key.public().id());
            Ok(Signature { algorithm, key: id, sha256, bytes: key.sign(document)? })
        };
        Ok(Signatures { all: keys.iter().map(sign).collect::<Result<_, KeyError>>()? })
    }

    /// Adds those of `older` that are for the document of this digest, as many as there is room for.
    #[must_use]
    pub fn and_those_of(mut self, older: &Signatures, sha256: &Digest) -> Signatures {
        let those = older.all.iter().filter(|signature| signature.sha256 == *sha256);
        self.all.extend(those.cloned());
        self.all.truncate(SIGNATURES_MAX);
        self
    }

    /// Reads a file.
    ///
    /// # Errors
    /// When it is too large, malformed or of another version. A signature of an algorithm that is not known is passed over.
    pub fn parse(bytes: &[u8]) -> Result<Signatures, SignatureError> {
        if bytes.len() as u64 > SIGNATURE_BYTES_MAX {
            return Err(SignatureError::TooLarge);
        }
        let head: Head = serde_json::from_slice(bytes).map_err(SignatureError::Malformed)?;
        if head.version != VERSION {
            return Err(SignatureError::Version(head.version));
        }
        let raw: Raw = serde_json::from_slice(bytes).map_err(SignatureError::Malformed)?;
        if raw.signatures.len() > SIGNATURES_MAX {
            return Err(SignatureError::Part("there are more than 16 signatures"));
        }
        let all = raw.signatures.into_iter().filter_map(|raw| signature(raw).transpose());
        Ok(Signatures { all: all.collect::<Result<_, _>>()? })
    }

    /// Its text.
    ///
    /// # Panics
    /// Never: all of it can be JSON.
    #[must_use]
    pub fn render(&self) -> String {
        let raw = |signature: &Signature| RawSignature {
            algorithm: signature.algorithm.to_string(),
            key: signature.key.clone(),
            sha256: signature.sha256.hex(),
            signature: STANDARD.encode(&signature.bytes),
        };
        let raw = Raw { version: VERSION, signatures: self.all.iter().map(raw).collect() };
        serde_json::to_string_pretty(&raw).expect("it is JSON") + "\n"
    }

    /// Finds a signature of `document` by one of these keys.
    ///
    /// # Errors
    /// When there is none, or one that claims to be and is not.
    pub fn check<'a>(&self, document: &[u8], keys: &'a [PublicKey]) -> Result<&'a PublicKey, SignatureError> {
        let sha256 = Digest::of(document);
        let ours: Vec<&Signature> = self.all.iter().filter(|signature| signature.sha256 == sha256).collect();
        if ours.is_empty() {
            return Err(SignatureError::Another);
        }
        let mut wrong = None;
        for signature in &ours {
            let is_his = |key: &&PublicKey| key.algorithm() == signature.algorithm && key.id() == signature.key;
            for key in keys.iter().filter(is_his) {
                if key.has_signed(document, &signature.bytes) {
                    return Ok(key);
                }
                wrong = Some(key.id());
            }
        }
        let ids = || ours.iter().map(|signature| signature.key.clone()).collect();
        Err(wrong.map_or_else(|| SignatureError::Unknown(ids()), SignatureError::Wrong))
    }
}

fn signature(raw: RawSignature) -> Result<Option<Signature>, SignatureError> {
    let all = [Algorithm::Ed25519, Algorithm::EcdsaP256Sha256];
    let Some(algorithm) = all.into_iter().find(|one| one.name() == raw.algorithm) else { return Ok(None) };
    let is_id = raw.key.len() == 16 && raw.key.bytes().all(|digit| digit.is_ascii_hexdigit());
    if !is_id {
        return Err(SignatureError::Part("the id of a key has not 16 hexadecimal digits"));
    }
    let sha256 = Digest::from_hex(&raw.sha256).map_err(|_| SignatureError::Part("a sha256 is no digest"))?;
    let bytes = STANDARD.decode(&raw.signature).map_err(|_| SignatureError::Part("a signature is no base64"))?;
    Ok(Some(Signature { algorithm, key: raw.key, sha256, bytes }))
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;
    use crate::keys::keygen;

    fn key(algorithm: Algorithm) -> PrivateKey {
        PrivateKey::parse(keygen(algorithm).unwrap().private_pem.as_bytes()).unwrap()
    }

    #[test]
    fn one_trusted_signature_is_enough() {
        let keys = [key(Algorithm::Ed25519), key(Algorithm::EcdsaP256Sha256)];
        let publics = [keys[0].public().clone(), keys[1].public().clone()];
        let signatures = Signatures::sign(b"catalog", &keys).unwrap();
        let signatures = Signatures::parse(signatures.render().as_bytes()).unwrap();
        for public in &publics {
            assert_eq!(signatures.check(b"catalog", std::slice::from_ref(public)).unwrap(), public);
        }
        assert!(matches!(signatures.check(b"other", &publics), Err(SignatureError::Another)));
        let stranger = [key(Algorithm::Ed25519).public().clone()];
        let refused = signatures.check(b"catalog", &stranger).unwrap_err();
        assert!(matches!(&refused, SignatureError::Unknown(ids) if *ids == publics.each_ref().map(PublicKey::id)));
        assert!(refused.hint().is_some());
    }

    #[test]
    fn a_claim_is_no_signature() {
        let keys = [key(Algorithm::Ed25519)];
        let public = [keys[0].public().clone()];
        let mut signatures = Signatures::sign(b"catalog", &keys).unwrap();
        signatures.all[0].sha256 = Digest::of(b"forged");
        assert!(matches!(signatures.check(b"forged", &public), Err(SignatureError::Wrong(_))));
        signatures.all[0].algorithm = Algorithm::EcdsaP256Sha256;
        assert!(matches!(signatures.check(b"forged", &public), Err(SignatureError::Unknown(_))));
    }

    #[test]
    fn while_a_catalog_is_replaced_both_are_signed() {
        let keys = [key(Algorithm::Ed25519)];
        let public = [keys[0].public().clone()];
        let old = Signatures::sign(b"old", &keys).unwrap();
        let both = Signatures::sign(b"new", &keys).unwrap().and_those_of(&old, &Digest::of(b"old"));
        assert!(both.check(b"old", &public).is_ok() && both.check(b"new", &public).is_ok());
        let next = Signatures::sign(b"next", &keys).unwrap().and_those_of(&both, &Digest::of(b"new"));
        assert!(next.check(b"new", &public).is_ok() && next.check(b"old", &public).is_err());
        assert_eq!(next.all.len(), 2);
    }

    #[test]
    fn what_is_no_file_of_signatures_is_refused() {
        let good = Signatures::sign(b"x", &[key(Algorithm::Ed25519)]).unwrap().render();
        assert!(matches!(Signatures::parse(b"{}"), Err(SignatureError::Malformed(_))));
        assert!(matches!(Signatures::parse(br#"{"version":2}"#), Err(SignatureError::Version(2))));
        for (from, to) in [("\"key\": \"", "\"key\": \"x"), ("\"sha256\": \"", "\"sha256\": \"0"), ("==\"", "\"")] {
            assert!(
                matches!(Signatures::parse(good.replace(from, to).as_bytes()), Err(SignatureError::Part(_))),
                "{from}"
            );
        }
        let unknown = Signatures::parse(good.replace("ed25519", "dilithium").as_bytes()).unwrap();
        assert_eq!(unknown, Signatures::default());
        let long = good + &" ".repeat(64 << 10);
        assert!(matches!(Signatures::parse(long.as_bytes()), Err(SignatureError::TooLarge)));
    }

    proptest! {
        #[test]
        fn what_is_written_reads_back(documents in prop::collection::vec(prop::collection::vec(any::<u8>(), 0..40), 0..6)) {
            let keys = [key(Algorithm::Ed25519)];
            let all = documents.iter().flat_map(|document| Signatures::sign(document, &keys).unwrap().all).collect();
            let signatures = Signatures { all };
            prop_assert_eq!(Signatures::parse(signatures.render().as_bytes()).unwrap(), signatures);
        }

        #[test]
        fn arbitrary_bytes_never_panic(bytes in prop::collection::vec(any::<u8>(), 0..200)) {
            drop(Signatures::parse(&bytes));
        }
    }
}

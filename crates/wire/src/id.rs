//! Ids: newtypes over short strings, checked when they are made.
//!
//! An id is minted from random bytes by its owner and never reused. Its text is its only form: the
//! same in the database, in file names, in logs and on the wire.

use std::fmt;
use std::str::FromStr;

use serde::{Deserialize, Serialize};

/// A string that is not an id of the wanted kind.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("{found:?} is not {kind}: expected {expected}")]
pub struct ParseIdError {
    kind: &'static str,
    expected: &'static str,
    found: String,
}

/// Hexadecimal digits of a minted id: 64 random bits.
pub const ID_HEX_LEN: usize = 16;

fn is_lower_hex(text: &str) -> bool {
    !text.is_empty() && text.bytes().all(|b| matches!(b, b'0'..=b'9' | b'a'..=b'f'))
}

macro_rules! id {
    ($(#[$doc:meta])* $name:ident, $kind:literal, $prefix:literal) => {
        $(#[$doc])*
        #[derive(Debug, Clone, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize, Deserialize)]
        #[cfg_attr(feature = "openapi", derive(utoipa::ToSchema))]
        #[serde(try_from = "String")]
        #[cfg_attr(feature = "openapi", schema(value_type = String))]
        pub struct $name(String);

        impl $name {
            /// The id made of 8 random bytes; the caller supplies the randomness.
            #[must_use]
            pub fn from_random(bytes: [u8; 8]) -> Self {
                Self(format!(concat!($prefix, "{:016x}"), u64::from_be_bytes(bytes)))
            }

            /// The id as it is written everywhere.
            #[must_use]
            pub fn as_str(&self) -> &str {
                &self.0
            }
        }

        impl $name {
            fn check(text: &str) -> Result<(), ParseIdError> {
                match text.strip_prefix($prefix) {
                    Some(hex) if hex.len() == ID_HEX_LEN && is_lower_hex(hex) => Ok(()),
                    _ => Err(ParseIdError {
                        kind: $kind,
                        expected: concat!($prefix, "<16 hexadecimal digits>"),
                        found: text.chars().take(64).collect(),
                    }),
                }
            }
        }

        impl FromStr for $name {
            type Err = ParseIdError;

            fn from_str(text: &str) -> Result<Self, ParseIdError> {
                Self::check(text).map(|()| Self(text.to_owned()))
            }
        }

        impl TryFrom<String> for $name {
            type Error = ParseIdError;

            fn try_from(text: String) -> Result<Self, ParseIdError> {
                Self::check(&text).map(|()| Self(text))
            }
        }

        impl From<$name> for String {
            fn from(id: $name) -> String {
                id.0
            }
        }

        impl fmt::Display for $name {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str(&self.0)
            }
        }
    };
}

id!(
    /// A VM: what a person creates, names and keeps.
    VmId, "a VM id", ""
);
id!(
    /// One run of a VM; every start mints a new one, so a late exit of the last boot cannot touch the next.
    BootId, "a boot id", ""
);
id!(
    /// One run of an operation; it goes through the logs of every program that took part.
    OpId, "an operation id", "op-"
);
id!(
    /// An image: the first 64 bits of the digest of its root filesystem.
    ImageId, "an image id", ""
);
id!(
    /// A kernel: the first 64 bits of the digest of what was imported.
    KernelId, "a kernel id", ""
);

impl VmId {
    /// How many digits lists show; long enough to be told apart, short enough to be typed.
    pub const SHORT_LEN: usize = 8;

    /// The leading digits, for people and for names with a length limit.
    #[must_use]
    pub fn short(&self) -> &str {
        &self.0[..Self::SHORT_LEN]
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[test]
    fn foreign_text_is_refused() {
        for bad in ["", "x", "0123456789abcde", "0123456789abcdeF", "0123456789abcdef0", "../../etc/passwd"] {
            assert!(bad.parse::<VmId>().is_err(), "{bad:?}");
        }
        assert!("0123456789abcdef".parse::<OpId>().is_err());
        assert!(serde_json::from_str::<VmId>("\"zz\"").is_err());
    }

    proptest! {
        #[test]
        fn an_id_survives_its_text(bytes: [u8; 8]) {
            let op = OpId::from_random(bytes);
            prop_assert_eq!(op.as_str().parse::<OpId>().unwrap(), op.clone());
            let json = serde_json::to_string(&op).unwrap();
            prop_assert_eq!(serde_json::from_str::<OpId>(&json).unwrap(), op);
        }
    }
}

//! The runs of a VM: which there were, and how one of them is meant.

use std::fmt;
use std::str::FromStr;

use serde::{Deserialize, Serialize};

use super::vm::BootStatus;
use crate::id::ID_HEX_LEN;

/// `GET /v1/vms/{vm}/boots`: what is kept of a VM's boots.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(feature = "openapi", derive(utoipa::ToSchema))]
pub struct BootList {
    /// Newest first: the first is 0, the one before it -1.
    pub boots: Vec<BootStatus>,
}

/// Fewest digits of a boot's id that stand for it.
pub const BOOT_PREFIX_LEN_MIN: usize = 4;

/// One boot of a VM, as a person names it: `0` is the present or last one, `-1` the one before; or an id, or the
/// beginning of one.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(try_from = "String", into = "String")]
pub enum BootChoice {
    /// So many boots before the newest.
    Back(u16),
    /// Lower-case hexadecimal digits, [`BOOT_PREFIX_LEN_MIN`] to 16.
    Id(String),
}

/// Text that names no boot.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("expected 0 for the last boot, -1 for the one before, or the id of a boot")]
pub struct BootChoiceError;

impl FromStr for BootChoice {
    type Err = BootChoiceError;

    fn from_str(text: &str) -> Result<BootChoice, BootChoiceError> {
        let is_hex = text.bytes().all(|b| matches!(b, b'0'..=b'9' | b'a'..=b'f'));
        if is_hex && (BOOT_PREFIX_LEN_MIN..=ID_HEX_LEN).contains(&text.len()) {
            return Ok(BootChoice::Id(text.to_owned()));
        }
        if text == "0" {
            return Ok(BootChoice::Back(0));
        }
        let back = text.strip_prefix('-').filter(|digits| (1..=3).contains(&digits.len()));
        let back = back.filter(|digits| digits.bytes().all(|b| b.is_ascii_digit())).and_then(|d| d.parse().ok());
        back.map(BootChoice::Back).ok_or(BootChoiceError)
    }
}

impl fmt::Display for BootChoice {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            BootChoice::Back(0) => f.write_str("0"),
            BootChoice::Back(back) => write!(f, "-{back}"),
            BootChoice::Id(id) => f.write_str(id),
        }
    }
}

impl TryFrom<String> for BootChoice {
    type Error = BootChoiceError;

    fn try_from(text: String) -> Result<BootChoice, BootChoiceError> {
        text.parse()
    }
}

impl From<BootChoice> for String {
    fn from(choice: BootChoice) -> String {
        choice.to_string()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_names_a_boot() {
        for (text, choice) in [
            ("0", BootChoice::Back(0)),
            ("-1", BootChoice::Back(1)),
            ("-19", BootChoice::Back(19)),
            ("12ab", BootChoice::Id("12ab".to_owned())),
            ("00112233445566ff", BootChoice::Id("00112233445566ff".to_owned())),
        ] {
            assert_eq!(text.parse(), Ok(choice.clone()), "{text}");
            assert_eq!(choice.to_string(), text);
        }
        for bad in ["", "1", "-", "+1", "--1", "-1000", "12", "12AB", "00112233445566ff0", "../etc", "-a"] {
            assert_eq!(bad.parse::<BootChoice>(), Err(BootChoiceError), "{bad:?}");
        }
    }
}

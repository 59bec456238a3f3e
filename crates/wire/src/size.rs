//! Sizes as people write them: `8G`, `512MiB`, `1.5GiB`; bytes inside.
//!
//! `K`, `M`, `G`, `T` are powers of 1024, with or without `iB`; a bare number's unit is the caller's.

/// Why a size was refused.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum SizeError {
    /// Not `<number><unit>`.
    #[error("{found:?} is not a size: expected a number and K, M, G or T, as in 8G or 512MiB")]
    Form {
        /// What was given, shortened.
        found: String,
    },
    /// Zero, or more than an exbibyte.
    #[error("a size lies between 1 byte and 1024T, {found:?} does not")]
    Range {
        /// What was given, shortened.
        found: String,
    },
}

/// The largest size anything here has: 1 PiB.
pub const BYTES_MAX: u64 = 1 << 50;

/// Parses `text`; a number without a unit counts in `bare_unit` bytes.
///
/// # Errors
/// When `text` is not a number with an optional unit, or the result is zero or above [`BYTES_MAX`].
pub fn parse(text: &str, bare_unit: u64) -> Result<u64, SizeError> {
    let found = || text.chars().take(32).collect::<String>();
    let form = || SizeError::Form { found: found() };
    let trimmed = text.trim();
    let split = trimmed.find(|c: char| !c.is_ascii_digit() && c != '.').unwrap_or(trimmed.len());
    let (number, unit) = trimmed.split_at(split);
    let unit = match unit.trim_start().to_ascii_uppercase().as_str() {
        "" => bare_unit,
        "B" => 1,
        "K" | "KB" | "KIB" => 1 << 10,
        "M" | "MB" | "MIB" => 1 << 20,
        "G" | "GB" | "GIB" => 1 << 30,
        "T" | "TB" | "TIB" => 1 << 40,
        _ => return Err(form()),
    };
    let (whole, fraction) = number.split_once('.').unwrap_or((number, "0"));
    if whole.is_empty() || fraction.is_empty() || fraction.len() > 6 || whole.len() > 18 {
        return Err(form());
    }
    let whole: u64 = whole.parse().map_err(|_| form())?;
    let scale = 10_u64.pow(u32::try_from(fraction.len()).map_err(|_| form())?);
    let fraction: u64 = fraction.parse().map_err(|_| form())?;
    let bytes = u128::from(whole) * u128::from(unit) + u128::from(fraction) * u128::from(unit) / u128::from(scale);
    match u64::try_from(bytes) {
        Ok(bytes) if (1..=BYTES_MAX).contains(&bytes) => Ok(bytes),
        _ => Err(SizeError::Range { found: found() }),
    }
}

/// `bytes` for people: `1.2 GiB`, `512 B`.
#[must_use]
pub fn human(bytes: u64) -> String {
    const UNITS: [&str; 6] = ["B", "KiB", "MiB", "GiB", "TiB", "PiB"];
    let mut tenths = u128::from(bytes) * 10;
    let mut unit = 0;
    while tenths >= 10_240 && unit + 1 < UNITS.len() {
        tenths = (tenths + 512) / 1024;
        unit += 1;
    }
    if unit == 0 || tenths % 10 == 0 {
        format!("{} {}", tenths / 10, UNITS[unit])
    } else {
        format!("{}.{} {}", tenths / 10, tenths % 10, UNITS[unit])
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[test]
    fn written_by_people() {
        const MIB: u64 = 1 << 20;
        for (text, bytes) in [
            ("8G", 8 << 30),
            ("8GiB", 8 << 30),
            ("512M", 512 << 20),
            ("512", 512 * MIB),
            ("1.5g", 3 << 29),
            ("100 K", 100 << 10),
            ("1B", 1),
        ] {
            assert_eq!(parse(text, MIB), Ok(bytes), "{text:?}");
        }
        for bad in ["", "G", "-1G", "1..5G", ".5G", "1.G", "8X", "0x10", "1e3", "nan"] {
            assert!(matches!(parse(bad, MIB), Err(SizeError::Form { .. })), "{bad:?}");
        }
        for absurd in ["0", "0G", "999999999T", "18446744073709551615T"] {
            assert!(parse(absurd, MIB).is_err(), "{absurd:?}");
        }
    }

    #[test]
    fn written_for_people() {
        for (bytes, text) in
            [(0, "0 B"), (512, "512 B"), (1024, "1 KiB"), (1_288_490_189, "1.2 GiB"), (u64::MAX, "16384 PiB")]
        {
            assert_eq!(human(bytes), text);
        }
    }

    proptest! {
        #[test]
        fn any_text_is_answered(text in "\\PC{0,40}") {
            let _: Result<u64, SizeError> = parse(&text, 1);
        }
        #[test]
        fn whole_numbers_are_exact(n in 1_u64..=BYTES_MAX) {
            prop_assert_eq!(parse(&n.to_string(), 1), Ok(n));
        }
    }
}

//! Spans of time as people write them: `30s`, `30m`, `1h30m`; milliseconds inside.

/// Why a span was refused.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum DurationError {
    /// Not numbers with units, the larger unit first.
    #[error("expected a number and s, m or h, as in 30s")]
    Form,
    /// More than [`MS_MAX`].
    #[error("at most a year")]
    Long,
}

/// The longest span anything here lasts: a year.
pub const MS_MAX: u64 = 365 * DAY_MS;

const SECOND_MS: u64 = 1000;
const MINUTE_MS: u64 = 60 * SECOND_MS;
const HOUR_MS: u64 = 60 * MINUTE_MS;
const DAY_MS: u64 = 24 * HOUR_MS;

/// Parses `text`: `90`, `30s`, `30m`, `1h30m`, `500ms`, `2d`; a number without a unit counts seconds.
///
/// # Errors
/// When it is none, or too long.
pub fn parse_ms(text: &str) -> Result<u64, DurationError> {
    let mut rest = text;
    let (mut sum, mut last_unit) = (0_u64, u64::MAX);
    while !rest.is_empty() || text.is_empty() {
        let (count, after) = take(rest, |letter| letter.is_ascii_digit());
        let (unit, after) = take(after, |letter| letter.is_ascii_alphabetic());
        let unit_ms = match unit {
            // Alone only: `1h30` says no unit where one is wanted.
            "" if last_unit == u64::MAX => SECOND_MS,
            "ms" => 1,
            "s" => SECOND_MS,
            "m" | "min" => MINUTE_MS,
            "h" => HOUR_MS,
            "d" => DAY_MS,
            _ => return Err(DurationError::Form),
        };
        if count.is_empty() || unit_ms >= last_unit || (unit.is_empty() && !after.is_empty()) {
            return Err(DurationError::Form);
        }
        let count: u64 = count.parse().map_err(|_| DurationError::Long)?;
        let part = count.checked_mul(unit_ms).ok_or(DurationError::Long)?;
        sum = sum.checked_add(part).filter(|sum| *sum <= MS_MAX).ok_or(DurationError::Long)?;
        (rest, last_unit) = (after, unit_ms);
    }
    Ok(sum)
}

fn take(text: &str, is_part: impl Fn(char) -> bool) -> (&str, &str) {
    text.split_at(text.find(|letter| !is_part(letter)).unwrap_or(text.len()))
}

/// `ms` for people, in its two largest units: `30 min`, `1 h 30 min`, `2.5 s`.
#[must_use]
pub fn human(ms: u64) -> String {
    const UNITS: [(u64, &str); 4] = [(DAY_MS, "d"), (HOUR_MS, "h"), (MINUTE_MS, "min"), (SECOND_MS, "s")];
    let Some(at) = UNITS.iter().position(|(unit_ms, _)| ms >= *unit_ms) else {
        return format!("{ms} ms");
    };
    let (unit_ms, name) = UNITS[at];
    let (whole, rest) = (ms / unit_ms, ms % unit_ms);
    if unit_ms == SECOND_MS {
        let tenths = rest / 100;
        return if tenths == 0 { format!("{whole} s") } else { format!("{whole}.{tenths} s") };
    }
    let (next_ms, next) = UNITS[at + 1];
    match rest / next_ms {
        0 => format!("{whole} {name}"),
        part => format!("{whole} {name} {part} {next}"),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[test]
    fn written_by_people() {
        for (text, ms) in [
            ("30", 30_000),
            ("0", 0),
            ("30s", 30_000),
            ("30m", 1_800_000),
            ("30min", 1_800_000),
            ("1h30m", 5_400_000),
            ("24h", 86_400_000),
            ("2d", 172_800_000),
            ("1m500ms", 60_500),
        ] {
            assert_eq!(parse_ms(text), Ok(ms), "{text:?}");
        }
        for bad in ["", "s", "-1s", "1y", "1.5h", "30m1h", "1s1s", "1h30", "10 m", " 1s", "1h 30m", "x"] {
            assert_eq!(parse_ms(bad), Err(DurationError::Form), "{bad:?}");
        }
        for long in ["99999999999999999999", "366d", "18446744073709551615h"] {
            assert_eq!(parse_ms(long), Err(DurationError::Long), "{long:?}");
        }
    }

    #[test]
    fn written_for_people() {
        for (ms, text) in [
            (0, "0 ms"),
            (250, "250 ms"),
            (2000, "2 s"),
            (2500, "2.5 s"),
            (1_800_000, "30 min"),
            (5_400_000, "1 h 30 min"),
            (90_000, "1 min 30 s"),
            (86_400_000, "1 d"),
            (90_061_000, "1 d 1 h"),
        ] {
            assert_eq!(human(ms), text);
        }
    }

    proptest! {
        #[test]
        fn any_text_is_answered(text in "\\PC{0,40}") {
            let _: Result<u64, DurationError> = parse_ms(&text);
        }
        #[test]
        fn milliseconds_are_exact(ms in 0_u64..=MS_MAX) {
            prop_assert_eq!(parse_ms(&format!("{ms}ms")), Ok(ms));
        }
    }
}

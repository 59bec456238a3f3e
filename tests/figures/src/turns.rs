//! Turns: machines differ and so do hours, so that the sides of a comparison follow each other again and again.

use std::time::Duration;

use anyhow::Result;

/// What one side took and what the other took right after it.
pub type Pair = (Duration, Duration);

/// One side of a comparison: does it once, and says how long that took.
pub type Side<'a> = &'a mut dyn FnMut() -> Result<Duration>;

/// Measures several things in turn after one uncounted turn each: for every turn, how long each took.
///
/// # Errors
/// The first failure of a side.
pub fn turns(runs: usize, sides: &mut [Side]) -> Result<Vec<Vec<Duration>>> {
    let mut once = || sides.iter_mut().map(|side| side()).collect::<Result<Vec<Duration>>>();
    once()?;
    (0..runs).map(|_| once()).collect()
}

/// Two of the sides of [`turns`].
#[must_use]
pub fn pairs_of(turns: &[Vec<Duration>], ours: usize, theirs: usize) -> Vec<Pair> {
    turns.iter().map(|turn| (turn[ours], turn[theirs])).collect()
}

/// Measures two things in turn after one uncounted turn each.
///
/// # Errors
/// The first failure of a side.
pub fn pairs(
    runs: usize,
    mut ours: impl FnMut() -> Result<Duration>,
    mut theirs: impl FnMut() -> Result<Duration>,
) -> Result<Vec<Pair>> {
    Ok(pairs_of(&turns(runs, &mut [&mut ours, &mut theirs])?, 0, 1))
}

/// The middle one.
#[must_use]
pub fn median(mut values: Vec<f64>) -> f64 {
    values.sort_by(f64::total_cmp);
    values.get(values.len() / 2).copied().unwrap_or(f64::NAN)
}

#[cfg(test)]
mod tests {
    use std::cell::RefCell;

    use super::*;

    #[test]
    fn sides_take_turns_and_the_first_turn_does_not_count() {
        let log = RefCell::new(String::new());
        let mut count = 0;
        let ours = || {
            log.borrow_mut().push('a');
            count += 1;
            Ok(Duration::from_millis(count))
        };
        let theirs = || {
            log.borrow_mut().push('b');
            Ok(Duration::from_millis(10))
        };
        let measured = pairs(2, ours, theirs).unwrap();
        assert_eq!(log.borrow().as_str(), "ababab");
        assert_eq!(measured.iter().map(|(ours, _)| ours.as_millis()).collect::<Vec<_>>(), [2, 3]);
    }

    #[test]
    fn the_middle_is_not_moved_by_one_bad_turn() {
        assert!((median(vec![9.0, 1.0, 100.0]) - 9.0).abs() < f64::EPSILON);
        assert!(median(Vec::new()).is_nan());
    }
}

//! Text for people: tables with two spaces between columns, ages, elapsed times.

use std::time::Duration;

/// A cell is not cut below this many characters: fewer tell nobody apart.
const CELL_MIN: usize = 8;

/// `rows` below `header`, columns as wide as their longest cell, nothing after the last one.
pub(crate) fn table<C: AsRef<str>>(header: &[&str], rows: &[Vec<C>]) -> String {
    columns(header, rows, &vec![true; header.len()])
}

/// The columns of a table that are `used`.
fn columns<C: AsRef<str>>(header: &[&str], rows: &[Vec<C>], used: &[bool]) -> String {
    let used: Vec<usize> = (0..header.len()).filter(|column| used[*column]).collect();
    let longest = |column: usize| rows.iter().map(|row| length(&row[column])).max().unwrap_or(0);
    let widths: Vec<usize> = used.iter().map(|column| longest(*column).max(header[*column].chars().count())).collect();
    let mut text = String::with_capacity((rows.len() + 1) * (widths.iter().sum::<usize>() + 2 * used.len() + 1));
    push_line(&mut text, used.iter().map(|column| header[*column]), &widths);
    for row in rows {
        push_line(&mut text, used.iter().map(|column| row[*column].as_ref()), &widths);
    }
    text
}

/// `rows` of a name and a value, without a header. Further lines of a value stand below its first one.
pub(crate) fn pairs(rows: &[(&str, String)]) -> String {
    let width = rows.iter().map(|(name, _)| name.len()).max().unwrap_or(0);
    let mut text = String::new();
    for (name, value) in rows {
        let titles = std::iter::once(*name).chain(std::iter::repeat(""));
        for (title, part) in titles.zip(value.split('\n')) {
            push_line(&mut text, [title, part].into_iter(), &[width, 0]);
        }
    }
    text
}

/// A table without the columns that are empty in every row; the titles of `keep` stay.
pub(crate) fn table_without_empty<C: AsRef<str>>(header: &[&str], rows: &[Vec<C>], keep: usize) -> String {
    let used: Vec<bool> =
        (0..header.len()).map(|i| i < keep || rows.iter().any(|row| !row[i].as_ref().is_empty())).collect();
    columns(header, rows, &used)
}

/// The same as [`table_without_empty`] in at most `width` columns: the longest cells of the columns `may_shrink` are cut
/// until it fits, or nothing more can be cut.
pub(crate) fn table_within<C: AsRef<str> + From<String>>(
    width: usize,
    may_shrink: &[usize],
    header: &[&str],
    mut rows: Vec<Vec<C>>,
    keep: usize,
) -> String {
    loop {
        let text = table_without_empty(header, &rows, keep);
        let excess = text.lines().map(|line| line.chars().count()).max().unwrap_or(0).saturating_sub(width);
        let longest = |column: usize| rows.iter().map(|row| length(&row[column])).max().unwrap_or(0);
        let widest = may_shrink.iter().map(|column| (longest(*column), *column)).max();
        let Some((longest, column)) = widest.filter(|(longest, _)| excess > 0 && *longest > CELL_MIN) else {
            return text;
        };
        for row in &mut rows {
            if length(&row[column]) >= longest {
                row[column] = cut(row[column].as_ref(), longest - 1).into();
            }
        }
    }
}

fn length(cell: &impl AsRef<str>) -> usize {
    cell.as_ref().chars().count()
}

/// The first characters of a longer `cell`, and one that says that there were more: `length` in all.
fn cut(cell: &str, length: usize) -> String {
    let kept: String = cell.chars().take(length.saturating_sub(1)).collect();
    kept + "…"
}

/// Adds a line of cells, each padded to its column's width.
fn push_line<'a>(text: &mut String, cells: impl Iterator<Item = &'a str>, widths: &[usize]) {
    for (cell, width) in cells.zip(widths) {
        text.push_str(cell);
        let missing = width.saturating_sub(cell.chars().count());
        text.extend(std::iter::repeat_n(' ', missing + 2));
    }
    text.truncate(text.trim_end_matches(' ').len());
    text.push('\n');
}

/// How long ago, in the largest fitting unit: `3 min`.
pub(crate) fn age(then_ms: u64, now_ms: u64) -> String {
    let seconds = now_ms.saturating_sub(then_ms) / 1000;
    match seconds {
        0..60 => format!("{seconds} s"),
        60..3_600 => format!("{} min", seconds / 60),
        3_600..86_400 => format!("{} h", seconds / 3_600),
        86_400..1_209_600 => format!("{} d", seconds / 86_400),
        1_209_600..31_536_000 => format!("{} wk", seconds / 604_800),
        _ => format!("{} y", seconds / 31_536_000),
    }
}

/// How long something took: `5.2 s`, `3 min 20 s`.
pub(crate) fn elapsed(time: Duration) -> String {
    let seconds = time.as_secs();
    if seconds < 100 {
        return format!("{:.1} s", time.as_secs_f64());
    }
    format!("{} min {} s", seconds / 60, seconds % 60)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn columns() {
        let rows = vec![vec!["web".to_owned(), "running".to_owned()], vec!["a".to_owned(), String::new()]];
        assert_eq!(table(&["NAME", "STATE"], &rows), "NAME  STATE\nweb   running\na\n");
        let sparse = vec![vec!["web".to_owned(), String::new(), "x".to_owned()]];
        assert_eq!(table_without_empty(&["NAME", "PORTS", "ID"], &sparse, 1), "NAME  ID\nweb   x\n");
        assert_eq!(pairs(&[("id", "1".to_owned()), ("name", "web".to_owned())]), "id    1\nname  web\n");
    }

    #[test]
    fn a_narrow_terminal() {
        let row = |name: &str, image: &str| vec![name.to_owned(), image.to_owned(), "end".to_owned()];
        let rows = vec![row("a-name-of-twenty-two-c", "debian-bookworm"), row("web", "alpine")];
        let within = |width| table_within(width, &[0, 1], &["NAME", "IMAGE", "X"], rows.clone(), 3);
        assert_eq!(within(80).lines().nth(1), Some("a-name-of-twenty-two-c  debian-bookworm  end"));
        assert_eq!(
            within(34),
            "NAME            IMAGE          X\na-name-of-twe…  debian-bookw…  end\nweb             alpine         end\n"
        );
        assert!(within(34).lines().all(|line| line.chars().count() <= 34));
        assert_eq!(within(5).lines().nth(1), Some("a-name-…  debian-…  end"), "no further");
    }

    #[test]
    fn times() {
        const DAY_S: u64 = 86_400;
        for (seconds, text) in [
            (0, "0 s"),
            (59, "59 s"),
            (180, "3 min"),
            (7_200, "2 h"),
            (5 * DAY_S, "5 d"),
            (21 * DAY_S, "3 wk"),
            (800 * DAY_S, "2 y"),
        ] {
            assert_eq!(age(1_000, 1_000 + seconds * 1000), text);
        }
        assert_eq!(age(5_000, 0), "0 s");
        assert_eq!(elapsed(Duration::from_millis(5_230)), "5.2 s");
        assert_eq!(elapsed(Duration::from_secs(200)), "3 min 20 s");
    }
}

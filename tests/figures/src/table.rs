//! Figures as Markdown.

use std::fmt::Write as _;

use crate::row::Row;

/// A table with aligned columns.
#[must_use]
pub fn render(rows: &[Row]) -> String {
    let mut lines = vec![["what", "floor or peer", "banger", "it", "measured", "goal"].map(str::to_owned)];
    lines.extend(rows.iter().map(Row::cells));
    let width = |column: usize| lines.iter().map(|line| line[column].chars().count()).max().unwrap_or(0);
    let widths: Vec<usize> = (0..6).map(width).collect();
    let mut text = String::new();
    for (index, line) in lines.iter().enumerate() {
        for (cell, width) in line.iter().zip(&widths) {
            write!(text, "| {cell:width$} ").expect("writing to a string cannot fail");
        }
        text.push_str("|\n");
        if index == 0 {
            let rule: String = widths.iter().map(|width| format!("|{}", "-".repeat(width + 2))).collect();
            text.push_str(&rule);
            text.push_str("|\n");
        }
    }
    text
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn columns_are_aligned() {
        let text = render(&[Row::limit("a very long figure indeed", "6", 6.0, 5.0, "MiB")]);
        let widths: Vec<usize> = text.lines().map(|line| line.chars().count()).collect();
        assert!(widths.len() == 3 && widths.iter().all(|width| *width == widths[0]), "{text}");
    }
}

//! A guest's patch on a terminal: in git's colours, line by line, and without anything a terminal would act on.

use anstyle::{AnsiColor, Style};

use crate::output::printable_lines;

const META: Style = Style::new().bold();
const HUNK: Style = AnsiColor::Cyan.on_default();
const OLD: Style = AnsiColor::Red.on_default();
const NEW: Style = AnsiColor::Green.on_default();
const PLAIN: Style = Style::new();

/// How lines between hunks begin that say what becomes of a file (git-diff(1), "Generating patch text").
const META_STARTS: [&str; 16] = [
    "diff --git ",
    "index ",
    "--- ",
    "+++ ",
    "old mode ",
    "new mode ",
    "new file mode ",
    "deleted file mode ",
    "similarity index ",
    "dissimilarity index ",
    "rename from ",
    "rename to ",
    "copy from ",
    "copy to ",
    "Binary files ",
    "GIT binary patch",
];

/// A line is shown in pieces of so many bytes at most.
const PIECE_BYTES_MAX: usize = 64 << 10;

/// Where in a patch it is.
#[derive(Debug, Default)]
pub(crate) struct Painter {
    /// The line that has not ended yet.
    line: Vec<u8>,
    /// The style of its first piece, when that was shown.
    begun: Option<Style>,
    /// Lines of the hunk that are still to come: old ones, new ones.
    left: (u64, u64),
}

impl Painter {
    /// What of `bytes` can be shown, colours included.
    pub(crate) fn paint(&mut self, bytes: &[u8]) -> String {
        let mut text = String::with_capacity(bytes.len());
        for part in bytes.split_inclusive(|byte| *byte == b'\n') {
            let is_end = part.ends_with(b"\n");
            self.line.extend_from_slice(part.strip_suffix(b"\n").unwrap_or(part));
            while self.line.len() > PIECE_BYTES_MAX {
                let rest = self.line.split_off(PIECE_BYTES_MAX);
                let piece = std::mem::replace(&mut self.line, rest);
                self.show(&piece, &mut text);
            }
            if is_end {
                let line = std::mem::take(&mut self.line);
                self.show(&line, &mut text);
                self.begun = None;
                text.push('\n');
            }
        }
        text
    }

    /// A last line without an end.
    pub(crate) fn rest(&mut self) -> String {
        let mut text = String::new();
        let line = std::mem::take(&mut self.line);
        self.show(&line, &mut text);
        text
    }

    fn show(&mut self, piece: &[u8], text: &mut String) {
        let style = match self.begun {
            Some(style) => style,
            None => self.style_of(piece),
        };
        self.begun = Some(style);
        let shown = printable_lines(&String::from_utf8_lossy(piece));
        if !shown.is_empty() {
            text.push_str(&format!("{style}{shown}{style:#}"));
        }
    }

    /// The style of a line by its beginning, which also says where in the patch it stands.
    fn style_of(&mut self, line: &[u8]) -> Style {
        if self.left == (0, 0) {
            if let Some(left) = hunk(line) {
                self.left = left;
                return HUNK;
            }
            let is_meta = META_STARTS.iter().any(|start| line.starts_with(start.as_bytes()));
            return if is_meta { META } else { PLAIN };
        }
        let (old, new) = &mut self.left;
        match line.first() {
            Some(b'-') => {
                *old = old.saturating_sub(1);
                OLD
            }
            Some(b'+') => {
                *new = new.saturating_sub(1);
                NEW
            }
            Some(b'\\') => PLAIN,
            _ => {
                (*old, *new) = (old.saturating_sub(1), new.saturating_sub(1));
                PLAIN
            }
        }
    }
}

/// How many old and new lines follow `@@ -12,3 +12,4 @@`; none when it is another line.
fn hunk(line: &[u8]) -> Option<(u64, u64)> {
    let line = line.strip_prefix(b"@@ -")?;
    let end = line.windows(3).position(|bytes| bytes == b" @@")?;
    let (old, new) = std::str::from_utf8(&line[..end]).ok()?.split_once(" +")?;
    let count = |range: &str| range.split_once(',').map_or(Ok(1), |(_, count)| count.parse::<u64>()).ok();
    Some((count(old)?, count(new)?))
}

#[cfg(test)]
mod tests {
    use super::*;

    const PATCH: &str = "diff --git a/x b/x\nindex 1..2 100644\n--- a/x\n+++ b/x\n@@ -1,2 +1,2 @@ fn main() {\n--- old\n+++ new\n \
\x1b[2Jkept\n\\ No newline at end of file\n@@ -5 +5 @@\n-a\n+b\r\ndiff --git a/y b/y\nBinary files a/y and b/y differ\nFrom: me\n---\n";

    #[test]
    fn lines_have_gits_colours_whatever_the_pieces() {
        let styles = [META, META, META, META, HUNK, OLD, NEW, PLAIN, PLAIN, HUNK, OLD, NEW, META, META, PLAIN, PLAIN];
        let expected: String = PATCH
            .split_terminator('\n')
            .zip(styles)
            .map(|(line, style)| format!("{style}{}{style:#}\n", printable_lines(line)))
            .collect();
        for length in [1, 7, 10_000] {
            let mut painter = Painter::default();
            let pieces = PATCH.as_bytes().chunks(length);
            let painted: String = pieces.map(|piece| painter.paint(piece)).collect();
            assert_eq!(painted + &painter.rest(), expected, "pieces of {length}");
        }
        assert!(expected.contains("\\x1b[2Jkept") && expected.contains("b\\x0d"), "{expected}");
    }

    #[test]
    fn a_line_without_an_end_is_shown_in_pieces() {
        let mut painter = Painter::default();
        let shown = painter.paint(&[b'x'; 3 * PIECE_BYTES_MAX]);
        assert_eq!(shown.len(), 2 * PIECE_BYTES_MAX);
        assert_eq!(shown.len() + painter.rest().len(), 3 * PIECE_BYTES_MAX);
    }
}

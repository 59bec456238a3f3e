//! Splits a Rust file into code, comments and strings.
//!
//! Each of the three has the length of the file, with every byte of the other two replaced by a space and line ends
//! kept, so an offset or a line number means the same in all of them. This is a lexer's first page, not a parser: it
//! knows nested comments, raw strings and the difference between a lifetime and a character.

/// A Rust file in three layers.
pub(super) struct Source {
    pub(super) code: String,
    pub(super) comments: String,
    pub(super) strings: String,
}

#[derive(Clone, Copy, PartialEq, Eq)]
enum Kind {
    Code,
    Comment,
    Text,
}

impl Source {
    pub(super) fn split(text: &str) -> Self {
        let kinds = classify(text.as_bytes());
        let layer = |wanted: Kind| -> String {
            text.char_indices()
                .flat_map(|(at, char)| {
                    // One space per byte, so that offsets stay those of the file.
                    let (shown, times) =
                        if kinds[at] == wanted || char == '\n' { (char, 1) } else { (' ', char.len_utf8()) };
                    std::iter::repeat_n(shown, times)
                })
                .collect()
        };
        Source { code: layer(Kind::Code), comments: layer(Kind::Comment), strings: layer(Kind::Text) }
    }

    /// The code before the file's test module: by convention that module is the last thing in its file.
    pub(super) fn code_without_tests(&self) -> &str {
        let end = self
            .code
            .match_indices("#[cfg(test)]")
            .find(|(at, marker)| self.code[at + marker.len()..].trim_start().starts_with("mod "))
            .map_or(self.code.len(), |(at, _)| at);
        &self.code[..end]
    }
}

/// The line, counted from 1, that holds the byte at `offset`.
pub(super) fn line_of(text: &str, offset: usize) -> usize {
    1 + text.as_bytes()[..offset].iter().filter(|&&byte| byte == b'\n').count()
}

/// Where the word stands in the code, not as a part of a longer identifier.
pub(super) fn word_offsets<'a>(code: &'a str, word: &'a str) -> impl Iterator<Item = usize> + 'a {
    code.match_indices(word).map(|(at, _)| at).filter(move |&at| {
        let bytes = code.as_bytes();
        let before = at.checked_sub(1).map(|at| bytes[at]);
        // A word that ends in a sign, such as `#`, ends there whatever follows.
        let ends_open = word.bytes().next_back().is_some_and(is_identifier);
        let after = bytes.get(at + word.len()).copied().filter(|_| ends_open);
        ![before, after].into_iter().flatten().any(is_identifier)
    })
}

pub(super) fn is_identifier(byte: u8) -> bool {
    byte.is_ascii_alphanumeric() || byte == b'_' || !byte.is_ascii()
}

fn classify(text: &[u8]) -> Vec<Kind> {
    let mut kinds = vec![Kind::Code; text.len()];
    let mut at = 0;
    while at < text.len() {
        let rest = &text[at..];
        let previous = at.checked_sub(1).map(|before| text[before]);
        let (length, kind) = if rest.starts_with(b"//") {
            (line_length(rest), Kind::Comment)
        } else if rest.starts_with(b"/*") {
            (block_comment_length(rest), Kind::Comment)
        } else if rest[0] == b'"' {
            (quoted_length(rest, b'"'), Kind::Text)
        } else if let Some(length) = raw_string_length(rest, previous) {
            (length, Kind::Text)
        } else if is_character(rest) {
            (quoted_length(rest, b'\''), Kind::Text)
        } else {
            (1, Kind::Code)
        };
        kinds[at..at + length].fill(kind);
        at += length;
    }
    kinds
}

fn line_length(rest: &[u8]) -> usize {
    rest.iter().position(|&byte| byte == b'\n').unwrap_or(rest.len())
}

fn block_comment_length(rest: &[u8]) -> usize {
    let (mut depth, mut at) = (0_usize, 0);
    while at < rest.len() {
        if rest[at..].starts_with(b"/*") {
            depth += 1;
            at += 2;
        } else if rest[at..].starts_with(b"*/") {
            depth -= 1;
            at += 2;
            if depth == 0 {
                return at;
            }
        } else {
            at += 1;
        }
    }
    rest.len()
}

/// The length of a literal that opens with a quote at the start of `rest`, both quotes included.
fn quoted_length(rest: &[u8], quote: u8) -> usize {
    let mut at = 1;
    while at < rest.len() {
        match rest[at] {
            b'\\' => at += 2,
            byte if byte == quote => return at + 1,
            _ => at += 1,
        }
    }
    rest.len()
}

/// `r"…"`, `r#"…"#`, and the same after `b` or `c`.
fn raw_string_length(rest: &[u8], previous: Option<u8>) -> Option<usize> {
    if previous.is_some_and(is_identifier) {
        return None;
    }
    let prefix = match rest {
        [b'r', ..] => 1,
        [b'b' | b'c', b'r', ..] => 2,
        _ => return None,
    };
    let hashes = rest[prefix..].iter().take_while(|&&byte| byte == b'#').count();
    let open = prefix + hashes;
    if rest.get(open) != Some(&b'"') {
        return None;
    }
    let mut close = vec![b'"'];
    close.extend(std::iter::repeat_n(b'#', hashes));
    let body = &rest[open + 1..];
    let end = body
        .windows(close.len())
        .position(|window| window == close)
        .map_or(rest.len(), |found| open + 1 + found + close.len());
    Some(end)
}

/// Whether a `'` opens a character and not a lifetime: a character is closed after one character or an escape.
fn is_character(rest: &[u8]) -> bool {
    match rest {
        [b'\'', b'\\', ..] => true,
        [b'\'', first, after @ ..] => {
            let continuation = after.iter().take_while(|&&byte| byte & 0xC0 == 0x80).count();
            let ends = if first.is_ascii() { 0 } else { continuation };
            after.get(ends) == Some(&b'\'')
        }
        _ => false,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn layers_keep_offsets_and_hold_each_byte_once() {
        let text = "fn f<'a>(x: &'a str) -> char { // it's\n  let s = \"a // \\\" b\"; /* x /* y */ z */ '\\'' }\n\
                    const R: &str = r#\"q\"q\"#; // é\n";
        let source = Source::split(text);
        for layer in [&source.code, &source.comments, &source.strings] {
            assert_eq!(layer.len(), text.len());
        }
        assert!(source.code.contains("fn f<'a>(x: &'a str) -> char {"));
        assert!(!source.code.contains("//"));
        assert!(source.comments.contains("// it's\n"));
        assert!(source.comments.contains("/* x /* y */ z */"));
        assert!(source.strings.contains("\"a // \\\" b\""));
        assert!(source.strings.contains("'\\''"));
        assert!(source.strings.contains("r#\"q\"q\"#"));
    }

    #[test]
    fn tests_are_cut_off() {
        let source = Source::split("fn a() {}\n#[cfg(test)]\nmod tests { fn b() {} }\n");
        assert_eq!(source.code_without_tests(), "fn a() {}\n");
        let source = Source::split("#[cfg(test)]\nfn a() {}\nfn b() {}\n");
        assert!(source.code_without_tests().contains("fn b"));
    }

    #[test]
    fn words_are_whole() {
        let found: Vec<_> = word_offsets("fn_x fn y; fn(z)", "fn").collect();
        assert_eq!(found, [5, 11]);
    }
}

//! The keys that leave a session: a sequence, as of `docker attach`, that is taken out of what goes in.

/// What they are when nothing else is asked.
pub(crate) const DEFAULT: &str = "ctrl-p,ctrl-q";

/// Longest sequence.
const KEYS_MAX: usize = 8;

/// The sequence, and what of it has been typed.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct DetachKeys {
    keys: Vec<u8>,
    held: Vec<u8>,
}

/// What is left of something that was typed.
#[derive(Debug, PartialEq, Eq)]
pub(crate) struct Typed {
    /// What goes in. The beginning of a sequence waits until it is none, or is all there.
    pub(crate) input: Vec<u8>,
    /// Whether the sequence is complete; what was typed behind it is dropped.
    pub(crate) leaves: bool,
}

impl DetachKeys {
    /// `ctrl-p,ctrl-q`, `ctrl-a,d`, `q`: letters, digits and signs as they are, `ctrl-` with a letter or one of `@[\]^_`.
    pub(crate) fn parse(text: &str) -> Result<DetachKeys, String> {
        let expected = || format!("expected keys like {DEFAULT} or ctrl-a,d");
        let keys = text.split(',').map(key).collect::<Option<Vec<u8>>>().ok_or_else(expected)?;
        if keys.len() > KEYS_MAX {
            return Err(format!("at most {KEYS_MAX} keys"));
        }
        Ok(DetachKeys { keys, held: Vec::new() })
    }

    /// Takes what was typed.
    pub(crate) fn take(&mut self, bytes: &[u8]) -> Typed {
        let mut input = Vec::with_capacity(bytes.len());
        for byte in bytes {
            self.held.push(*byte);
            // A key that breaks a sequence may begin the next one.
            while !self.keys.starts_with(&self.held) {
                input.push(self.held.remove(0));
            }
            if self.held.len() == self.keys.len() {
                self.held.clear();
                return Typed { input, leaves: true };
            }
        }
        Typed { input, leaves: false }
    }
}

fn key(name: &str) -> Option<u8> {
    if let Some(letter) = name.strip_prefix("ctrl-") {
        return match letter.as_bytes() {
            [letter @ b'a'..=b'z'] => Some(letter - b'a' + 1),
            [sign @ (b'@' | b'[' | b'\\' | b']' | b'^' | b'_')] => Some(sign - b'@'),
            _ => None,
        };
    }
    match name.as_bytes() {
        [key @ 0x21..=0x7e] => Some(*key),
        _ => None,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn sequences() {
        for (text, bytes) in
            [(DEFAULT, &[16, 17][..]), ("ctrl-a,d", &[1, b'd']), ("q", b"q"), ("ctrl-],~,.", b"\x1d~.")]
        {
            assert_eq!(DetachKeys::parse(text).unwrap().keys, bytes, "{text}");
        }
        for bad in ["", ",", "ctrl-", "ctrl-P", "ctrl-1", "p,,q", "ab", " ", "a,b,c,d,e,f,g,h,i", "ü"] {
            assert!(DetachKeys::parse(bad).is_err(), "{bad:?}");
        }
    }

    #[test]
    fn what_is_no_sequence_goes_in_whole() {
        let typed = |pieces: &[&[u8]]| {
            let mut keys = DetachKeys::parse("ctrl-p,ctrl-p,ctrl-q").unwrap();
            let all = pieces.iter().map(|piece| keys.take(piece)).collect::<Vec<_>>();
            (all.iter().flat_map(|typed| typed.input.clone()).collect::<Vec<u8>>(), all.last().unwrap().leaves)
        };
        assert_eq!(typed(&[b"abc"]), (b"abc".to_vec(), false));
        assert_eq!(typed(&[b"a\x10\x10\x11rest"]), (b"a".to_vec(), true));
        assert_eq!(typed(&[b"\x10", b"\x10", b"\x11"]), (vec![], true));
        assert_eq!(typed(&[b"\x10", b"x"]), (b"\x10x".to_vec(), false));
        assert_eq!(typed(&[b"\x10\x10\x10\x11"]), (b"\x10".to_vec(), true));
        assert_eq!(typed(&[b"\x10\x11\x10"]), (b"\x10\x11".to_vec(), false), "the last one waits");
    }
}

//! What a registry answers to a stranger: `WWW-Authenticate`, by RFC 9110 as far as registries use it.

/// A way to become known.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Challenge {
    /// `basic`, `bearer`: in small letters.
    pub(super) scheme: String,
    parameters: Vec<(String, String)>,
}

impl Challenge {
    /// A parameter, by its name in small letters.
    pub(super) fn parameter(&self, name: &str) -> Option<&str> {
        self.parameters.iter().find(|(key, _)| key == name).map(|(_, value)| value.as_str())
    }
}

/// The challenges of one header. What is malformed ends the list; nothing of it is guessed.
pub(super) fn parse(header: &str) -> Vec<Challenge> {
    let mut challenges: Vec<Challenge> = Vec::new();
    let mut rest = header;
    loop {
        rest = rest.trim_start_matches([' ', '\t', ',']);
        let (word, after) = word(rest);
        if word.is_empty() {
            return challenges;
        }
        if let Some((value, after)) = after.trim_start().strip_prefix('=').and_then(|after| value(after.trim_start())) {
            let Some(challenge) = challenges.last_mut() else { return challenges };
            challenge.parameters.push((word.to_ascii_lowercase(), value));
            rest = after;
        } else if after.is_empty() || after.starts_with([' ', '\t', ',']) {
            challenges.push(Challenge { scheme: word.to_ascii_lowercase(), parameters: Vec::new() });
            rest = after;
        } else {
            return challenges;
        }
    }
}

/// A token at the beginning, and what follows.
fn word(text: &str) -> (&str, &str) {
    let is_token = |byte: u8| byte.is_ascii_alphanumeric() || b"!#$%&'*+-.^_`|~".contains(&byte);
    let end = text.bytes().position(|byte| !is_token(byte)).unwrap_or(text.len());
    text.split_at(end)
}

/// A token or a quoted string at the beginning, and what follows.
fn value(text: &str) -> Option<(String, &str)> {
    let Some(quoted) = text.strip_prefix('"') else {
        let (word, rest) = word(text);
        return (!word.is_empty()).then(|| (word.to_owned(), rest));
    };
    let mut value = String::new();
    let mut letters = quoted.char_indices();
    while let Some((at, letter)) = letters.next() {
        match letter {
            '"' => return Some((value, &quoted[at + 1..])),
            '\\' => value.push(letters.next()?.1),
            _ => value.push(letter),
        }
    }
    None
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn what_registries_send_is_read() {
        let hub = r#"Bearer realm="https://auth.docker.io/token",service="registry.docker.io",scope="repository:a/b:pull,push""#;
        let [bearer] = &parse(hub)[..] else { panic!() };
        assert_eq!(bearer.scheme, "bearer");
        assert_eq!(bearer.parameter("realm"), Some("https://auth.docker.io/token"));
        assert_eq!(bearer.parameter("scope"), Some("repository:a/b:pull,push"));
        let two = parse(r#"BASIC Realm = "a \"b\"", charset=UTF-8, Bearer realm=x , error="invalid""#);
        let shown: Vec<_> = two.iter().map(|one| (one.scheme.as_str(), one.parameter("realm").unwrap())).collect();
        assert_eq!(shown, [("basic", "a \"b\""), ("bearer", "x")]);
        assert_eq!(parse("Negotiate").len(), 1);
        for bad in ["", ",", "=x", "realm=\"x\"", "Bearer realm=\"unfinished", "\"Bearer\""] {
            assert!(parse(bad).iter().all(|one| one.parameters.is_empty()), "{bad}");
        }
    }

    proptest! {
        #[test]
        fn arbitrary_headers_never_panic_and_end(header in "(Bearer|basic|realm|=|\"|\\\\|,| |x|é|\\PC){0,40}") {
            prop_assert!(parse(&header).len() <= header.len());
        }

        #[test]
        fn what_is_quoted_reads_back(value in "[ -~]{0,40}") {
            let quoted = value.replace('\\', "\\\\").replace('"', "\\\"");
            let challenges = parse(&format!("Bearer realm=\"{quoted}\", service=s"));
            prop_assert_eq!(challenges[0].parameter("realm"), Some(value.as_str()));
            prop_assert_eq!(challenges[0].parameter("service"), Some("s"));
        }
    }
}

//! The report for machines: JUnit's XML.

use crate::report::Outcome;

/// The whole document.
pub(crate) fn render(outcomes: &[Outcome]) -> String {
    let failures = outcomes.iter().filter(|outcome| outcome.failure.is_some()).count();
    let time: f64 = outcomes.iter().map(|outcome| outcome.took.as_secs_f64()).sum();
    let mut text = String::from("<?xml version=\"1.0\" encoding=\"UTF-8\"?>\n");
    text.push_str(&format!(
        "<testsuites><testsuite name=\"e2e\" tests=\"{}\" failures=\"{failures}\" errors=\"0\" time=\"{time:.3}\">\n",
        outcomes.len()
    ));
    for outcome in outcomes {
        let (suite, name) = outcome.name.split_once('.').unwrap_or(("e2e", &outcome.name));
        text.push_str(&format!(
            "  <testcase classname=\"{}\" name=\"{}\" time=\"{:.3}\"",
            escaped(suite),
            escaped(name),
            outcome.took.as_secs_f64()
        ));
        match &outcome.failure {
            None => text.push_str("/>\n"),
            Some(why) => {
                let first = escaped(why.lines().next().unwrap_or_default());
                text.push_str(&format!("><failure message=\"{first}\">{}</failure></testcase>\n", escaped(why)));
            }
        }
    }
    text.push_str("</testsuite></testsuites>\n");
    text
}

/// Text inside XML; what XML cannot carry at all becomes a replacement character.
fn escaped(text: &str) -> String {
    text.chars()
        .map(|char| match char {
            '&' => "&amp;".to_owned(),
            '<' => "&lt;".to_owned(),
            '>' => "&gt;".to_owned(),
            '"' => "&quot;".to_owned(),
            '\n' | '\t' => char.to_string(),
            char if char.is_control() || ('\u{fffe}'..='\u{ffff}').contains(&char) => '\u{fffd}'.to_string(),
            char => char.to_string(),
        })
        .collect()
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::*;

    #[test]
    fn a_failure_carries_its_text_whole() {
        let outcome = |name: &str, failure: Option<&str>| Outcome {
            name: name.to_owned(),
            took: Duration::from_millis(1500),
            failure: failure.map(str::to_owned),
        };
        let text = render(&[outcome("vm.run", None), outcome("vm.stop", Some("\"a\" < b & c\n\u{1b}[0m"))]);
        let expected = "<?xml version=\"1.0\" encoding=\"UTF-8\"?>\n\
            <testsuites><testsuite name=\"e2e\" tests=\"2\" failures=\"1\" errors=\"0\" time=\"3.000\">\n  \
            <testcase classname=\"vm\" name=\"run\" time=\"1.500\"/>\n  \
            <testcase classname=\"vm\" name=\"stop\" time=\"1.500\">\
            <failure message=\"&quot;a&quot; &lt; b &amp; c\">&quot;a&quot; &lt; b &amp; c\n\u{fffd}[0m</failure></testcase>\n\
            </testsuite></testsuites>\n";
        assert_eq!(text, expected);
    }
}

//! A small patch of files that git knows already.
//!
//! Most of the time that git needs for a patch goes into an index of its own, which new files must be named in. Where there
//! are none, git compares the work tree itself, and its list of differences names no objects of changed files then. The
//! patch does, and the list is completed from it, so that its fingerprint is what it is with an index. The whole answer is
//! held until it is known that nothing is missing; one that is large is asked for in the other way.

use bytes::Bytes;

use super::ExchangeError;
use super::export::{Listed, PATCH};
use super::look::Print;
use super::raw::Record;
use super::script::{Answer, Header, Question, Verb};
use crate::guest::Guest;

/// Bytes of an answer that are held.
const BYTES_MAX: usize = 4 << 20;

/// A patch that is whole.
#[derive(Debug)]
pub(super) struct Tracked {
    pub(super) header: Header,
    pub(super) listed: Listed,
    pub(super) patch: Bytes,
}

/// Asks for the patch that `question` is about; none when that needs an index, is large, or did not come as it should.
pub(super) async fn ask(guest: &Guest, question: &Question<'_>) -> Result<Option<Tracked>, ExchangeError> {
    if question.base.is_some() || question.keeps_missing {
        return Ok(None);
    }
    let answer = Answer::begin(guest, &Question { verb: Verb::Tracked, ..*question }).await?;
    let Some((header, rest)) = answer.rest(BYTES_MAX).await? else { return Ok(None) };
    let Some((lines, patch)) = read(&rest) else { return Ok(None) };
    let mut print = Print::of("", header.head.as_ref());
    lines.iter().for_each(|line| print.add(line));
    let listed = Listed { files: lines.len() as u64, strays: 0, has_moved_link: false, print: print.finish() };
    Ok(Some(Tracked { header, listed, patch: rest.slice(rest.len() - patch.len()..) }))
}

/// The list, completed, and the patch behind it; none when either is not as simple as it is thought here.
fn read(answer: &[u8]) -> Option<(Vec<Vec<u8>>, &[u8])> {
    let mut lines = Vec::new();
    let mut rest = answer;
    while let Some((line, behind)) = split_line(rest) {
        rest = behind;
        if line.is_empty() {
            break;
        }
        lines.push(line);
    }
    let sections = sections(rest)?;
    if sections.len() != lines.len() {
        return None;
    }
    let completed = lines.iter().zip(sections).map(|(line, section)| completed(line, section));
    Some((completed.collect::<Option<_>>()?, rest))
}

/// What a patch says of each file. No line of content begins as a file does: those have a sign before them, and what
/// stands for binary content has no space.
fn sections(patch: &[u8]) -> Option<Vec<&[u8]>> {
    if patch.is_empty() {
        return Some(Vec::new());
    }
    let mut begins: Vec<usize> = memchr::memmem::find_iter(patch, PATCH).collect();
    begins.retain(|at| *at == 0 || patch[at - 1] == b'\n');
    let ends = begins.iter().skip(1).copied().chain([patch.len()]);
    let sections = begins.iter().zip(ends).map(|(begin, end)| &patch[*begin..end]).collect();
    (begins.first() == Some(&0)).then_some(sections)
}

/// A line of the list, with the object that the patch names.
fn completed(line: &[u8], section: &[u8]) -> Option<Vec<u8>> {
    let record = Record::parse(line)?;
    let tab = memchr::memchr(b'\t', line)?;
    let words: Vec<&[u8]> = line[..tab].split(|byte| *byte == b' ').collect();
    let [was, mode, old, new, status] = words[..] else { return None };
    let is_gitlink = record.is_gitlink() || was == b":160000";
    if is_gitlink || !matches!(status, b"M" | b"A" | b"D") {
        return None;
    }
    let is_named = new.iter().any(|digit| *digit != b'0');
    if is_named || status == b"D" {
        return Some(line.to_vec());
    }
    let new = match objects(section) {
        Some((before, after)) if before == old && after.len() == old.len() => after,
        // Its mode alone is another.
        None if status == b"M" => old,
        _ => return None,
    };
    Some([&[was, mode, old, new, status].join(&b' ')[..], &line[tab..]].concat())
}

/// The objects that a file was and is, as the head of its part of the patch has them; none where the content is the same.
fn objects(section: &[u8]) -> Option<(&[u8], &[u8])> {
    let mut rest = section;
    while let Some((line, behind)) = split_line(rest) {
        rest = behind;
        if let Some(objects) = line.strip_prefix(b"index ") {
            let objects = objects.split(|byte| *byte == b' ').next()?;
            let at = memchr::memmem::find(objects, b"..")?;
            return Some((&objects[..at], &objects[at + 2..]));
        }
        if [&b"--- "[..], b"@@ ", b"GIT binary patch"].iter().any(|content| line.starts_with(content)) {
            return None;
        }
    }
    None
}

fn split_line(text: &[u8]) -> Option<(&[u8], &[u8])> {
    let at = memchr::memchr(b'\n', text)?;
    Some((&text[..at], &text[at + 1..]))
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn id(digit: char) -> String {
        digit.to_string().repeat(40)
    }

    fn line(modes: &str, old: char, new: char, rest: &str) -> String {
        format!(":{modes} {} {} {rest}\n", id(old), id(new))
    }

    fn text(answer: &str) -> Option<Vec<String>> {
        let (lines, _patch) = read(answer.as_bytes())?;
        Some(lines.into_iter().map(|line| format!("{}\n", String::from_utf8(line).unwrap())).collect())
    }

    #[test]
    fn what_the_list_leaves_out_is_taken_from_the_patch() {
        let listed = [
            line("100644 100644", 'a', '0', "M\tchanged"),
            line("100644 100755", 'b', '0', "M\tmode"),
            line("100644 000000", 'c', '0', "D\tgone"),
            line("000000 100644", '0', '0', "A\tnamed in the index, and changed"),
            line("100644 100644", 'd', 'e', "M\tas in the index"),
        ];
        let patch = [
            format!(
                "diff --git a/changed b/changed\nindex {}..{} 100644\n--- a/changed\n+++ b/changed\n",
                id('a'),
                id('f')
            ),
            // Content that looks like more than it is.
            "@@ -1 +1,2 @@\n diff --git a/x b/x\n+index 1..2\n".to_owned(),
            "diff --git a/mode b/mode\nold mode 100644\nnew mode 100755\n".to_owned(),
            format!("diff --git a/gone b/gone\ndeleted file mode 100644\nindex {}..{}\n", id('c'), id('0')),
            format!("diff --git a/n b/n\nnew file mode 100644\nindex {}..{}\nGIT binary patch\n", id('0'), id('9')),
            format!("diff --git a/as b/as\nindex {}..{} 100644\n--- a/as\n+++ b/as\n", id('d'), id('e')),
        ];
        let completed = text(&format!("{}\n{}", listed.concat(), patch.concat())).unwrap();
        let expected = [
            line("100644 100644", 'a', 'f', "M\tchanged"),
            line("100644 100755", 'b', 'b', "M\tmode"),
            listed[2].clone(),
            line("000000 100644", '0', '9', "A\tnamed in the index, and changed"),
            listed[4].clone(),
        ];
        assert_eq!(completed, expected);
        assert_eq!(text(""), Some(Vec::new()), "nothing differs");
    }

    #[test]
    fn what_is_not_simple_is_left_to_the_other_way() {
        let section = format!("diff --git a/a b/a\nindex {}..{} 100644\n", id('a'), id('b'));
        let with = |line: String| text(&format!("{line}\n{section}"));
        assert!(with(line("100644 100644", 'a', '0', "M\ta")).is_some());
        for odd in [
            line("100644 120000", 'a', '0', "T\ta"),
            line("100644 100644", 'a', '0', "U\ta"),
            line("100644 100644", 'a', '0', "R100\ta\tb"),
            line("160000 160000", 'a', '0', "M\ta"),
            line("160000 000000", 'a', '0', "D\ta"),
            line("100644 100644", 'c', '0', "M\tanother than the patch is about"),
            line("100644 100644", 'a', '0', "M\ta").repeat(2),
            "something\n".to_owned(),
            String::new(),
        ] {
            assert_eq!(with(odd.clone()), None, "{odd}");
        }
    }

    proptest! {
        #[test]
        fn anything_is_read(answer in prop::collection::vec(any::<u8>(), 0..300)) {
            read(&answer);
            read(&[format!("{}\ndiff --git a/a b/a\n", line("100644 100644", 'a', '0', "M\ta")).as_bytes(), &answer].concat());
        }
    }
}

//! `--filter`: which scenarios run.

use crate::scenario::Scenario;

/// The scenarios that a word of `filter` names, in the order of the list; all of them without a filter.
///
/// # Errors
/// A word that names none is a mistake, said with the word.
pub(crate) fn select(all: &'static [Scenario], filter: &[String]) -> Result<Vec<&'static Scenario>, String> {
    let words: Vec<&str> = filter.iter().map(|word| word.trim()).filter(|word| !word.is_empty()).collect();
    if let Some(lost) = words.iter().find(|word| !all.iter().any(|scenario| is_named(scenario, word))) {
        return Err(format!("no scenario is called {lost:?} or tagged so; --list shows them"));
    }
    let is_chosen = |scenario: &&Scenario| words.is_empty() || words.iter().any(|word| is_named(scenario, word));
    Ok(all.iter().filter(is_chosen).collect())
}

fn is_named(scenario: &Scenario, word: &str) -> bool {
    scenario.name.contains(word) || scenario.tags.contains(&word)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::scenario::Class;

    const fn scenario(name: &'static str, tags: &'static [&'static str]) -> Scenario {
        Scenario { name, about: "", tags, class: Class::Parallel(|| Ok(())) }
    }

    static ALL: &[Scenario] =
        &[scenario("vm.run", &["smoke"]), scenario("vm.stop", &[]), scenario("jail.uid", &["smoke"])];

    fn names(filter: &[&str]) -> Result<Vec<&'static str>, String> {
        let filter: Vec<String> = filter.iter().map(|&word| word.to_owned()).collect();
        Ok(select(ALL, &filter)?.iter().map(|scenario| scenario.name).collect())
    }

    #[test]
    fn words_choose_by_name_and_by_tag_in_the_lists_order() {
        assert_eq!(names(&[]).unwrap(), ["vm.run", "vm.stop", "jail.uid"]);
        assert_eq!(names(&["vm."]).unwrap(), ["vm.run", "vm.stop"]);
        assert_eq!(names(&["smoke"]).unwrap(), ["vm.run", "jail.uid"]);
        assert_eq!(names(&["jail", "stop", ""]).unwrap(), ["vm.stop", "jail.uid"]);
    }

    #[test]
    fn a_word_that_names_nothing_is_a_mistake() {
        assert!(names(&["vm", "vn"]).unwrap_err().contains("\"vn\""));
    }

    #[test]
    fn names_are_unique_and_described() {
        for (at, scenario) in crate::suites::ALL.iter().enumerate() {
            assert!(crate::suites::ALL[..at].iter().all(|other| other.name != scenario.name), "{}", scenario.name);
            assert!(scenario.name.contains('.'), "{}: suite.name", scenario.name);
            assert!(!scenario.about.is_empty() && !scenario.about.contains('\n'), "{}", scenario.name);
        }
        assert!(!select(crate::suites::ALL, &["smoke".to_owned()]).unwrap().is_empty());
    }
}

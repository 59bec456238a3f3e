//! Names for VMs whose owner gave none: `calm-otter`. Pure: the caller supplies the randomness.

use wire::naming::{VM_NAME_LEN_MAX, VmName};

const ADJECTIVES: [&str; 64] = [
    "able", "agile", "amber", "ample", "azure", "bold", "brave", "breezy", "brief", "bright", "brisk", "calm",
    "candid", "cheery", "civil", "clear", "clever", "cosmic", "cozy", "crisp", "dapper", "deft", "eager", "early",
    "easy", "fair", "fancy", "fleet", "fond", "frank", "fresh", "gentle", "glad", "golden", "grand", "green", "happy",
    "hardy", "humble", "jolly", "keen", "kind", "lively", "loyal", "lucky", "mellow", "merry", "modest", "neat",
    "nimble", "noble", "patient", "placid", "plucky", "polite", "proud", "quick", "quiet", "rapid", "ready", "serene",
    "sunny", "swift", "witty",
];

const NOUNS: [&str; 64] = [
    "acorn", "alder", "aspen", "badger", "beaver", "birch", "bison", "brook", "cedar", "clover", "comet", "condor",
    "coral", "crane", "curlew", "dolphin", "dune", "ember", "falcon", "fern", "finch", "fjord", "fox", "gecko",
    "glacier", "grove", "harbor", "hare", "hazel", "heron", "ibis", "island", "juniper", "kestrel", "lagoon", "lark",
    "lemur", "linden", "lynx", "maple", "marten", "meadow", "moose", "newt", "oak", "orca", "osprey", "otter", "owl",
    "panda", "pebble", "pine", "puffin", "quail", "raven", "robin", "salmon", "seal", "sparrow", "summit", "tern",
    "thistle", "walrus", "wren",
];

/// The name that `seed` stands for; `is_taken` says which are in use. After a few tries a number is added.
///
/// # Panics
/// Never: every name made here is a VM name.
pub fn generate(seed: u64, is_taken: impl Fn(&VmName) -> bool) -> VmName {
    for attempt in 0..10_000_u64 {
        // splitmix64's increment: visits far-apart seeds, the same ones for the same start.
        let mixed = mix(seed.wrapping_add(attempt.wrapping_mul(0x9e37_79b9_7f4a_7c15)));
        let pick = |shift: u32| usize::try_from((mixed >> shift) & 63).unwrap_or(0);
        let (adjective, noun) = (ADJECTIVES[pick(0)], NOUNS[pick(6)]);
        let text = if attempt < 16 {
            format!("{adjective}-{noun}")
        } else {
            format!("{adjective}-{noun}-{}", (mixed >> 12) % (attempt * 16))
        };
        let name: VmName = text.parse().expect("the words are lower-case letters");
        if !is_taken(&name) {
            return name;
        }
    }
    format!("vm-{seed:016x}").parse().expect("hexadecimal digits are allowed in names")
}

/// `base` with a number, cut where that would be no name.
///
/// # Panics
/// Never: what is cut off a VM name leaves a VM name.
#[must_use]
pub fn numbered(base: &VmName, number: usize) -> VmName {
    let tail = format!("-{number}");
    let head: String = base.as_str().chars().take(VM_NAME_LEN_MAX - tail.len()).collect();
    format!("{}{tail}", head.trim_end_matches('-')).parse().expect("letters and digits, then a number")
}

/// The finalizer of splitmix64.
fn mix(mut z: u64) -> u64 {
    z = (z ^ (z >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
    z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
    z ^ (z >> 31)
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::collections::HashSet;

    #[test]
    fn a_seed_is_a_name() {
        assert_eq!(generate(7, |_| false), generate(7, |_| false));
        assert_ne!(generate(7, |_| false), generate(8, |_| false));
    }

    #[test]
    fn taken_names_are_stepped_over() {
        let mut taken = HashSet::new();
        for _ in 0..500 {
            let name = generate(7, |name| taken.contains(name));
            assert!(taken.insert(name));
        }
        assert_eq!(generate(7, |_| true).as_str(), "vm-0000000000000007");
    }

    #[test]
    fn every_word_is_used_once_in_its_list() {
        assert_eq!(ADJECTIVES.iter().collect::<HashSet<_>>().len(), 64);
        assert_eq!(NOUNS.iter().collect::<HashSet<_>>().len(), 64);
    }
}

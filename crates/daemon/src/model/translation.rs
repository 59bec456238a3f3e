//! Whether QEMU may translate for a guest's processors side by side: pure.
//!
//! Linux changes its own code while it runs: a breakpoint stands in place of an instruction until every processor knows
//! of the change (`text_poke_bp` in arch/x86/kernel/alternative.c). Before 8.2, a QEMU thread that translates such a place
//! may miss that another one has put the instruction there meanwhile; the breakpoint then stays for every processor of
//! that guest, which run into it for ever ("soft lockup"). It takes a host that is busy, and more than one thread. Since
//! then QEMU locks the pages that it translates ("accel/tcg: Always lock pages before translation").

/// The first minor version that locks what it translates.
const LOCKS_SINCE: (u32, u32) = (8, 2);

/// Whether it does, by what `--version` says: `QEMU emulator version 7.2.22 (Debian ...)`.
#[must_use]
pub fn locks_pages(version: &str) -> bool {
    let Some(numbers) = version.trim_start().strip_prefix("QEMU emulator version ") else {
        return false;
    };
    let mut numbers = numbers.split(|c: char| !c.is_ascii_digit()).map(|number| number.parse().unwrap_or(0));
    (numbers.next().unwrap_or(0), numbers.next().unwrap_or(0)) >= LOCKS_SINCE
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn old_and_unknown_ones_do_not() {
        for (version, locks) in [
            ("QEMU emulator version 7.2.22 (Debian 1:7.2+dfsg-7+deb12u18+b2)\nCopyright", false),
            ("QEMU emulator version 8.1.5", false),
            ("QEMU emulator version 8.2.2 (Debian 1:8.2.2+ds-0ubuntu1.4)", true),
            ("QEMU emulator version 10.0.2", true),
            ("QEMU emulator version 9", true),
            ("QEMU emulator version v9", false),
            ("something else 10.0", false),
            ("", false),
        ] {
            assert_eq!(locks_pages(version), locks, "{version}");
        }
    }
}

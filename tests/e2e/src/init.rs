//! The smallest guest there can be: its init says a line on the console, or none, and reboots.

/// What it says where that is looked for.
pub(crate) const SAYS: &str = "e2e: the guest's first instruction\n";

/// Where the program is loaded, and where in its file the code begins: after the two headers.
const BASE: u64 = 0x40_0000;
const CODE_OFFSET: u64 = 64 + 56;

/// A static ELF program for `x86_64`: write(1, says), reboot(RESTART). The kernel's own initramfs has `/dev/console` already.
pub(crate) fn program(says: &str) -> Vec<u8> {
    let mut code = Vec::new();
    let says_length = u32::try_from(says.len()).unwrap_or(0).to_le_bytes();
    code.extend_from_slice(b"\xb8\x01\x00\x00\x00\xbf\x01\x00\x00\x00"); // mov eax, SYS_write; mov edi, 1
    code.extend_from_slice(b"\x48\x8d\x35\x20\x00\x00\x00"); // lea rsi, [rip + 32]: what follows the code
    code.push(0xba); // mov edx, length
    code.extend_from_slice(&says_length);
    code.extend_from_slice(b"\x0f\x05"); // syscall
    code.extend_from_slice(b"\xb8\xa9\x00\x00\x00\xbf\xad\xde\xe1\xfe"); // mov eax, SYS_reboot; mov edi, MAGIC1
    code.extend_from_slice(b"\xbe\x69\x19\x12\x28\xba\x67\x45\x23\x01"); // mov esi, MAGIC2; mov edx, CMD_RESTART
    code.extend_from_slice(b"\x0f\x05\xeb\xfe\x90"); // syscall; jmp here; nop
    code.extend_from_slice(says.as_bytes());

    let file_size = CODE_OFFSET + code.len() as u64;
    let mut elf = b"\x7fELF\x02\x01\x01\x00\x00\x00\x00\x00\x00\x00\x00\x00".to_vec();
    let mut put = |bytes: &[u8]| elf.extend_from_slice(bytes);
    put(&[2, 0, 62, 0, 1, 0, 0, 0]); // an executable, x86_64, version 1
    for word in [BASE + CODE_OFFSET, 64, 0] {
        put(&word.to_le_bytes()); // entry, program headers, section headers
    }
    put(&[0, 0, 0, 0, 64, 0, 56, 0, 1, 0, 0, 0, 0, 0, 0, 0]); // flags; sizes and counts of headers
    put(&[1, 0, 0, 0, 5, 0, 0, 0]); // a segment to load, readable and executable
    for word in [0, BASE, BASE, file_size, file_size, 0x1000] {
        put(&word.to_le_bytes());
    }
    elf.extend_from_slice(&code);
    elf
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_program_says_its_line_here_too_up_to_the_reboot() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("init");
        // Only up to the write: the jump to itself takes the place of the reboot.
        let mut program = program(SAYS);
        let reboot = program.windows(5).position(|bytes| bytes == b"\xb8\xa9\x00\x00\x00").unwrap();
        program[reboot..reboot + 2].copy_from_slice(b"\xeb\xfe");
        std::fs::write(&path, program).unwrap();
        std::fs::set_permissions(&path, std::os::unix::fs::PermissionsExt::from_mode(0o755)).unwrap();
        let mut child = std::process::Command::new(&path).stdout(std::process::Stdio::piped()).spawn().unwrap();
        let mut said = vec![0; SAYS.len()];
        std::io::Read::read_exact(child.stdout.as_mut().unwrap(), &mut said).unwrap();
        child.kill().unwrap();
        child.wait().unwrap();
        assert_eq!(String::from_utf8(said).unwrap(), SAYS);
    }
}

//! The machine that a test host is: QEMU's arguments, as a pure function.

use std::path::PathBuf;

/// Everything that QEMU is told.
pub(super) struct Machine {
    /// Whether the processor of this machine virtualises; the test host's is emulated otherwise.
    pub(super) is_accelerated: bool,
    pub(super) cpus: u32,
    pub(super) memory_mib: u32,
    /// The directory of the image: kernel, initramfs and disk.
    pub(super) image: PathBuf,
    /// What guests inside boot from.
    pub(super) parts: Option<PathBuf>,
    /// A file that the host outside writes to while the machine runs.
    pub(super) mailbox: PathBuf,
    pub(super) console: PathBuf,
    /// A port on the loopback address that leads to the machine's sshd.
    pub(super) ssh_port: u16,
    /// The frequency of the time stamp counter, where it could be measured: under load an emulated kernel fails to.
    pub(super) tsc_khz: Option<u64>,
}

impl Machine {
    /// The arguments. Everything written to the disks goes to a file without a name, which ends with QEMU.
    pub(super) fn arguments(&self) -> Vec<String> {
        let image = self.image.display();
        let mut arguments = words("-nodefaults -no-user-config -display none -no-reboot -M q35");
        // A processor with AMD's virtualisation is the one kind QEMU can emulate whole.
        let (accelerator, processor) = match self.is_accelerated {
            true => ("kvm", "host"),
            false => ("tcg,thread=multi,tb-size=512", "EPYC,+svm,+npt"),
        };
        arguments.extend(words(&format!("-accel {accelerator} -cpu {processor}")));
        arguments.extend(words(&format!("-smp {} -m {}", self.cpus, self.memory_mib)));
        arguments.extend(words("-object rng-random,id=rng,filename=/dev/urandom -device virtio-rng-pci,rng=rng"));
        pair(&mut arguments, "-kernel", format!("{image}/vmlinuz"));
        pair(&mut arguments, "-initrd", format!("{image}/initrd"));
        pair(&mut arguments, "-append", self.command_line());
        pair(&mut arguments, "-serial", format!("file:{}", escaped(&self.console.display().to_string())));
        self.disk(&mut arguments, "root", &format!("{image}/disk.ext4"), "snapshot=on,cache=unsafe");
        if let Some(parts) = &self.parts {
            self.disk(&mut arguments, "parts", &parts.display().to_string(), "readonly=on");
        }
        self.disk(&mut arguments, "mailbox", &self.mailbox.display().to_string(), "readonly=on");
        // The network leads nowhere: neither to this machine's loopback address nor out of it.
        let forward = format!("hostfwd=tcp:127.0.0.1:{}-:22", self.ssh_port);
        pair(&mut arguments, "-netdev", format!("user,id=net,restrict=on,ipv6=off,{forward}"));
        pair(&mut arguments, "-device", "virtio-net-pci,netdev=net,romfile=".to_owned());
        arguments
    }

    fn disk(&self, arguments: &mut Vec<String>, name: &str, file: &str, options: &str) {
        let file = escaped(file);
        pair(arguments, "-drive", format!("if=none,id={name},format=raw,discard=unmap,file={file},{options}"));
        pair(arguments, "-device", format!("virtio-blk-pci,drive={name},serial={name}"));
    }

    fn command_line(&self) -> String {
        // Each character on the serial line costs an exit: quiet until something is wrong. A host whose kernel has lost a
        // thread says nothing about the guest any more that it was: it ends.
        let words =
            ["root=/dev/vda rw fsck.mode=skip console=ttyS0 quiet systemd.show_status=no", "panic=-1 oops=panic"];
        let mut line = words.join(" ");
        if let (false, Some(khz)) = (self.is_accelerated, self.tsc_khz) {
            line.push_str(&format!(" tsc=reliable tsc_early_khz={khz}"));
        }
        line
    }
}

fn words(text: &str) -> Vec<String> {
    text.split_whitespace().map(str::to_owned).collect()
}

fn pair(arguments: &mut Vec<String>, option: &str, value: String) {
    arguments.push(option.to_owned());
    arguments.push(value);
}

/// A path as the value of one of QEMU's comma-separated options.
fn escaped(path: &str) -> String {
    path.replace(',', ",,")
}

#[cfg(test)]
mod tests {
    use super::*;

    fn machine() -> Machine {
        Machine {
            is_accelerated: false,
            cpus: 2,
            memory_mib: 4096,
            image: "/c/image-1".into(),
            parts: Some("/c/parts,1.ext4".into()),
            mailbox: "/c/hosts/a/mailbox".into(),
            console: "/c/hosts/a/console.log".into(),
            ssh_port: 2222,
            tsc_khz: Some(2_000_000),
        }
    }

    #[test]
    fn an_emulated_machine_has_amd_virtualisation_and_a_given_clock() {
        let said = machine().arguments().join(" ");
        for part in [
            "-accel tcg,thread=multi,tb-size=512 -cpu EPYC,+svm,+npt -smp 2 -m 4096",
            "-kernel /c/image-1/vmlinuz -initrd /c/image-1/initrd",
            "panic=-1 oops=panic tsc=reliable tsc_early_khz=2000000",
            "file=/c/image-1/disk.ext4,snapshot=on,cache=unsafe",
            "file=/c/parts,,1.ext4,readonly=on",
            "hostfwd=tcp:127.0.0.1:2222-:22",
            "restrict=on",
        ] {
            assert!(said.contains(part), "{part} in {said}");
        }
        assert_eq!(said.matches("snapshot=on").count(), 1, "only the root is written to");
    }

    #[test]
    fn hardware_is_used_where_it_is() {
        let mut machine = machine();
        machine.is_accelerated = true;
        machine.parts = None;
        let said = machine.arguments().join(" ");
        assert!(said.contains("-accel kvm -cpu host"), "{said}");
        assert!(!said.contains("tsc=") && !said.contains("drive=parts"), "{said}");
    }
}

//! The floor: the product's own VMM command line, kernel and drives, with an init that does next to nothing.
//!
//! The command line is read from a running VM, so that it is the product's and not a copy of it. Only the initramfs
//! differs (the product's, with another `/init` laid over it as a second archive), the sockets, and the VM's disk.

use std::path::PathBuf;
use std::process::Command;

use anyhow::{Context, Result};

use super::host::{Host, compile};

/// A floor guest, ready to be run any number of times.
pub(super) struct Floor {
    argv: Vec<String>,
    dir: PathBuf,
}

impl Floor {
    /// Reads the command line of the VM `name`, which runs.
    pub(super) fn of(host: &Host, name: &str) -> Result<Floor> {
        let vm = host.show(name)?;
        let pid = vm["boot"]["pid"].as_u64().context("the VM runs")?;
        let id = vm["id"].as_str().context("a VM has an id")?;
        let line = std::fs::read(format!("/proc/{pid}/cmdline"))?;
        let argv: Vec<String> = line
            .split(|b| *b == 0)
            .filter(|a| !a.is_empty())
            .map(|a| String::from_utf8_lossy(a).into_owned())
            .collect();
        let dir = host.home.join("floor");
        std::fs::create_dir_all(&dir)?;
        let initramfs = value_of(&argv, "-initrd")?;
        let init = std::fs::read(compile("floor_init.c")?)?;
        std::fs::write(dir.join("initramfs"), figures::lay_over(&std::fs::read(&initramfs)?, &init))?;
        let disk = host.home.join("state/vms").join(id).join("disk.ext4");
        let own_disk = dir.join("disk.ext4");
        super::host::output(Command::new("cp").arg("--sparse=always").arg(&disk).arg(&own_disk))?;
        let boot = vm["boot"]["id"].as_str().context("a boot has an id")?;
        let boot_dir = host.home.join("run/boots").join(boot);
        let swap = |argument: &String| {
            argument
                .replace(&initramfs, &dir.join("initramfs").display().to_string())
                .replace(&disk.display().to_string(), &own_disk.display().to_string())
                .replace(&boot_dir.display().to_string(), &dir.display().to_string())
                .replace(
                    &host.home.join("state/vms").join(id).join("logs").display().to_string(),
                    &dir.display().to_string(),
                )
        };
        Ok(Floor { argv: argv.iter().map(swap).collect(), dir })
    }

    /// The command that runs it, with `floor` on the kernel command line.
    pub(super) fn command(&self, floor: &str) -> Result<Command> {
        let mut argv = self.argv.clone();
        let at = argv.iter().position(|a| a == "-append").context("the VMM is given a kernel command line")? + 1;
        argv[at] = format!("{} floor={floor}", argv[at]);
        let mut command = Command::new(&argv[0]);
        command.args(&argv[1..]);
        Ok(command)
    }

    /// As [`Floor::command`], with one more virtio-serial port, called `floor`, at the Unix socket that is given back.
    pub(super) fn with_port(&self, floor: &str) -> Result<(Command, PathBuf)> {
        let socket = self.dir.join("floor.sock");
        // The product's controller has room for its one port (and port 0, which is for consoles).
        let roomy = |argument: &String| argument.replace("max_ports=2", "max_ports=3");
        let floor_guest = Floor { argv: self.argv.iter().map(roomy).collect(), dir: self.dir.clone() };
        let mut command = floor_guest.command(floor)?;
        command.args(["-chardev", &format!("socket,id=floor,path={},server=on,wait=off", socket.display())]);
        command.args(["-device", "virtserialport,chardev=floor,name=floor"]);
        Ok((command, socket))
    }
}

fn value_of(argv: &[String], option: &str) -> Result<String> {
    let at = argv.iter().position(|a| a == option).with_context(|| format!("the VMM is given {option}"))?;
    argv.get(at + 1).cloned().with_context(|| format!("{option} has a value"))
}

//! `bangerd` as a process: who may be the daemon, and what it refuses to begin with.

use std::io::{Read, Write};
use std::os::unix::net::UnixStream;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Output, Stdio};

use crate::again;
use crate::fake::SOON;

/// A `BANGER_HOME` of one test.
struct Home(tempfile::TempDir);

impl Home {
    fn new() -> Home {
        Home::on(Path::new("/tmp"))
    }

    fn on(base: &Path) -> Home {
        // A Unix socket's address is short.
        Home(tempfile::Builder::new().prefix("bp").tempdir_in(base).unwrap())
    }

    fn state(&self) -> PathBuf {
        self.0.path().join("state")
    }

    fn socket(&self) -> PathBuf {
        self.0.path().join("run/bangerd.sock")
    }

    fn command(&self, arguments: &[&str]) -> Command {
        let mut command = Command::new(env!("CARGO_BIN_EXE_bangerd"));
        command
            .args(arguments)
            .env_clear()
            .env("PATH", std::env::var_os("PATH").unwrap_or_default())
            .env("HOME", self.0.path())
            .env("BANGER_HOME", self.0.path())
            .stdin(Stdio::null())
            .stdout(Stdio::piped())
            .stderr(Stdio::piped());
        command
    }

    /// Runs a daemon that is to end by itself.
    #[track_caller]
    fn refused(&self) -> String {
        let output = self.command(&[]).output().unwrap();
        let said = String::from_utf8(output.stderr).unwrap();
        assert_eq!(output.status.code(), Some(1), "{said}");
        assert!(!said.contains("os error") && !said.contains("panicked"), "{said}");
        said
    }

    /// What `bangerd --check-migrations` says, and its status.
    fn checked(&self) -> (i32, String) {
        let output = self.command(&["--check-migrations"]).output().unwrap();
        let Output { status, stdout, stderr } = output;
        (status.code().unwrap(), String::from_utf8([stdout, stderr].concat()).unwrap())
    }

    /// Puts the database of another banger there: the one of `schema`, or with that for its schema.
    fn put_database(&self, schema: u32) -> Vec<u8> {
        let mut bytes = match schema {
            2 => include_bytes!("schemas/schema-2.sqlite").to_vec(),
            3 => include_bytes!("schemas/schema-3.sqlite").to_vec(),
            _ => include_bytes!("schemas/schema-1.sqlite").to_vec(),
        };
        // Offset 60 of the header: PRAGMA user_version.
        bytes[60..64].copy_from_slice(&schema.to_be_bytes());
        std::fs::create_dir_all(self.state()).unwrap();
        std::fs::write(self.state().join("state.db"), &bytes).unwrap();
        bytes
    }
}

/// Waits for a daemon to answer, and gives the answer to `GET /v1/vms`.
fn answer(socket: &Path) -> String {
    let deadline = std::time::Instant::now() + SOON;
    let mut stream = loop {
        match UnixStream::connect(socket) {
            Ok(stream) => break stream,
            Err(error) => assert!(std::time::Instant::now() < deadline, "nobody listens: {error}"),
        }
        std::thread::yield_now();
    };
    stream.write_all(b"GET /v1/vms HTTP/1.1\r\nhost: x\r\nconnection: close\r\n\r\n").unwrap();
    let mut text = String::new();
    stream.read_to_string(&mut text).unwrap();
    text
}

fn end(child: &mut Child) {
    let pid = rustix::process::Pid::from_child(child);
    rustix::process::kill_process(pid, rustix::process::Signal::TERM).unwrap();
    assert!(child.wait().unwrap().success());
}

#[test]
fn of_twenty_at_once_one_wins_and_the_others_leave_quietly() {
    let home = Home::new();
    let mut daemons: Vec<Child> = (0..20).map(|_| home.command(&[]).spawn().unwrap()).collect();
    assert!(answer(&home.socket()).starts_with("HTTP/1.1 200"));
    let deadline = std::time::Instant::now() + SOON;
    while daemons.len() > 1 {
        assert!(std::time::Instant::now() < deadline, "{} daemons run", daemons.len());
        daemons.retain_mut(|daemon| match daemon.try_wait().unwrap() {
            Some(status) => {
                let mut said = String::new();
                daemon.stderr.take().unwrap().read_to_string(&mut said).unwrap();
                assert!(status.success() && said.is_empty(), "{status}: {said}");
                false
            }
            None => true,
        });
        std::thread::yield_now();
    }
    assert!(answer(&home.socket()).starts_with("HTTP/1.1 200"), "the winner goes on");
    end(&mut daemons[0]);
    assert!(!home.socket().exists());
}

#[test]
fn migrations_are_checked_without_a_change() {
    let home = Home::new();
    let (status, said) = home.checked();
    assert_eq!(status, 0, "{said}");
    assert!(said.contains("there is no "), "{said}");
    assert!(!home.state().exists());
    for (schema, status, says) in [
        (5, 0, "compatible"),
        (4, 1, "pending"),
        (3, 1, "pending"),
        (2, 1, "pending"),
        (1, 1, "pending"),
        (0, 1, "pending"),
        (99, 2, "newer"),
    ] {
        let before = home.put_database(schema);
        let (code, said) = home.checked();
        assert_eq!(code, status, "{said}");
        assert!(said.starts_with(says) && said.contains(&format!("schema {schema}")), "{said}");
        assert_eq!(std::fs::read(home.state().join("state.db")).unwrap(), before);
        assert_eq!(std::fs::read_dir(home.state()).unwrap().count(), 1, "no file beside it");
    }
    let refusal = home.refused();
    assert!(refusal.contains("is of schema 99, this banger knows up to ") && refusal.contains("hint: "), "{refusal}");
    std::fs::write(home.state().join("state.db"), "garbage".repeat(1000)).unwrap();
    let (code, said) = home.checked();
    assert_eq!(code, 3, "{said}");
    assert!(said.contains("is damaged"), "{said}");
    // Beside a daemon that has the file.
    std::fs::remove_file(home.state().join("state.db")).unwrap();
    let mut daemon = home.command(&[]).spawn().unwrap();
    answer(&home.socket());
    let (code, said) = home.checked();
    assert_eq!(code, 0, "{said}");
    end(&mut daemon);
    let (code, said) = home.checked();
    assert_eq!(code, 0, "with the log it leaves: {said}");
}

#[test]
fn damage_is_refused_with_what_to_do() {
    let home = Home::new();
    home.put_database(1);
    std::fs::write(home.state().join("state.db"), "garbage".repeat(1000)).unwrap();
    let refusal = home.refused();
    assert!(refusal.contains("is damaged") && refusal.contains("hint: "), "{refusal}");
    // A database that is gone does not take the disks with it.
    std::fs::remove_file(home.state().join("state.db")).unwrap();
    let disk = home.state().join("vms/0101010101010101/disk.ext4");
    std::fs::create_dir_all(disk.parent().unwrap()).unwrap();
    std::fs::write(&disk, b"disk").unwrap();
    for empty in [false, true] {
        if empty {
            std::fs::write(home.state().join("state.db"), b"").unwrap();
        }
        let refusal = home.refused();
        assert!(refusal.contains("is missing or empty, but") && refusal.contains("hint: "), "{refusal}");
        assert!(disk.exists());
    }
}

#[test]
fn a_directory_that_cannot_be_written_is_refused() {
    let Some(disk) = again::small_disk("process::a_directory_that_cannot_be_written_is_refused") else { return };
    use rustix::mount::{MountFlags, mount_remount};
    let home = Home::on(&disk);
    let before = home.put_database(1);
    mount_remount(&disk, MountFlags::RDONLY, c"").unwrap();
    let refusal = home.refused();
    assert!(refusal.to_lowercase().contains("read-only"), "{refusal}");
    assert!(refusal.contains("hint: "), "{refusal}");
    let (code, said) = home.checked();
    assert!(code == 1 && said.starts_with("pending"), "a look needs no writing: {code} {said}");
    mount_remount(&disk, MountFlags::empty(), c"").unwrap();
    // Its sockets can be made, its database cannot be written: another mount of the kind.
    std::fs::create_dir_all(home.0.path().join("cache")).unwrap();
    let state = home.state();
    rustix::mount::mount_bind(&state, &state).unwrap();
    rustix::mount::mount_remount(&state, MountFlags::BIND | MountFlags::RDONLY, c"").unwrap();
    let refusal = home.refused();
    assert!(refusal.to_lowercase().contains("read-only"), "{refusal}");
    assert!(refusal.contains("BANGER_HOME"), "{refusal}");
    // Detached: who reads the ended daemon's /proc entry keeps what it had mapped for a moment, which makes the mount busy.
    rustix::mount::unmount(&state, rustix::mount::UnmountFlags::DETACH).unwrap();
    assert_eq!(std::fs::read(state.join("state.db")).unwrap(), before);
}

#[test]
fn a_full_disk_refuses_a_first_daemon_and_not_the_next() {
    let Some(disk) = again::small_disk("process::a_full_disk_refuses_a_first_daemon_and_not_the_next") else { return };
    let resize = |bytes: u64| {
        let size = std::ffi::CString::new(format!("size={bytes}")).unwrap();
        rustix::mount::mount_remount(&disk, rustix::mount::MountFlags::empty(), size.as_c_str()).unwrap();
    };
    let fill = || {
        let stat = rustix::fs::statvfs(&disk).unwrap();
        resize((stat.f_blocks - stat.f_bfree) * stat.f_frsize);
        assert_eq!(sys::fs::available_bytes(&disk).unwrap(), 0);
    };
    std::fs::write(disk.join("something"), b"which makes the disk's size more than none").unwrap();
    let home = Home::on(&disk);
    fill();
    let refusal = home.refused();
    assert!(refusal.contains("is full") || refusal.contains("no space left on device"), "{refusal}");
    assert!(refusal.contains("hint: make some room"), "{refusal}");
    resize(1 << 30);
    let mut daemon = home.command(&[]).spawn().unwrap();
    answer(&home.socket());
    end(&mut daemon);
    fill();
    // Its log is on the full disk too, and takes nothing.
    let log = std::fs::File::options().create(true).append(true).open(home.state().join("bangerd.log")).unwrap();
    let mut daemon = home.command(&[]).env("BANGER_LOG_LEVEL", "debug").stderr(log).spawn().unwrap();
    assert!(answer(&home.socket()).starts_with("HTTP/1.1 200"));
    end(&mut daemon);
    assert_eq!(std::fs::metadata(home.state().join("bangerd.log")).unwrap().len(), 0, "the disk was full all the time");
}

//! Disks on the host's own filesystem.

use std::os::unix::fs::{FileExt, MetadataExt};

use super::*;

struct Place {
    dir: tempfile::TempDir,
    driver: SparseFiles,
}

fn place() -> Place {
    let dir = tempfile::tempdir().unwrap();
    let driver = SparseFiles::new(dir.path().join("state"), &dir.path().join("cache"), std::env::var_os("PATH"));
    Place { dir, driver }
}

fn vm(number: u64) -> VmId {
    VmId::from_random(number.to_be_bytes())
}

#[tokio::test]
async fn a_disk_is_a_clean_filesystem_of_the_size_asked() {
    let Place { dir, driver } = place();
    let check = sys::process::find_program("e2fsck", SBIN.as_ref()).unwrap();
    for (number, bytes) in [(2, super::super::DISK_BYTES_MIN), (3, 3 << 30), (4, 8 << 30)] {
        let disk = driver.ensure_disk(&vm(number), bytes).await.unwrap();
        assert_eq!(std::fs::metadata(&disk).unwrap().len(), bytes);
        run(command(&check).args(["-f", "-n"]).arg(&disk)).unwrap();
    }
    let disk = driver.ensure_disk(&vm(1), 10 << 30).await.unwrap();
    assert_eq!(disk, driver.path(&vm(1)));
    let meta = std::fs::metadata(&disk).unwrap();
    assert_eq!((meta.len(), meta.mode() & 0o777), (10 << 30, 0o600));
    assert!(driver.allocated_bytes(&vm(1)) < 8 << 20, "{}", driver.allocated_bytes(&vm(1)));
    let each = (1..=4).map(|number| (vm(number), driver.allocated_bytes(&vm(number))));
    assert_eq!(driver.allocated(), each.collect());
    run(command(check).args(["-f", "-n"]).arg(&disk)).unwrap();
    let mut label = [0; 16];
    std::fs::File::open(&disk).unwrap().read_exact_at(&mut label, 1024 + 0x78).unwrap();
    assert_eq!(std::str::from_utf8(&label).unwrap().trim_end_matches('\0'), LABEL);
    let mut files: Vec<_> =
        std::fs::read_dir(dir.path().join("cache")).unwrap().map(|e| e.unwrap().file_name()).collect();
    files.sort();
    assert_eq!(files, [512, 8192].map(|mib| format!("{TEMPLATE_NAME}-{mib}m.ext4")).map(std::ffi::OsString::from));
}

#[tokio::test]
async fn a_disk_that_was_mounted_is_told_from_a_new_one() {
    let Place { dir: _dir, driver } = place();
    assert!(!driver.is_untouched(&vm(1)), "there is none");
    for bytes in [1 << 30, 8 << 30] {
        let disk = driver.ensure_disk(&vm(bytes), bytes).await.unwrap();
        assert!(driver.is_untouched(&vm(bytes)));
        let file = std::fs::File::options().write(true).open(disk).unwrap();
        // As the kernel does: the time and the count.
        for (at, mark) in [(0x2c, [1, 0, 0, 0].as_slice()), (0x34, &[1, 0])] {
            file.write_all_at(mark, SUPERBLOCK + at).unwrap();
            assert!(!driver.is_untouched(&vm(bytes)));
            file.write_all_at(&[0; 4][..mark.len()], SUPERBLOCK + at).unwrap();
            assert!(driver.is_untouched(&vm(bytes)));
        }
        file.write_all_at(&[0; 2], SUPERBLOCK + 0x38).unwrap();
        assert!(!driver.is_untouched(&vm(bytes)), "no filesystem of ours");
    }
}

#[tokio::test]
async fn an_existing_disk_is_never_touched() {
    let Place { dir: _dir, driver } = place();
    let disk = driver.ensure_disk(&vm(1), 1 << 30).await.unwrap();
    std::fs::write(&disk, "what the guest wrote").unwrap();
    driver.ensure_disk(&vm(1), 2 << 30).await.unwrap();
    assert_eq!(std::fs::read(&disk).unwrap(), b"what the guest wrote");
    driver.ensure_deleted(&vm(1)).await.unwrap();
    driver.ensure_deleted(&vm(1)).await.unwrap();
    assert!(!disk.exists());
    assert_eq!(driver.allocated_bytes(&vm(1)), 0);
}

#[tokio::test]
async fn sizes_that_make_no_disk_are_refused() {
    let Place { dir, driver } = place();
    for bytes in [0, 1, TEMPLATES_BYTES[0] - 1, (64 << 40) + 1, u64::MAX] {
        let error = driver.ensure_disk(&vm(1), bytes).await.unwrap_err();
        assert!(error.to_string().contains("512"), "{error}");
    }
    assert!(!dir.path().join("state").exists());
}

#[tokio::test]
async fn what_died_half_way_is_swept_up() {
    let Place { dir: _dir, driver } = place();
    let disk = driver.path(&vm(1));
    std::fs::create_dir_all(disk.parent().unwrap()).unwrap();
    std::fs::write(disk.with_file_name(".disk.ext4.0123456789abcdef"), "half").unwrap();
    std::fs::write(disk.with_file_name("keep"), "else").unwrap();
    driver.ensure_disk(&vm(1), 1 << 30).await.unwrap();
    let mut files: Vec<_> =
        std::fs::read_dir(disk.parent().unwrap()).unwrap().map(|e| e.unwrap().file_name()).collect();
    files.sort();
    assert_eq!(files, ["disk.ext4", "keep"]);
}

#[tokio::test]
async fn many_at_once_share_one_template() {
    let Place { dir: _dir, driver } = place();
    let disks = (0..8).map(|number| {
        let driver = driver.clone();
        async move { driver.ensure_disk(&vm(number), 1 << 30).await.unwrap() }
    });
    let disks = futures_util::future::join_all(disks).await;
    assert!(disks.iter().all(|disk| disk.is_file()));
}

#[tokio::test]
async fn a_template_that_cannot_be_made_leaves_nothing() {
    let Place { dir, mut driver } = place();
    let fake = dir.path().join("bin");
    std::fs::create_dir(&fake).unwrap();
    std::fs::write(fake.join("mke2fs"), "#!/bin/sh\necho 'no luck today' >&2; exit 1\n").unwrap();
    sys::fs::set_mode(&fake.join("mke2fs"), 0o700).unwrap();
    driver.path = fake.into();
    let error = driver.ensure_disk(&vm(1), 1 << 30).await.unwrap_err();
    let cause = std::error::Error::source(&error).unwrap().to_string();
    assert!(cause.contains("no luck today"), "{cause}");
    assert_eq!(std::fs::read_dir(dir.path().join("cache")).unwrap().count(), 0);
    assert!(!driver.path(&vm(1)).exists());
}

#[tokio::test]
async fn size_costs_nothing() {
    let Place { dir: _dir, driver } = place();
    for (number, bytes) in [(1, 1_u64 << 30), (2, 1 << 40)] {
        driver.ensure_disk(&vm(number), bytes).await.unwrap();
        // What is written is what takes time.
        let written = driver.allocated_bytes(&vm(number));
        assert!(written < 8 << 20, "{written} bytes of {bytes}");
    }
}

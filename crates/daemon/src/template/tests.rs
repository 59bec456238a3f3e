//! Templates come, are counted and go.

use super::*;

fn manifest(disk_bytes: u64) -> Manifest {
    let shape =
        MachineShape { driver: "qemu".into(), vmm: "7.2".into(), cpu: "tcg".into(), machine: "-M microvm".into() };
    Manifest {
        ingredients: Ingredients {
            image: ImageId::from_random([1; 8]),
            kernel: KernelId::from_random([2; 8]),
            initramfs: "initramfs-1.cpio".into(),
            disk_bytes,
            shape,
        },
        vm: VmId::from_random([3; 8]),
        boot: BootId::from_random([4; 8]),
        init: None,
        vcpus: 1,
        memory_mib: 256,
        nat: false,
        created_at_ms: disk_bytes,
    }
}

fn publish(templates: &Templates, manifest: &Manifest) {
    let staging = templates.dir().join(".staging-0000000000000000");
    sys::fs::create_private_dir(&staging).unwrap();
    for file in ["memory", "devices", DISK] {
        std::fs::write(staging.join(file), vec![1; 8192]).unwrap();
    }
    templates.publish(&staging, manifest).unwrap();
    assert!(!staging.exists());
}

#[test]
fn anything_that_differs_makes_another_key() {
    let base = manifest(1).ingredients;
    let mut others = vec![base.clone(); 8];
    others[0].image = ImageId::from_random([9; 8]);
    others[1].kernel = KernelId::from_random([9; 8]);
    others[2].initramfs.push('x');
    others[3].disk_bytes += 1;
    others[4].shape.driver.push('x');
    others[5].shape.vmm.push('x');
    others[6].shape.cpu.push('x');
    others[7].shape.machine.push('x');
    for other in others {
        assert_ne!(other.key(), base.key());
        assert_eq!(other.shape == base.shape, base.shape.differs(&other.shape).is_none());
    }
    assert_eq!(base.key(), manifest(1).ingredients.key());
}

#[test]
fn one_is_found_counted_and_given_up() {
    let dir = tempfile::tempdir().unwrap();
    let templates = Templates::in_dir(dir.path().join("templates"));
    assert!(templates.all().is_empty());
    let manifest = manifest(7);
    let key = manifest.ingredients.key();
    publish(&templates, &manifest);
    publish(&templates, &manifest);
    templates.note_use(&key).unwrap();
    templates.note_use(&key).unwrap();
    let found = templates.find(&key).unwrap();
    assert_eq!((found.uses, found.bytes, found.manifest), (2, 3 * 8192, manifest));
    assert!(templates.find("0000000000000000").is_none());
    assert_eq!(templates.fell_back(), 0);
    templates.give_up(&key).unwrap();
    assert_eq!((templates.all().len(), templates.fell_back()), (0, 1));
    templates.remove(&key).unwrap();
}

#[test]
fn a_damaged_one_is_none_and_is_replaced() {
    let dir = tempfile::tempdir().unwrap();
    let templates = Templates::in_dir(dir.path().to_path_buf());
    let manifest = manifest(7);
    let key = manifest.ingredients.key();
    publish(&templates, &manifest);
    for file in ["memory", "devices", DISK, MANIFEST] {
        std::fs::remove_file(dir.path().join(&key).join(file)).unwrap();
        assert!(templates.find(&key).is_none(), "{file}");
        publish(&templates, &manifest);
    }
    std::fs::write(dir.path().join(&key).join(MANIFEST), "{").unwrap();
    assert!(templates.find(&key).is_none());
    // One that was put under another's name.
    publish(&templates, &manifest);
    std::fs::rename(dir.path().join(&key), dir.path().join("0000000000000000")).unwrap();
    assert!(templates.all().is_empty());
}

#[test]
fn the_ones_used_longest_ago_go() {
    let dir = tempfile::tempdir().unwrap();
    let templates = Templates::in_dir(dir.path().to_path_buf());
    for disk_bytes in 1..=4 {
        publish(&templates, &manifest(disk_bytes));
    }
    // Made first, used last.
    templates.note_use(&manifest(1).ingredients.key()).unwrap();
    let left = |templates: &Templates| -> Vec<u64> {
        templates.all().iter().map(|template| template.manifest.ingredients.disk_bytes).collect()
    };
    assert_eq!(left(&templates), [1, 4, 3, 2]);
    assert_eq!(templates.keep_within(3, u64::MAX).unwrap().len(), 1);
    assert_eq!(left(&templates), [1, 4, 3]);
    templates.keep_within(9, 2 * 3 * 8192).unwrap();
    assert_eq!(left(&templates), [1, 4]);
    templates.keep_within(0, u64::MAX).unwrap();
    assert!(templates.all().is_empty());
}

//! Saving and going on, against a scripted Firecracker that writes where it is told to, as its jail would show it.

use std::os::unix::fs::{FileExt, MetadataExt};
use std::sync::{Arc, Mutex};

use serde_json::{Value, json};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::UnixListener;
use wire::naming;

use super::super::tests::{NOWHERE, driver, machine};
use super::*;
use crate::privileged::open_file;
use crate::vmm::VmmDriver;
use crate::vmm::firecracker::api_socket;
use crate::vmm::firecracker::schema::faults;

/// The memory of a machine, and of its pages.
const MIB: u64 = 128;
const PAGE: u64 = 4096;

struct World {
    dir: tempfile::TempDir,
    spec: MachineSpec,
    driver: Jailer,
    launch: Launch,
}

impl World {
    fn planned(saved: Option<SavedMachine>) -> World {
        let dir = tempfile::tempdir().unwrap();
        let spec = MachineSpec { saved, ..machine(dir.path()) };
        let driver = driver(dir.path());
        let launch = driver.plan(&spec, &NOWHERE).unwrap();
        World { spec, driver, launch, dir }
    }

    /// Planned and begun, as far as its files go.
    async fn begun(saved: Option<SavedMachine>) -> World {
        let world = World::planned(saved);
        begin(&world.jailed()).await.unwrap();
        world
    }

    fn jailed(&self) -> Jailed {
        jailed_of(&self.launch).unwrap()
    }

    /// A file of the jail, on the host.
    fn file(&self, file: &JailFile) -> std::path::PathBuf {
        let (_, place) = file.place(&self.spec.vm, &self.spec.boot);
        self.dir.path().join("state").join(place)
    }

    fn to(&self, name: &str) -> SavedMachine {
        let dir = self.dir.path().join(name);
        std::fs::create_dir(&dir).unwrap();
        SavedMachine::in_dir(&dir)
    }

    /// A Firecracker that saves by writing `pages`, each of one byte, and memory of that length, or says why not.
    fn firecracker(&self, pages: Vec<(u64, u8)>, length: u64, answer: &'static str) -> Heard {
        let socket = api_socket(&self.launch.boot_dir);
        std::fs::create_dir_all(socket.parent().unwrap()).unwrap();
        std::fs::remove_file(&socket).ok();
        let listener = UnixListener::bind(&socket).unwrap();
        let heard = Heard::default();
        let (all, files) =
            (heard.0.clone(), [JailFile::SaveMemory {}, JailFile::SaveDevices {}].map(|f| self.file(&f)));
        tokio::spawn(async move {
            loop {
                let (mut peer, _) = listener.accept().await.unwrap();
                let mut bytes = Vec::new();
                let (head, body) = loop {
                    assert!(peer.read_buf(&mut bytes).await.unwrap() > 0);
                    let text = String::from_utf8_lossy(&bytes).into_owned();
                    let Some((head, body)) = text.split_once("\r\n\r\n") else { continue };
                    if let Ok(body) = serde_json::from_str::<Value>(body) {
                        break (head.to_owned(), body);
                    }
                };
                let request = head.split(" HTTP").next().unwrap().to_owned();
                if request == "PUT /snapshot/create" {
                    let options = || std::fs::File::options().write(true).open(&files[0]).unwrap();
                    options().set_len(length).unwrap();
                    for (page, byte) in &pages {
                        options().write_all_at(&[*byte; PAGE as usize], page * PAGE).unwrap();
                    }
                    std::fs::write(&files[1], "state").unwrap();
                }
                all.lock().unwrap().push((request, body));
                peer.write_all(answer.as_bytes()).await.unwrap();
            }
        });
        heard
    }

    /// A save, and what Firecracker was asked for.
    async fn save(&self, heard: &Heard, to: &SavedMachine) -> Result<String, VmmError> {
        self.driver.save(&self.launch, MIB, to).await?;
        let (request, body) = heard.0.lock().unwrap().pop().unwrap();
        assert_eq!(faults(&request, &body), Vec::<String>::new());
        assert_eq!((&body["mem_file_path"], &body["snapshot_path"]), (&json!("/save-memory"), &json!("/save-devices")));
        for file in [JailFile::SaveMemory {}, JailFile::SaveDevices {}] {
            assert_eq!(std::fs::metadata(self.file(&file)).unwrap().len(), 0, "the jail's is empty again");
        }
        Ok(body["snapshot_type"].as_str().unwrap().to_owned())
    }
}

#[derive(Clone, Default)]
struct Heard(Arc<Mutex<Vec<(String, Value)>>>);

const DONE: &str = "HTTP/1.1 204 \r\nServer: Firecracker API\r\nConnection: keep-alive\r\n\r\n";
const FULL: &str = "HTTP/1.1 400 Bad Request\r\nContent-Length: 29\r\n\r\n{\"fault_message\":\"disk full\"}";

/// The first bytes of the first pages.
fn pages(saved: &SavedMachine) -> Vec<u8> {
    let bytes = std::fs::read(&saved.memory).unwrap();
    assert_eq!(bytes.len() as u64, MIB << 20);
    bytes.chunks(PAGE as usize).take(3).map(|page| page[0]).collect()
}

fn saved_in(dir: &Path) -> SavedMachine {
    let saved = SavedMachine::in_dir(dir);
    let memory = std::fs::File::create(&saved.memory).unwrap();
    memory.set_len(MIB << 20).unwrap();
    memory.write_all_at(&[5; 3 * PAGE as usize], 0).unwrap();
    std::fs::write(&saved.devices, "state").unwrap();
    saved
}

#[test]
fn a_jail_has_what_its_machine_goes_on_from() {
    let saved = SavedMachine::in_dir(Path::new("/state/templates/k"));
    let names = |world: &World| world.jailed().files.iter().skip(6).map(JailFile::name_in_jail).collect::<Vec<_>>();
    let cold = World::planned(None);
    assert_eq!((names(&cold), cold.jailed().saved), (vec!["save-memory", "save-devices"], None));
    let world = World::planned(Some(saved.clone()));
    assert_eq!(names(&world), ["save-memory", "save-devices", "memory", "devices"]);
    assert_eq!(world.jailed().saved, Some(saved));
    let outside = world.launch.argv[2].contains("/state/templates/k");
    assert!(outside && world.launch.saved.is_none(), "the daemon alone is told where it is");
}

#[tokio::test]
async fn a_launch_of_an_older_daemon_is_saved_by_nobody() {
    let mut world = World::planned(None);
    let mut json: Value = serde_json::from_str(&world.launch.argv[2]).unwrap();
    json["files"].as_array_mut().unwrap().truncate(6);
    json.as_object_mut().unwrap().remove("saved");
    world.launch.argv[2] = json.to_string();
    let error = world.driver.make_ready(&world.launch).await.unwrap_err();
    assert!(error.to_string().ends_with("restart it"), "{error}");
    begin(&world.jailed()).await.unwrap();
    end(&world.launch).unwrap();
    assert!(!world.file(&JailFile::SaveMemory {}).exists());
}

#[tokio::test]
async fn a_machine_begins_with_files_that_the_helper_takes() {
    let kept = tempfile::tempdir().unwrap();
    let saved = saved_in(kept.path());
    let world = World::begun(Some(saved.clone())).await;
    let (jailed, left) = (world.jailed(), world.file(&JailFile::SaveMemory {}).with_file_name("left"));
    std::fs::write(&left, "of a boot before").unwrap();
    begin(&jailed).await.unwrap();
    assert!(!left.exists());
    for (file, mode) in jailed.files.iter().skip(6).zip([0o660, 0o660, 0o644, 0o644]) {
        open_file((&jailed.state, &jailed.cache), &jailed.vm, &jailed.boot, file).unwrap();
        let meta = std::fs::metadata(world.file(file)).unwrap();
        assert_eq!(meta.mode() & 0o7777, mode, "{file:?}");
        assert!(mode == 0o644 || meta.nlink() == 1, "{file:?}");
    }
    end(&world.launch).unwrap();
    assert!(!world.file(&JailFile::SaveMemory {}).parent().unwrap().parent().unwrap().exists());
    assert_eq!(pages(&saved), [5, 5, 5], "what was saved is its owner's");
    end(&world.launch).unwrap();
}

#[tokio::test]
async fn what_a_machine_goes_on_from_is_read_and_forgotten() {
    let kept = tempfile::tempdir().unwrap();
    let world = World::begun(Some(saved_in(kept.path()))).await;
    for (version, track) in [(Version::new(1, 12), "enable_diff_snapshots"), (Version::new(1, 14), "track_dirty_pages")]
    {
        let heard = world.firecracker(Vec::new(), 0, DONE);
        load(&api_socket(&world.launch.boot_dir), &world.jailed(), Some(version)).await.unwrap();
        let heard = heard.0.lock().unwrap();
        let requests: Vec<&str> = heard.iter().map(|(request, _)| request.as_str()).collect();
        assert_eq!(requests, ["PUT /logger", "PUT /metrics", "PUT /snapshot/load"]);
        for (request, body) in heard.iter() {
            assert_eq!(faults(request, body), Vec::<String>::new(), "{request}");
        }
        let backend = json!({"backend_type": "File", "backend_path": "/memory"});
        let body = json!({"snapshot_path": "/devices", "mem_backend": backend, "resume_vm": false, track: true});
        assert_eq!(heard[2].1, body);
        assert!(!world.file(&JailFile::Memory {}).parent().unwrap().exists(), "it has it mapped");
    }
}

#[tokio::test]
async fn what_is_saved_is_copied_out_of_the_jail() {
    let world = World::begun(None).await;
    let heard = world.firecracker(vec![(1, 7)], MIB << 20, DONE);
    let first = world.to("first");
    world.driver.make_ready(&world.launch).await.unwrap();
    assert_eq!(world.save(&heard, &first).await.unwrap(), "Diff", "all else is zeros");
    assert_eq!((pages(&first), std::fs::read(&first.devices).unwrap()), (vec![0, 7, 0], b"state".to_vec()));
    let modes = [&first.memory, &first.devices].map(|path| std::fs::metadata(path).unwrap().mode() & 0o7777);
    assert_eq!(modes, [0o600, 0o600]);

    let heard = world.firecracker(vec![(2, 9)], MIB << 20, DONE);
    let second = world.to("second");
    world.driver.make_ready(&world.launch).await.unwrap();
    assert_eq!(world.save(&heard, &second).await.unwrap(), "Diff");
    assert_eq!((pages(&second), pages(&first)), (vec![0, 7, 9], vec![0, 7, 0]));

    // Nobody made it ready: everything is asked for, and taken.
    let heard = world.firecracker(vec![(0, 1)], MIB << 20, DONE);
    let third = world.to("third");
    assert_eq!(world.save(&heard, &third).await.unwrap(), "Full");
    assert_eq!(pages(&third), [1, 0, 0]);
    assert_eq!(sys::fs::allocated_bytes(&third.memory), PAGE);
}

#[tokio::test]
async fn a_machine_that_went_on_writes_what_is_new() {
    let kept = tempfile::tempdir().unwrap();
    let world = World::begun(Some(saved_in(kept.path()))).await;
    let heard = world.firecracker(vec![(0, 1)], MIB << 20, DONE);
    load(&api_socket(&world.launch.boot_dir), &world.jailed(), None).await.unwrap();
    world.driver.make_ready(&world.launch).await.unwrap();
    let to = world.to("to");
    assert_eq!(world.save(&heard, &to).await.unwrap(), "Diff");
    assert_eq!(pages(&to), [1, 5, 5]);
}

#[tokio::test]
async fn what_was_not_saved_is_refused_and_takes_no_room() {
    let world = World::begun(None).await;
    let save = async |name: &str| {
        let saved = world.driver.save(&world.launch, MIB, &world.to(name)).await;
        let bytes = std::fs::metadata(world.file(&JailFile::SaveMemory {})).map_or(0, |meta| meta.len());
        (saved.map_err(|error| wire::api::chain(&error)), bytes)
    };
    world.firecracker(vec![(0, 1)], MIB << 20, FULL);
    assert_eq!(save("full").await, (Err("cannot save the machine: disk full".into()), 0));
    for (name, length) in [("short", (MIB << 20) - 1), ("long", 1 << 40)] {
        world.firecracker(vec![(0, 1)], length, DONE);
        let (saved, bytes) = save(name).await;
        assert!(saved.unwrap_err().contains("did not write what it said") && bytes == 0, "{name}");
    }
    std::fs::remove_file(world.file(&JailFile::SaveMemory {})).unwrap();
    assert!(save("missing").await.0.is_err());
}

#[test]
fn machines_alike_have_one_shape() {
    let world = World::planned(None);
    let shape = |spec: &MachineSpec| world.driver.shape(spec, &NOWHERE).unwrap();
    let ours = shape(&world.spec);
    assert_eq!((ours.driver.as_str(), ours.vmm.as_str()), (Jailer::NAME, "Firecracker 1.14.0"));
    assert!(ours.machine.contains("/image") && !ours.machine.contains(world.spec.vm.as_str()), "{}", ours.machine);
    let other = MachineSpec { vm: another(), slot: None, ..world.spec.clone() };
    assert_eq!(ours.differs(&shape(&other)), None);
    let larger = MachineSpec { memory_mib: 256, ..world.spec.clone() };
    assert!(ours.differs(&shape(&larger)).is_some());
    assert!(world.driver.breaks_channel(&world.launch));
    let here = naming::vm_saved_to(&world.dir.path().join("state"), &world.spec.vm);
    assert_eq!(saves(&world.jailed()).unwrap().shared(), here);
}

fn another() -> wire::id::VmId {
    wire::id::VmId::from_random([9; 8])
}

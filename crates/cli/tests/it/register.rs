//! Images of files: what the daemon is asked for, which has another working directory.

use serde_json::{Value, json};

use crate::fake::{Script, begun};

#[test]
fn a_file_is_named_by_its_whole_path() {
    for (flags, link) in [(&[][..], false), (&["--link"], true)] {
        let home = Script::new()
            .answer("POST /v1/images/register", &begun("mine"))
            .answer("GET /v1/images/mine ", &Value::Null)
            .run();
        std::fs::write(home.path().join("rootfs.ext4"), b"x").unwrap();
        let args = [&["image", "register", "rootfs.ext4", "--name", "mine"], flags].concat();
        let output = home.banger(&args).output().unwrap();
        assert_eq!(String::from_utf8_lossy(&output.stdout), "mine\n", "{output:?}");
        let asked: Value = serde_json::from_slice(&home.log.wait_for("POST /v1/images/register").body).unwrap();
        let path = home.path().canonicalize().unwrap().join("rootfs.ext4");
        assert_eq!(asked, json!({"path": path, "name": "mine", "link": link}));
    }
}

#[test]
fn a_file_that_is_not_there_and_an_image_that_needs_nothing() {
    let home =
        Script::new().refuse("POST /v1/images/mine/promote", 409, "wrong_state", "its file is banger's own").run();
    let missing = home.banger(&["image", "register", "nowhere", "--name", "mine"]).output().unwrap();
    assert!(!missing.status.success());
    let told = String::from_utf8_lossy(&missing.stderr).into_owned();
    assert!(told.contains("cannot read nowhere"), "{told}");
    let promoted = home.banger(&["image", "promote", "mine"]).output().unwrap();
    let told = String::from_utf8_lossy(&promoted.stderr).into_owned();
    assert!(!promoted.status.success() && told.contains("cannot promote image mine: its file is"), "{told}");
}

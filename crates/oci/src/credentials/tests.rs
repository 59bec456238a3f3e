//! Files and helpers, as Docker and Podman leave them.

use std::os::unix::fs::PermissionsExt;

use proptest::prelude::*;

use super::*;

fn basic(user: &str, password: &str) -> Option<Credential> {
    Some(Credential::Basic { user: user.to_owned(), password: password.to_owned() })
}

fn places(home: &Path) -> Places {
    Places { home: Some(home.to_owned()), path: home.join("bin").into_os_string(), ..Places::default() }
}

fn write(path: &Path, text: &str, mode: u32) {
    std::fs::create_dir_all(path.parent().unwrap()).unwrap();
    std::fs::write(path, text).unwrap();
    std::fs::set_permissions(path, std::fs::Permissions::from_mode(mode)).unwrap();
}

async fn find(credentials: &Credentials, host: &str, image: &str) -> Result<Option<Credential>, CredentialError> {
    credentials.find(host, &image.parse().unwrap()).await
}

#[tokio::test]
async fn the_first_file_that_knows_decides() {
    let home = tempfile::tempdir().unwrap();
    let podman = home.path().join(".config/containers/auth.json");
    let docker = home.path().join(".docker/config.json");
    let credentials = Credentials::at(&places(home.path()));
    assert_eq!(find(&credentials, "h.io", "h.io/x").await.unwrap(), None);
    // "a:b", "c:d\0\0" and "e:f:g".
    write(
        &docker,
        r#"{"auths":{"h.io":{"auth":"YTpi"},"https://index.docker.io/v1/":{"auth":"YzpkAAA="}},"other":1}"#,
        0o600,
    );
    write(
        &podman,
        r#"{"auths":{"h.io/team":{"auth":"ZTpmOmc="},"h.io/te":{"auth":"YTpi"},"http://k.io/v2/":{"identitytoken":"i"}}}"#,
        0o600,
    );
    for (host, image, found) in [
        ("h.io", "h.io/x", basic("a", "b")),
        ("h.io", "h.io/team/x", basic("e", "f:g")),
        ("h.io", "h.io/teams/x", basic("a", "b")),
        ("registry-1.docker.io", "alpine", basic("c", "d")),
        ("mirror.lan", "alpine", None),
        ("k.io", "k.io/x", Some(Credential::Identity("i".into()))),
    ] {
        assert_eq!(find(&credentials, host, image).await.unwrap(), found, "{host} {image}");
    }
    let only = home.path().join("only.json");
    write(&only, r#"{"auths":{"h.io":{"username":"u","password":"p"}}}"#, 0o600);
    let credentials = Credentials::at(&Places { auth_file: Some(only), ..places(home.path()) });
    assert_eq!(find(&credentials, "h.io", "h.io/team/x").await.unwrap(), basic("u", "p"));
}

#[tokio::test]
async fn helpers_are_asked() {
    let home = tempfile::tempdir().unwrap();
    let helper = |name: &str, script: &str| {
        write(
            &home.path().join(format!("bin/docker-credential-{name}")),
            &format!("#!/bin/sh\nread key\n{script}\n"),
            0o755,
        );
    };
    helper("good", r#"printf '{"ServerURL":"x","Username":"%s","Secret":"s"}' "$1 $key""#);
    helper("token", r#"echo '{"ServerURL":"x","Username":"<token>","Secret":"t"}'"#);
    helper("empty", "echo 'credentials not found in native keychain'; exit 1");
    helper("bad", "echo 'the keyring is locked'; exit 1");
    helper("odd", "echo secret");
    let file = r#"{"credsStore":"empty","credHelpers":{"good.io":"good","docker.io":"good","token.io":"token",
        "bad.io":"bad","odd.io":"odd","none.io":"none","path.io":"../good"}}"#;
    write(&home.path().join(".docker/config.json"), file, 0o600);
    let credentials = Credentials::at(&places(home.path()));
    for (host, image, found) in [
        ("good.io", "good.io/x", basic("get good.io", "s")),
        ("registry-1.docker.io", "x", basic("get https://index.docker.io/v1/", "s")),
        ("token.io", "token.io/x", Some(Credential::Identity("t".into()))),
        ("h.io", "h.io/x", None),
    ] {
        assert_eq!(find(&credentials, host, image).await.unwrap(), found, "{host} {image}");
    }
    for (host, why) in [
        ("bad.io", "docker-credential-bad failed: the keyring is locked"),
        ("odd.io", "docker-credential-odd failed: it prints no user name and secret"),
        ("none.io", "there is no docker-credential-none in PATH"),
        ("path.io", "there is no docker-credential-../good in PATH"),
    ] {
        let refused = find(&credentials, host, &format!("{host}/x")).await.unwrap_err().to_string();
        assert!(refused.starts_with(why), "{refused}");
    }
}

#[tokio::test]
async fn files_that_are_none_are_named() {
    let home = tempfile::tempdir().unwrap();
    let docker = home.path().join(".docker/config.json");
    let credentials = Credentials::at(&places(home.path()));
    write(&docker, "  \n", 0o600);
    assert_eq!(find(&credentials, "h.io", "h.io/x").await.unwrap(), None);
    for text in ["{", r#"{"auths":[]}"#, r#"{"auths":{"h.io":{"auth":"!"}}}"#, r#"{"auths":{"h.io":{"auth":"YQ=="}}}"#]
    {
        write(&docker, text, 0o600);
        let refused = find(&credentials, "h.io", "h.io/x").await.unwrap_err().to_string();
        assert!(refused.contains("config.json"), "{refused}");
    }
    write(&docker, &" ".repeat((1 << 20) + 1), 0o600);
    assert!(matches!(find(&credentials, "h.io", "h.io/x").await, Err(CredentialError::TooLarge { .. })));
}

#[test]
fn secrets_are_not_shown() {
    let shown = format!("{:?} {:?}", basic("name", "secret"), Credential::Token("secret".into()));
    assert!(shown.contains("name") && !shown.contains("secret"));
}

proptest! {
    #[test]
    fn arbitrary_files_never_panic(text in r#"(\{|\}|"auths":|"h.io":|"auth":|"YTpi"|"credsStore":|"x"|,|null){0,20}"#) {
        if let Ok(file) = AuthFile::parse(text.as_bytes()) {
            let _outcome = file.entry_for("h.io", "x", Path::new("f"));
        }
    }
}

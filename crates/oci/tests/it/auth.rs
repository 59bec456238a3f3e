//! Strangers, passwords and tokens; who is shown them and who is not.

use oci::credentials::{Credentials, Places};
use oci::{Blobs, Options, PullError, Pulled, Source, pull};

use crate::image::{Image, cache, chain, options};
use crate::server::{Door, Fault, Server};

struct Case {
    server: Server,
    image: Image,
    _dir: tempfile::TempDir,
    blobs: Blobs,
    options: Options,
}

impl Case {
    fn new(door: Door) -> Case {
        let (server, (dir, blobs)) = (Server::start(), cache());
        let image = Image::gzip(&[b"one", b"two", b"three"]);
        server.push("team/x", "1", &image);
        server.guard(door);
        Case { server, image, _dir: dir, blobs, options: options() }
    }

    /// The user has logged in.
    fn known(mut self, entry: &str) -> Case {
        let home = self._dir.path().join("home");
        let file = home.join(".docker/config.json");
        std::fs::create_dir_all(file.parent().unwrap()).unwrap();
        std::fs::write(file, format!(r#"{{"auths":{{"{}":{entry}}}}}"#, self.server.address)).unwrap();
        self.options.credentials = Credentials::at(&Places { home: Some(home), ..Places::default() });
        self
    }

    async fn pull(&self) -> Result<Pulled, PullError> {
        let source: Source = self.server.name("team/x:1").parse().unwrap();
        pull(&source, &self.options, &self.blobs, &()).await
    }

    async fn succeed(&self) {
        self.pull().await.unwrap_or_else(|error| panic!("{}", chain(&error)));
    }

    async fn refused(&self) -> (String, String) {
        let error = self.pull().await.expect_err("a refusal");
        (chain(&error), error.hint().unwrap_or_default())
    }
}

/// "user:secret".
const LOGIN: &str = r#"{"auth":"dXNlcjpzZWNyZXQ="}"#;
const BASIC: &str = "Basic dXNlcjpzZWNyZXQ=";

#[tokio::test]
async fn strangers_are_given_a_token_for_this_image() {
    let case = Case::new(Door::Token(1, None));
    case.succeed().await;
    let tokens = case.server.asked("/token");
    assert_eq!(tokens.len(), 1, "{tokens:?}");
    assert_eq!(tokens[0].path, "/token?scope=repository%3Ateam%2Fx%3Apull&service=s+%26+t");
    assert_eq!(tokens[0].authorization, None);
    let shown = case.server.asked("/blobs/");
    assert!(shown.iter().all(|seen| seen.authorization.as_deref() == Some("Bearer token-1")), "{shown:?}");
}

#[tokio::test]
async fn a_password_is_exchanged_for_a_token() {
    let case = Case::new(Door::Token(1, Some(("user", "secret")))).known(LOGIN);
    case.succeed().await;
    let seen = case.server.seen();
    let with_password = seen.iter().filter(|seen| seen.authorization.as_deref() == Some(BASIC));
    assert!(with_password.map(|seen| &seen.path).all(|path| path.starts_with("/token")), "{seen:?}");
}

#[tokio::test]
async fn a_token_that_expires_is_replaced() {
    let case = Case::new(Door::Token(1, None));
    let layer = format!("team/x/blobs/{}", oci::Digest::of(&case.image.layers[0]));
    case.server.fail(&layer, [Fault::Cut(3)]);
    let server = &case.server;
    struct Expire<'a>(&'a Server);
    impl oci::Progress for Expire<'_> {
        fn layer(&self, _: &oci::Digest, state: oci::LayerState<'_>) {
            if matches!(state, oci::LayerState::Retrying { .. }) {
                self.0.guard(Door::Token(2, None));
            }
        }
    }
    let source: Source = server.name("team/x:1").parse().unwrap();
    pull(&source, &case.options, &case.blobs, &Expire(server)).await.unwrap();
    assert_eq!(server.asked("/token").len(), 2);
}

#[tokio::test]
async fn names_and_passwords_are_shown_when_asked_for() {
    let case = Case::new(Door::Basic("user", "secret")).known(LOGIN);
    case.succeed().await;
    let seen = case.server.seen();
    assert_eq!((seen[0].authorization.as_deref(), seen[1].authorization.as_deref()), (None, Some(BASIC)));
    assert_eq!(seen.len(), 6, "it is shown at once from then on: {seen:?}");
}

#[tokio::test]
async fn refusals_say_who_was_refused() {
    let (why, hint) = Case::new(Door::Basic("user", "secret")).refused().await;
    assert!(why.contains("does not let strangers have manifest"), "{why}");
    assert!(hint.contains("docker login 127.0.0.1:"), "{hint}");
    for door in [Door::Basic("user", "other"), Door::Token(1, Some(("user", "other")))] {
        let (why, hint) = Case::new(door).known(LOGIN).refused().await;
        assert!(why.contains("does not let this user have manifest"), "{why}");
        assert!(hint.contains("may have expired"), "{hint}");
    }
    let (why, _) = Case::new(Door::Token(1, Some(("user", "x")))).refused().await;
    assert!(why.contains("does not let strangers have manifest"), "{why}");
    let (why, _) = Case::new(Door::Challenge("Negotiate, Digest realm=\"x\"".into())).refused().await;
    assert!(why.contains("an authentication banger does not know: negotiate, digest"), "{why}");
    for realm in ["ftp://x/", "", "file:///etc/passwd"] {
        let (why, _) = Case::new(Door::Challenge(format!("Bearer realm=\"{realm}\""))).known(LOGIN).refused().await;
        assert!(why.contains("credentials are not shown there"), "{why}");
    }
}

#[tokio::test]
async fn credentials_do_not_follow_to_another_host() {
    for door in [Door::Basic("user", "secret"), Door::Token(1, Some(("user", "secret")))] {
        let (case, store) = (Case::new(door).known(LOGIN), Server::start());
        for layer in &case.image.layers {
            let path = format!("team/x/blobs/{}", oci::Digest::of(layer));
            store.put(&format!("stored/{}", oci::Digest::of(layer).hex()), "", layer);
            let to = format!("http://{}/v2/stored/{}", store.address, oci::Digest::of(layer).hex());
            case.server.fail(&path, [Fault::Redirect(to)]);
        }
        case.succeed().await;
        let seen = store.seen();
        assert_eq!(seen.len(), 3);
        assert!(seen.iter().all(|seen| seen.authorization.is_none()), "{seen:?}");
    }
}

#[tokio::test]
async fn where_a_registry_stores_may_not_ask_for_credentials() {
    let (case, store) = (Case::new(Door::Basic("user", "secret")).known(LOGIN), Server::start());
    store.guard(Door::Token(1, None));
    let path = format!("team/x/blobs/{}", oci::Digest::of(&case.image.layers[0]));
    case.server.fail(&path, [Fault::Redirect(format!("http://{}/v2/stored", store.address))]);
    let (why, _) = case.refused().await;
    assert!(why.contains("does not let this user have blob"), "{why}");
    assert!(store.asked("/token").is_empty(), "{:?}", store.seen());
}

#[tokio::test]
async fn a_redirect_without_end_is_ended() {
    let case = Case::new(Door::Open);
    let to = format!("http://{}/v2/team/x/manifests/1", case.server.address);
    case.server.fail("team/x/manifests/1", (0..50).map(|_| Fault::Redirect(to.clone())));
    let (why, _) = case.refused().await;
    assert!(why.contains("it redirects again and again"), "{why}");
    assert!(case.server.seen().len() < 10);
}

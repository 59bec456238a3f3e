//! A registry that breaks off, drips, lies, limits, dies and comes back.

use std::sync::Mutex;
use std::sync::atomic::Ordering;
use std::time::Duration;

use oci::options::Patience;
use oci::{Blobs, Digest, LayerState, Options, Progress, PullError, Pulled, Source, pull};

use crate::image::{Image, Told, cache, chain, is_quiet, noise, options};
use crate::server::{Fault, Server, pause, status};

/// A registry with an image of one large layer.
struct Case {
    server: Server,
    image: Image,
    dir: tempfile::TempDir,
    blobs: Blobs,
    told: Told,
    options: Options,
}

impl Case {
    fn new() -> Case {
        let (server, (dir, blobs)) = (Server::start(), cache());
        let image = Image::plain("amd64", &[&noise(7, 2 << 20)]);
        server.push("x", "1", &image);
        Case { server, image, dir, blobs, told: Told::default(), options: options() }
    }

    fn layer(&self) -> String {
        format!("x/blobs/{}", Digest::of(&self.image.layers[0]))
    }

    fn fail(&self, faults: impl IntoIterator<Item = Fault>) {
        self.server.fail(&self.layer(), faults);
    }

    async fn pull(&self) -> Result<Pulled, PullError> {
        let source: Source = self.server.name("x:1").parse().unwrap();
        pull(&source, &self.options, &self.blobs, &self.told).await
    }

    async fn succeed(&self) {
        let pulled = self.pull().await.unwrap_or_else(|error| panic!("{}", chain(&error)));
        assert!(std::fs::read(&pulled.layers[0].path).unwrap() == self.image.layers[0]);
        assert!(is_quiet(self.dir.path()));
    }

    async fn refused(&self) -> (String, Option<String>) {
        let error = self.pull().await.expect_err("a refusal");
        (chain(&error), error.hint())
    }

    fn ranges(&self) -> Vec<Option<String>> {
        self.server.asked(&self.layer()).into_iter().map(|seen| seen.range).collect()
    }
}

#[tokio::test]
async fn what_breaks_off_goes_on_where_it_did() {
    let case = Case::new();
    case.fail([Fault::Cut(1_000_000), Fault::Cut(500_000), Fault::Cut(0)]);
    case.succeed().await;
    let ranges = case.ranges();
    assert_eq!(ranges.len(), 4, "{ranges:?}");
    assert!(ranges[0].is_none() && ranges[3].is_some(), "{ranges:?}");
    assert_eq!(case.told.count("Retrying"), 3);
}

#[tokio::test]
async fn who_gave_up_or_was_ended_is_gone_on_from() {
    let mut case = Case::new();
    case.options.patience.tries = 1;
    case.fail([Fault::Cut(1_000_000)]);
    let (why, _) = case.refused().await;
    assert!(why.contains("breaks off at byte"), "{why}");
    // Another process, later.
    case.succeed().await;
    assert!(case.ranges()[1].as_ref().unwrap().starts_with("bytes="), "{:?}", case.ranges());
}

#[tokio::test]
async fn a_pull_that_is_dropped_leaves_what_came() {
    let case = Case::new();
    case.fail([Fault::Stall(1 << 20)]);
    {
        let mut pulling = std::pin::pin!(case.pull());
        while case.told.done_bytes.load(Ordering::SeqCst) < 600_000 {
            let polled = tokio::time::timeout(Duration::from_millis(5), pulling.as_mut()).await;
            assert!(polled.is_err(), "it stalls");
        }
    }
    case.succeed().await;
    assert!(case.ranges()[1].is_some(), "{:?}", case.ranges());
}

#[tokio::test]
async fn a_registry_without_parts_sends_the_whole() {
    for fault in [Fault::Whole, Fault::OtherPart, status(416, "")] {
        let case = Case::new();
        case.fail([Fault::Cut(1_000_000), fault]);
        case.succeed().await;
    }
}

#[tokio::test]
async fn other_bytes_are_refused_and_not_kept() {
    let case = Case::new();
    case.fail([Fault::Lie(noise(8, 2 << 20))]);
    let (why, _) = case.refused().await;
    assert!(why.contains("what was to be sha256:"), "{why}");
    assert!(is_quiet(case.dir.path()));
    // Fewer bytes than the manifest says are asked for again; more are refused at once.
    case.fail([Fault::Lie(case.image.layers[0][..100].to_vec())]);
    case.succeed().await;
    let case = Case::new();
    case.fail([Fault::Lie(noise(7, 3 << 20))]);
    let (why, _) = case.refused().await;
    assert!(why.contains("has more than the 2097152 bytes it may have"), "{why}");
}

#[tokio::test]
async fn what_somebody_left_may_be_wrong() {
    let case = Case::new();
    let part = case.dir.path().join(format!("blobs/partial/{}.part", Digest::of(&case.image.layers[0]).hex()));
    std::fs::write(part, noise(9, 1 << 20)).unwrap();
    case.succeed().await;
    assert_eq!(case.ranges(), [Some("bytes=1048576-".to_owned()), None]);
}

#[tokio::test]
async fn a_drip_is_ended() {
    let mut case = Case::new();
    let stretch = Duration::from_millis(300);
    case.options.patience = Patience { stretch, stretch_bytes_min: 10_000, tries: 2, ..case.options.patience };
    case.fail([Fault::Drip, Fault::Drip]);
    let (why, _) = case.refused().await;
    assert!(why.contains("comes too slowly: less than 10000 bytes in 0.3 s"), "{why}");
    case.fail([Fault::Drip, Fault::Stall(10)]);
    case.options.patience.tries = 3;
    case.succeed().await;
}

#[tokio::test]
async fn a_registry_that_says_nothing_is_not_waited_for() {
    let mut case = Case::new();
    // It takes connections and never answers.
    let listener = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
    case.options.patience = Patience { answer: Duration::from_millis(100), tries: 2, ..case.options.patience };
    let source: Source = format!("{}/x", listener.local_addr().unwrap()).parse().unwrap();
    let refused = pull(&source, &case.options, &case.blobs, &()).await.unwrap_err();
    assert!(chain(&refused).ends_with("in 0.1 s"), "{}", chain(&refused));
}

#[tokio::test]
async fn pauses_that_are_asked_for_are_kept() {
    let case = Case::new();
    case.fail([pause("1"), status(503, ""), status(500, "")]);
    case.server.fail("x/manifests/1", [pause("0"), status(502, "")]);
    case.succeed().await;
    assert!(case.told.all().iter().any(|told| told.contains("pause: 1s")), "{:?}", case.told.all());
    // Longer than anybody waits.
    let case = Case::new();
    case.fail([pause("3600")]);
    let (why, hint) = case.refused().await;
    assert!(why.contains("was asked too often") && why.contains("for another 3600 s"), "{why}");
    assert!(hint.unwrap().contains("docker login"));
}

#[tokio::test]
async fn refusals_are_named_and_not_repeated() {
    let said = r#"{"errors":[{"code":"DENIED","message":"not yours"}]}"#;
    for (code, why) in [
        (403, "denies access to manifest"),
        (404, "has no manifest"),
        (418, "answers 418 I'm a teapot when asked for manifest"),
    ] {
        let case = Case::new();
        case.server.fail("x/manifests/1", [status(code, said)]);
        let (shown, _) = case.refused().await;
        assert!(shown.contains(why) && shown.ends_with(": it says \"not yours\""), "{shown}");
        assert_eq!(case.server.seen().len(), 1);
    }
    let case = Case::new();
    case.fail((0..20).map(|_| status(500, "<html>")));
    let (why, _) = case.refused().await;
    assert!(why.contains("500 Internal Server Error"), "{why}");
    assert_eq!(case.ranges().len(), 6);
}

#[tokio::test]
async fn nobody_there_is_said_soon() {
    let case = Case::new();
    case.server.die();
    let (why, hint) = case.refused().await;
    assert!(why.contains("cannot reach 127.0.0.1:"), "{why}");
    assert!(hint.unwrap().contains("network"));
}

#[tokio::test]
async fn a_manifest_that_is_another_is_refused() {
    let case = Case::new();
    let path = format!("x/manifests/{}", case.image.digest());
    case.server.fail(&path, [Fault::Lie(Image::plain("amd64", &[b"evil"]).manifest)]);
    let source: Source = case.server.name(&format!("x@{}", case.image.digest())).parse().unwrap();
    let refused = pull(&source, &case.options, &case.blobs, &()).await.unwrap_err();
    assert!(chain(&refused).contains(" gives sha256:"), "{}", chain(&refused));
}

/// Ends the registry in the middle of a layer, and has it come back when it was missed.
struct Fate<'a> {
    server: &'a Server,
    missed: Mutex<u32>,
}

impl Progress for Fate<'_> {
    fn layer(&self, _: &Digest, state: LayerState<'_>) {
        match state {
            LayerState::Coming { done_bytes, .. } if done_bytes > 600_000 && *self.missed.lock().unwrap() == 0 => {
                self.server.die();
            }
            LayerState::Retrying { cause, .. } if cause.starts_with("cannot reach") => {
                *self.missed.lock().unwrap() += 1;
                if *self.missed.lock().unwrap() == 2 {
                    self.server.come_back();
                }
            }
            _ => {}
        }
    }
}

#[tokio::test]
async fn a_registry_that_dies_and_comes_back_is_gone_on_with() {
    let case = Case::new();
    case.fail([Fault::Stall(1 << 20)]);
    let fate = Fate { server: &case.server, missed: Mutex::new(0) };
    let source: Source = case.server.name("x:1").parse().unwrap();
    let pulled =
        pull(&source, &case.options, &case.blobs, &fate).await.unwrap_or_else(|error| panic!("{}", chain(&error)));
    assert!(std::fs::read(&pulled.layers[0].path).unwrap() == case.image.layers[0]);
    let ranges = case.ranges();
    assert_eq!((ranges.len(), *fate.missed.lock().unwrap()), (2, 2), "{ranges:?}");
    assert!(ranges[1].is_some(), "{ranges:?}");
}

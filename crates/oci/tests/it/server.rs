//! A registry in this process that can be told to fail. It lives in a runtime of its own, so that it can die: listener,
//! connections and all.

use std::collections::{HashMap, VecDeque};
use std::convert::Infallible;
use std::net::{SocketAddr, TcpListener};
use std::sync::{Arc, Mutex, MutexGuard};
use std::time::Duration;

use axum::Router;
use axum::body::{Body, Bytes};
use axum::extract::{Request, State};
use axum::http::header::{
    AUTHORIZATION, CONTENT_LENGTH, CONTENT_RANGE, CONTENT_TYPE, LOCATION, RANGE, RETRY_AFTER, WWW_AUTHENTICATE,
};
use axum::http::{Response, StatusCode};
use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use futures_util::stream::{self, StreamExt};
use oci::Digest;
use tokio::runtime::Runtime;

use crate::image::Image;

/// What goes wrong with one request.
#[derive(Debug, Clone)]
pub(crate) enum Fault {
    /// This status, with these headers' values.
    Status(StatusCode, Vec<(axum::http::HeaderName, String)>, &'static str),
    /// The connection ends after so many bytes of the body.
    Cut(usize),
    /// Nothing comes after so many bytes of the body.
    Stall(usize),
    /// A byte at a time, for as long as anybody listens.
    Drip,
    /// Other bytes, as if they were the right ones.
    Lie(Vec<u8>),
    /// Somewhere else.
    Redirect(String),
    /// The whole, also when a part was asked for.
    Whole,
    /// Another part than the one asked for.
    OtherPart,
}

/// Who may pull.
#[derive(Debug, Clone, Default)]
pub(crate) enum Door {
    /// Everybody.
    #[default]
    Open,
    /// Who shows this name and password.
    Basic(&'static str, &'static str),
    /// Who shows the token of this number, which `/token` gives, perhaps for a name and a password only.
    Token(u32, Option<(&'static str, &'static str)>),
    /// Who finds this challenge good.
    Challenge(String),
}

/// A request that came.
#[derive(Debug, Clone)]
pub(crate) struct Seen {
    pub(crate) path: String,
    pub(crate) authorization: Option<String>,
    pub(crate) range: Option<String>,
}

#[derive(Default)]
struct World {
    address: Option<SocketAddr>,
    content: HashMap<String, (String, Bytes)>,
    faults: HashMap<String, VecDeque<Fault>>,
    door: Door,
    seen: Vec<Seen>,
}

/// The registry.
pub(crate) struct Server {
    world: Arc<Mutex<World>>,
    runtime: Mutex<Option<Runtime>>,
    pub(crate) address: SocketAddr,
}

impl Server {
    pub(crate) fn start() -> Server {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let address = listener.local_addr().unwrap();
        let world = Arc::new(Mutex::new(World { address: Some(address), ..World::default() }));
        let server = Server { world, runtime: Mutex::new(None), address };
        server.serve(listener);
        server
    }

    fn serve(&self, listener: TcpListener) {
        let runtime = tokio::runtime::Builder::new_multi_thread().worker_threads(1).enable_all().build().unwrap();
        listener.set_nonblocking(true).unwrap();
        let app = Router::new().fallback(answer).with_state(self.world.clone());
        runtime.spawn(async move {
            let listener = tokio::net::TcpListener::from_std(listener).unwrap();
            axum::serve(listener, app).await.unwrap();
        });
        *self.runtime.lock().unwrap() = Some(runtime);
    }

    /// Dies.
    pub(crate) fn die(&self) {
        if let Some(runtime) = self.runtime.lock().unwrap().take() {
            runtime.shutdown_background();
        }
    }

    /// Comes back where it was.
    pub(crate) fn come_back(&self) {
        if self.runtime.lock().unwrap().is_none() {
            self.serve(TcpListener::bind(self.address).unwrap());
        }
    }

    fn world(&self) -> MutexGuard<'_, World> {
        self.world.lock().unwrap()
    }

    /// The name of a repository here, with a tag or a digest.
    pub(crate) fn name(&self, rest: &str) -> String {
        format!("{}/{rest}", self.address)
    }

    /// Has a document or a blob.
    pub(crate) fn put(&self, path: &str, media_type: &str, bytes: &[u8]) {
        let value = (media_type.to_owned(), Bytes::copy_from_slice(bytes));
        self.world().content.insert(format!("/v2/{path}"), value);
    }

    /// Has an image in `repository`, by its digest and by this tag.
    pub(crate) fn push(&self, repository: &str, tag: &str, image: &Image) {
        let manifest_type = oci::manifest::OCI_MANIFEST;
        self.put(&format!("{repository}/manifests/{tag}"), manifest_type, &image.manifest);
        self.put(&format!("{repository}/manifests/{}", image.digest()), manifest_type, &image.manifest);
        for blob in image.layers.iter().chain([&image.config]) {
            self.put(&format!("{repository}/blobs/{}", Digest::of(blob)), "application/octet-stream", blob);
        }
    }

    /// The next request for this, and the ones after, fail so; then none.
    pub(crate) fn fail(&self, path: &str, faults: impl IntoIterator<Item = Fault>) {
        self.world().faults.entry(format!("/v2/{path}")).or_default().extend(faults);
    }

    /// Nothing fails any more.
    pub(crate) fn clear(&self) {
        self.world().faults.clear();
    }

    pub(crate) fn guard(&self, door: Door) {
        self.world().door = door;
    }

    pub(crate) fn seen(&self) -> Vec<Seen> {
        self.world().seen.clone()
    }

    /// Requests whose path has this in it.
    pub(crate) fn asked(&self, part: &str) -> Vec<Seen> {
        self.seen().into_iter().filter(|seen| seen.path.contains(part)).collect()
    }
}

impl Drop for Server {
    fn drop(&mut self) {
        self.die();
    }
}

async fn answer(State(world): State<Arc<Mutex<World>>>, request: Request) -> Response<Body> {
    let header = |name| request.headers().get(name).map(|value| value.to_str().unwrap().to_owned());
    let path = request.uri().path().to_owned();
    let (authorization, range) = (header(AUTHORIZATION), header(RANGE));
    let mut world = world.lock().unwrap();
    let shown = request.uri().path_and_query().map(ToString::to_string).unwrap_or_default();
    world.seen.push(Seen { path: shown, authorization: authorization.clone(), range: range.clone() });
    if path == "/token" {
        return token(&world.door, authorization.as_deref());
    }
    if let Some(challenge) = challenge(&world, authorization.as_deref()) {
        let refused = Response::builder().status(StatusCode::UNAUTHORIZED).header(WWW_AUTHENTICATE, challenge);
        return refused.body(Body::empty()).unwrap();
    }
    let fault = world.faults.get_mut(&path).and_then(VecDeque::pop_front);
    let Some((media_type, bytes)) = world.content.get(&path).cloned() else {
        let said = r#"{"errors":[{"code":"UNKNOWN","message":"no such thing"}]}"#;
        return fault.map_or_else(
            || Response::builder().status(StatusCode::NOT_FOUND).body(Body::from(said)).unwrap(),
            |fault| give(Some(fault), "", Bytes::new(), None),
        );
    };
    give(fault, &media_type, bytes, range.as_deref())
}

fn challenge(world: &World, shown: Option<&str>) -> Option<String> {
    let basic = |user, password| format!("Basic {}", STANDARD.encode(format!("{user}:{password}")));
    let address = world.address.unwrap();
    let (is_good, challenge) = match &world.door {
        Door::Open => return None,
        Door::Basic(user, password) => (shown == Some(&basic(user, password)), "Basic realm=\"here\"".to_owned()),
        Door::Token(number, _) => (
            shown == Some(&format!("Bearer token-{number}")),
            format!("Bearer realm=\"http://{address}/token\",service=\"s & t\""),
        ),
        Door::Challenge(challenge) => (false, challenge.clone()),
    };
    (!is_good).then_some(challenge)
}

fn token(door: &Door, shown: Option<&str>) -> Response<Body> {
    let Door::Token(number, who) = door else { return Response::new(Body::empty()) };
    let wanted = who.map(|(user, password)| format!("Basic {}", STANDARD.encode(format!("{user}:{password}"))));
    if wanted.is_some() && wanted.as_deref() != shown {
        return Response::builder().status(StatusCode::UNAUTHORIZED).body(Body::empty()).unwrap();
    }
    Response::new(Body::from(format!(r#"{{"token":"token-{number}","expires_in":300}}"#)))
}

fn give(fault: Option<Fault>, media_type: &str, bytes: Bytes, range: Option<&str>) -> Response<Body> {
    let from = range.and_then(|range| range.strip_prefix("bytes=")?.strip_suffix('-')?.parse::<usize>().ok());
    let from = from.filter(|_| !matches!(fault, Some(Fault::Whole)));
    let mut response = Response::builder().header(CONTENT_TYPE, media_type);
    if let Some(from) = from {
        let shown = if matches!(fault, Some(Fault::OtherPart)) { from + 1 } else { from };
        let part = format!("bytes {shown}-{}/{}", bytes.len() - 1, bytes.len());
        response = response.status(StatusCode::PARTIAL_CONTENT).header(CONTENT_RANGE, part);
    }
    let bytes = bytes.slice(from.unwrap_or(0)..);
    let length = bytes.len();
    let body = match fault {
        None | Some(Fault::Whole | Fault::OtherPart) => return response.body(Body::from(bytes)).unwrap(),
        Some(Fault::Lie(other)) => return response.body(Body::from(other)).unwrap(),
        Some(Fault::Status(status, headers, said)) => {
            response = response.status(status);
            for (name, value) in headers {
                response = response.header(name, value);
            }
            return response.body(Body::from(said)).unwrap();
        }
        Some(Fault::Redirect(to)) => {
            return response.status(StatusCode::TEMPORARY_REDIRECT).header(LOCATION, to).body(Body::empty()).unwrap();
        }
        Some(Fault::Cut(at)) => {
            let cut = stream::once(async { Err(std::io::Error::other("cut")) });
            Body::from_stream(stream::iter([Ok(bytes.slice(..at))]).chain(cut))
        }
        Some(Fault::Stall(at)) => {
            let nothing = stream::once(std::future::pending::<Result<Bytes, Infallible>>());
            Body::from_stream(stream::iter([Ok(bytes.slice(..at))]).chain(nothing))
        }
        Some(Fault::Drip) => Body::from_stream(stream::unfold(bytes, |mut left| async {
            tokio::time::sleep(Duration::from_millis(5)).await;
            (!left.is_empty()).then(|| (Ok::<_, Infallible>(left.split_to(1)), left))
        })),
    };
    response.header(CONTENT_LENGTH, length).body(body).unwrap()
}

/// A registry that asks for a pause.
pub(crate) fn pause(seconds: &str) -> Fault {
    Fault::Status(StatusCode::TOO_MANY_REQUESTS, vec![(RETRY_AFTER, seconds.to_owned())], "")
}

/// A registry that answers so.
pub(crate) fn status(status: u16, said: &'static str) -> Fault {
    Fault::Status(StatusCode::from_u16(status).unwrap(), Vec::new(), said)
}

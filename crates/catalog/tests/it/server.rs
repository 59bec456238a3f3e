//! A static web server in this process: it serves a directory and knows ranges, and can be told to fail. It lives in a
//! runtime of its own, so that it can die: listener, connections and all.

use std::collections::{HashMap, VecDeque};
use std::net::{SocketAddr, TcpListener};
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex};

use axum::Router;
use axum::body::{Body, Bytes};
use axum::extract::{Request, State};
use axum::http::header::{CONTENT_LENGTH, CONTENT_RANGE, LOCATION, RANGE};
use axum::http::{Response, StatusCode};
use futures_util::stream::{self, StreamExt};
use tokio::runtime::Runtime;

/// What goes wrong with one request.
#[derive(Debug, Clone)]
pub(crate) enum Fault {
    /// This status.
    Status(u16),
    /// The connection ends after so many bytes of the body.
    Cut(usize),
    /// No more than so many bytes come, as if they were all.
    Short(usize),
    /// Other bytes, as if they were the right ones.
    Lie(Vec<u8>),
    /// The whole, also when a part was asked for.
    Whole,
    /// Somewhere else.
    Redirect(String),
}

/// A request that came: its path, and from which byte on.
type Seen = (String, Option<usize>);

struct World {
    directory: PathBuf,
    faults: HashMap<String, VecDeque<Fault>>,
    seen: Vec<Seen>,
}

/// The server.
pub(crate) struct Server {
    world: Arc<Mutex<World>>,
    runtime: Mutex<Option<Runtime>>,
    address: SocketAddr,
}

impl Server {
    /// Serves a directory.
    pub(crate) fn start(directory: &Path) -> Server {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let address = listener.local_addr().unwrap();
        let world = World { directory: directory.to_owned(), faults: HashMap::new(), seen: Vec::new() };
        let server = Server { world: Arc::new(Mutex::new(world)), runtime: Mutex::new(None), address };
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

    /// Where it is.
    pub(crate) fn url(&self) -> String {
        format!("http://{}/", self.address)
    }

    /// Dies.
    pub(crate) fn die(&self) {
        if let Some(runtime) = self.runtime.lock().unwrap().take() {
            runtime.shutdown_background();
        }
    }

    /// The next requests for this file fail so; then none.
    pub(crate) fn fail(&self, file: &str, faults: impl IntoIterator<Item = Fault>) {
        self.world.lock().unwrap().faults.entry(format!("/{file}")).or_default().extend(faults);
    }

    /// The requests for this file: from which byte on.
    pub(crate) fn asked(&self, file: &str) -> Vec<Option<usize>> {
        let seen = &self.world.lock().unwrap().seen;
        seen.iter().filter(|(path, _)| path.trim_start_matches('/') == file).map(|(_, from)| *from).collect()
    }
}

impl Drop for Server {
    fn drop(&mut self) {
        self.die();
    }
}

async fn answer(State(world): State<Arc<Mutex<World>>>, request: Request) -> Response<Body> {
    let path = request.uri().path().to_owned();
    let range = request.headers().get(RANGE).map(|range| range.to_str().unwrap().to_owned());
    let from = range.map(|range| range.strip_prefix("bytes=").unwrap().strip_suffix('-').unwrap().parse().unwrap());
    let (fault, file) = {
        let mut world = world.lock().unwrap();
        world.seen.push((path.clone(), from));
        let fault = world.faults.get_mut(&path).and_then(VecDeque::pop_front);
        (fault, world.directory.join(path.trim_start_matches('/')))
    };
    let status = |status: u16| Response::builder().status(StatusCode::from_u16(status).unwrap());
    match std::fs::read(file) {
        _ if matches!(fault, Some(Fault::Status(_))) => {
            let Some(Fault::Status(number)) = fault else { unreachable!("it is matched above") };
            status(number).body(Body::empty()).unwrap()
        }
        Ok(bytes) => give(fault, Bytes::from(bytes), from),
        Err(_) => status(404).body(Body::empty()).unwrap(),
    }
}

fn give(fault: Option<Fault>, bytes: Bytes, from: Option<usize>) -> Response<Body> {
    let from = from.filter(|_| !matches!(fault, Some(Fault::Whole)));
    let mut response = Response::builder();
    if let Some(from) = from {
        let part = format!("bytes {from}-{}/{}", bytes.len() - 1, bytes.len());
        response = response.status(StatusCode::PARTIAL_CONTENT).header(CONTENT_RANGE, part);
    }
    let bytes = bytes.slice(from.unwrap_or(0)..);
    match fault {
        Some(Fault::Cut(at)) => {
            let cut = stream::once(async { Err(std::io::Error::other("cut")) });
            let body = Body::from_stream(stream::iter([Ok(bytes.slice(..at.min(bytes.len())))]).chain(cut));
            response.header(CONTENT_LENGTH, bytes.len()).body(body).unwrap()
        }
        Some(Fault::Short(at)) => response.body(Body::from(bytes.slice(..at.min(bytes.len())))).unwrap(),
        Some(Fault::Lie(other)) => response.body(Body::from(other)).unwrap(),
        Some(Fault::Redirect(to)) => {
            response.status(StatusCode::TEMPORARY_REDIRECT).header(LOCATION, to).body(Body::empty()).unwrap()
        }
        Some(Fault::Whole | Fault::Status(_)) | None => response.body(Body::from(bytes)).unwrap(),
    }
}

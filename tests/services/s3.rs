//! An S3 endpoint over a directory, which can be told to fail.

use std::convert::Infallible;
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicU32, AtomicU64, Ordering};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use hyper::body::Incoming;
use hyper::service::service_fn;
use hyper::{Method, Request, Response, StatusCode};
use hyper_util::rt::{TokioExecutor, TokioIo};
use hyper_util::server::conn::auto::Builder;
use s3s::auth::SimpleAuth;
use s3s::service::{S3Service, S3ServiceBuilder};
use tokio::sync::oneshot;

pub(crate) const ACCESS_KEY: &str = "causality-key";
pub(crate) const SECRET_KEY: &str = "causality-secret";
pub(crate) const BUCKET: &str = "events";

/// What goes wrong with requests that write.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Fault {
    /// Stored, and then answered 500.
    FailAfterStoring,
    /// Stored, and then not answered at all for longer than any client waits.
    HangAfterStoring,
    /// Not stored: the connection is closed in the middle.
    Close,
    /// Not stored: 503 SlowDown.
    SlowDown,
}

/// A running endpoint with an empty bucket; stops when dropped.
pub(crate) struct S3Server {
    dir: tempfile::TempDir,
    port: u16,
    shared: Arc<Shared>,
    stop: Option<oneshot::Sender<()>>,
    thread: Option<std::thread::JoinHandle<()>>,
}

#[derive(Default)]
struct Shared {
    /// The fault, and of how many writes one meets it.
    fault: Mutex<Option<(Fault, u32)>>,
    writes: AtomicU32,
    faulty: AtomicU64,
}

impl S3Server {
    pub(crate) fn start() -> Self {
        let dir = tempfile::tempdir().unwrap();
        std::fs::create_dir(dir.path().join(BUCKET)).unwrap();
        let mut server = Self { port: super::free_port(), dir, shared: Arc::default(), stop: None, thread: None };
        server.restart();
        server
    }

    pub(crate) fn url(&self) -> String {
        format!("http://127.0.0.1:{}", self.port)
    }

    pub(crate) fn port(&self) -> u16 {
        self.port
    }

    /// Where the objects of the bucket are as files.
    pub(crate) fn bucket(&self) -> PathBuf {
        self.dir.path().join(BUCKET)
    }

    /// From now on one of `every` writes fails this way.
    pub(crate) fn fail(&self, fault: Fault, every: u32) {
        *self.shared.fault.lock().unwrap() = Some((fault, every));
    }

    pub(crate) fn heal(&self) {
        *self.shared.fault.lock().unwrap() = None;
    }

    /// Writes that met a fault.
    pub(crate) fn faulty_writes(&self) -> u64 {
        self.shared.faulty.load(Ordering::Relaxed)
    }

    /// Nothing listens any more; what was stored stays.
    pub(crate) fn stop(&mut self) {
        drop(self.stop.take());
        if let Some(thread) = self.thread.take() {
            thread.join().unwrap();
        }
    }

    /// After [`S3Server::stop`]: on the same port, over the same directory.
    pub(crate) fn restart(&mut self) {
        let (stop, stopped) = oneshot::channel();
        let (root, port, shared) = (self.dir.path().to_owned(), self.port, self.shared.clone());
        let listener = std::net::TcpListener::bind(("127.0.0.1", port)).unwrap();
        listener.set_nonblocking(true).unwrap();
        self.stop = Some(stop);
        self.thread = Some(std::thread::spawn(move || {
            let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
            runtime.block_on(serve(listener, &root, shared, stopped));
        }));
    }
}

impl Drop for S3Server {
    fn drop(&mut self) {
        self.stop();
    }
}

async fn serve(listener: std::net::TcpListener, root: &Path, shared: Arc<Shared>, mut stopped: oneshot::Receiver<()>) {
    let listener = tokio::net::TcpListener::from_std(listener).unwrap();
    let mut builder = S3ServiceBuilder::new(s3s_fs::FileSystem::new(root).unwrap());
    builder.set_auth(SimpleAuth::from_single(ACCESS_KEY, SECRET_KEY));
    let service = builder.build();
    let mut connections = tokio::task::JoinSet::new();
    loop {
        tokio::select! {
            _ = &mut stopped => return,
            _ = connections.join_next(), if !connections.is_empty() => {}
            accepted = listener.accept() => {
                let Ok((stream, _)) = accepted else { continue };
                let (service, shared) = (service.clone(), shared.clone());
                connections.spawn(async move {
                    let answer = service_fn(move |request| answer(service.clone(), shared.clone(), request));
                    let builder = Builder::new(TokioExecutor::new());
                    // A connection that a fault cut, or that the client did.
                    let _ = builder.serve_connection(TokioIo::new(stream), answer).await;
                });
            }
        }
    }
}

async fn answer(
    service: S3Service,
    shared: Arc<Shared>,
    request: Request<Incoming>,
) -> Result<Response<s3s::Body>, Box<dyn std::error::Error + Send + Sync>> {
    let writes = matches!(*request.method(), Method::PUT | Method::POST);
    let fault = *shared.fault.lock().unwrap();
    let fault =
        fault.filter(|(_, every)| writes && shared.writes.fetch_add(1, Ordering::Relaxed).is_multiple_of(*every));
    let request = request.map(s3s::Body::from);
    let Some((fault, _)) = fault else { return Ok(service.call(request).await.map_err(|error| format!("{error:?}"))?) };
    shared.faulty.fetch_add(1, Ordering::Relaxed);
    let with = |status: StatusCode, code: &str| {
        let text = format!("<Error><Code>{code}</Code><Message>a fault of the test</Message></Error>");
        let mut response = Response::new(s3s::Body::from(text));
        *response.status_mut() = status;
        Ok::<_, Infallible>(response)
    };
    match fault {
        Fault::FailAfterStoring => {
            service.call(request).await.map_err(|error| format!("{error:?}"))?;
            Ok(with(StatusCode::INTERNAL_SERVER_ERROR, "InternalError")?)
        }
        Fault::HangAfterStoring => {
            service.call(request).await.map_err(|error| format!("{error:?}"))?;
            tokio::time::sleep(Duration::from_secs(600)).await;
            Err("hung".into())
        }
        Fault::Close => Err("closed".into()),
        Fault::SlowDown => Ok(with(StatusCode::SERVICE_UNAVAILABLE, "SlowDown")?),
    }
}

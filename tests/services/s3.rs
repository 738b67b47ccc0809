//! An S3 endpoint over a directory, which can be told to fail.

use std::collections::VecDeque;
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicBool, AtomicU32, AtomicU64, Ordering};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use bytes::Bytes;
use futures_util::StreamExt;
use http_body_util::combinators::UnsyncBoxBody;
use http_body_util::{BodyExt, Full, StreamBody};
use hyper::body::{Body as _, Frame, Incoming};
use hyper::service::service_fn;
use hyper::{HeaderMap, Method, Request, Response, StatusCode};
use hyper_util::rt::{TokioExecutor, TokioIo};
use hyper_util::server::conn::auto::Builder;
use s3s::auth::SimpleAuth;
use s3s::host::SingleDomain;
use s3s::service::{S3Service, S3ServiceBuilder};
use tokio::sync::oneshot;

pub(crate) const ACCESS_KEY: &str = "causality-key";
pub(crate) const SECRET_KEY: &str = "causality-secret";
pub(crate) const BUCKET: &str = "events";
/// When a write is carried out that nobody waits for any more.
const LATE: Duration = Duration::from_millis(300);
/// How many of the latest requests are kept.
const HEADS_MAX: usize = 1_000;

/// What goes wrong with a request.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Fault {
    /// Done, and then answered 500.
    FailAfterStoring,
    /// Done, and then not answered at all for longer than any client waits.
    HangAfterStoring,
    /// Not done, and not answered for longer than any client waits.
    Hang,
    /// Not done: the connection is closed at once.
    Close,
    /// Not done: the connection is closed in the middle of the request's body.
    CloseInRequest,
    /// Done: the connection is closed in the middle of the answer's body.
    CloseInAnswer,
    /// Not done: 503 SlowDown.
    SlowDown,
    /// Done, and answered after a second.
    Slow,
    /// Not done: the connection is closed at once; and done all the same, when the client has asked again.
    StoreLate,
    /// A conditional put alone: answered 409 or 412, having been done or not. 409 is what S3 says of two that meet.
    Conflict {
        done: bool,
    },
    Precondition {
        done: bool,
    },
}

impl Fault {
    fn is_of_conditions(self) -> bool {
        matches!(self, Self::Conflict { .. } | Self::Precondition { .. })
    }
}

/// A running endpoint with an empty bucket; stops when dropped.
pub(crate) struct S3Server {
    dir: tempfile::TempDir,
    port: u16,
    /// Of the host names that begin with a bucket.
    domain: Option<&'static str>,
    shared: Arc<Shared>,
    stop: Option<oneshot::Sender<()>>,
    thread: Option<std::thread::JoinHandle<()>>,
}

#[derive(Default)]
struct Shared {
    /// Has a directory for each bucket.
    root: PathBuf,
    /// Of PUT, POST and DELETE.
    writes: Faults,
    /// Of GET and HEAD.
    reads: Faults,
    heads: Mutex<VecDeque<Head>>,
    /// What whoever deletes is told; then nothing is.
    deletes_refused: Mutex<Option<u16>>,
    /// Whether it is an older server, that puts an object although the request says only if there is none.
    ignores_conditions: AtomicBool,
    /// Held while a conditional put is carried out: the server below looks first and then puts.
    conditional: tokio::sync::Mutex<()>,
    /// What everybody is told, with the code of an S3 error.
    refused: Mutex<Option<(u16, &'static str)>>,
}

/// A request without its body.
#[derive(Clone, Debug)]
pub(crate) struct Head {
    pub(crate) method: Method,
    pub(crate) path: String,
    pub(crate) headers: HeaderMap,
}

impl Shared {
    fn keep(&self, request: &Request<Incoming>) {
        let (method, path) = (request.method().clone(), request.uri().path().to_owned());
        let mut heads = self.heads.lock().unwrap();
        if heads.len() == HEADS_MAX {
            heads.pop_front();
        }
        heads.push_back(Head { method, path, headers: request.headers().clone() });
    }
}

impl Head {
    pub(crate) fn header(&self, name: &str) -> Option<&str> {
        self.headers.get(name).map(|value| value.to_str().unwrap())
    }
}

#[derive(Default)]
struct Faults {
    /// The fault, and of how many requests one meets it.
    fault: Mutex<Option<(Fault, u32)>>,
    /// Requests that are let through before the first meets it.
    spared: AtomicU32,
    seen: AtomicU32,
    met: AtomicU64,
}

impl Faults {
    fn set(&self, fault: Option<(Fault, u32)>, spared: u32) {
        self.spared.store(spared, Ordering::Relaxed);
        *self.fault.lock().unwrap() = fault;
    }

    /// The fault of the request that just came, if it meets one.
    fn meet(&self, is_conditional: bool) -> Option<Fault> {
        let (fault, every) =
            (*self.fault.lock().unwrap()).filter(|(fault, _)| is_conditional || !fault.is_of_conditions())?;
        let spared = self.spared.fetch_update(Ordering::Relaxed, Ordering::Relaxed, |left| left.checked_sub(1));
        if spared.is_ok() {
            return None;
        }
        let meets = self.seen.fetch_add(1, Ordering::Relaxed).is_multiple_of(every);
        self.met.fetch_add(u64::from(meets), Ordering::Relaxed);
        meets.then_some(fault)
    }
}

impl S3Server {
    pub(crate) fn start() -> Self {
        Self::start_as(None)
    }

    /// Also takes requests whose host is a bucket's name before `domain`, which has its port.
    pub(crate) fn start_at(domain: &'static str) -> Self {
        Self::start_as(Some(domain))
    }

    fn start_as(domain: Option<&'static str>) -> Self {
        let dir = tempfile::tempdir().unwrap();
        std::fs::create_dir(dir.path().join(BUCKET)).unwrap();
        let port = super::free_port();
        let shared = Arc::new(Shared { root: dir.path().to_owned(), ..Shared::default() });
        let mut server = Self { port, dir, domain, shared, stop: None, thread: None };
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

    /// The latest requests, in their order.
    pub(crate) fn heads(&self) -> Vec<Head> {
        self.shared.heads.lock().unwrap().iter().cloned().collect()
    }

    /// From now on one of `every` writes fails this way.
    pub(crate) fn fail(&self, fault: Fault, every: u32) {
        self.shared.writes.set(Some((fault, every)), 0);
    }

    /// From now on one of `every` reads and lists fails this way.
    pub(crate) fn fail_reads(&self, fault: Fault, every: u32) {
        self.shared.reads.set(Some((fault, every)), 0);
    }

    /// Lets so many reads through; from then on all fail this way.
    pub(crate) fn fail_reads_after(&self, spared: u32, fault: Fault) {
        self.shared.reads.set(Some((fault, 1)), spared);
    }

    /// Deletes nothing any more, neither one object nor many, and answers with this status; 200 is of a bulk delete
    /// that names the object as one that may not be deleted.
    pub(crate) fn refuse_deletes(&self, status: u16) {
        *self.shared.deletes_refused.lock().unwrap() = Some(status);
    }

    /// Knows nothing of `If-None-Match`.
    pub(crate) fn ignore_conditions(&self) {
        self.shared.ignores_conditions.store(true, Ordering::Relaxed);
    }

    /// Answers everything with this.
    pub(crate) fn refuse(&self, status: u16, code: &'static str) {
        *self.shared.refused.lock().unwrap() = Some((status, code));
    }

    /// What hangs by now goes on hanging.
    pub(crate) fn heal(&self) {
        *self.shared.refused.lock().unwrap() = None;
        self.shared.writes.set(None, 0);
        self.shared.reads.set(None, 0);
    }

    /// Writes that met a fault.
    pub(crate) fn faulty_writes(&self) -> u64 {
        self.shared.writes.met.load(Ordering::Relaxed)
    }

    /// Reads that met a fault.
    pub(crate) fn faulty_reads(&self) -> u64 {
        self.shared.reads.met.load(Ordering::Relaxed)
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
        let domain = self.domain;
        let listener = std::net::TcpListener::bind(("127.0.0.1", port)).unwrap();
        listener.set_nonblocking(true).unwrap();
        self.stop = Some(stop);
        self.thread = Some(std::thread::spawn(move || {
            let runtime = tokio::runtime::Builder::new_multi_thread().worker_threads(2).enable_all().build().unwrap();
            runtime.block_on(serve(listener, &root, domain, shared, stopped));
        }));
    }
}

impl Drop for S3Server {
    fn drop(&mut self) {
        self.stop();
    }
}

async fn serve(
    listener: std::net::TcpListener,
    root: &Path,
    domain: Option<&str>,
    shared: Arc<Shared>,
    mut stopped: oneshot::Receiver<()>,
) {
    let listener = tokio::net::TcpListener::from_std(listener).unwrap();
    let mut builder = S3ServiceBuilder::new(s3s_fs::FileSystem::new(root).unwrap());
    builder.set_auth(SimpleAuth::from_single(ACCESS_KEY, SECRET_KEY));
    if let Some(domain) = domain {
        builder.set_host(SingleDomain::new(domain).unwrap());
    }
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

type BoxError = Box<dyn std::error::Error + Send + Sync>;
type Answer = Response<UnsyncBoxBody<Bytes, BoxError>>;

async fn answer(service: S3Service, shared: Arc<Shared>, request: Request<Incoming>) -> Result<Answer, BoxError> {
    shared.keep(&request);
    let bulk = request.method() == Method::POST && request.uri().query() == Some("delete");
    let refused = *shared.deletes_refused.lock().unwrap();
    if let Some(status) = refused.filter(|_| bulk || request.method() == Method::DELETE) {
        // A single delete cannot be answered 200 and refused.
        let status = if status == 200 && !bulk { 403 } else { status };
        return Ok(failure(StatusCode::from_u16(status)?, "AccessDenied"));
    }
    if let Some((status, code)) = *shared.refused.lock().unwrap() {
        return Ok(failure(StatusCode::from_u16(status)?, code));
    }
    let fault = match *request.method() {
        Method::PUT | Method::POST | Method::DELETE => {
            shared.writes.meet(request.headers().contains_key("if-none-match"))
        }
        _ => shared.reads.meet(false),
    };
    let request = match fault {
        // Cut in the middle of what is still to come.
        Some(Fault::CloseInRequest) => {
            read_half(request.into_body()).await?;
            return Err("closed".into());
        }
        _ => request.map(s3s::Body::from),
    };
    match fault {
        None | Some(Fault::CloseInRequest) => perform(service, &shared, request).await,
        Some(Fault::FailAfterStoring) => {
            perform(service, &shared, request).await?;
            Ok(failure(StatusCode::INTERNAL_SERVER_ERROR, "InternalError"))
        }
        Some(Fault::HangAfterStoring) => {
            perform(service, &shared, request).await?;
            tokio::time::sleep(Duration::from_secs(600)).await;
            Err("hung".into())
        }
        Some(Fault::Hang) => {
            tokio::time::sleep(Duration::from_secs(600)).await;
            Err("hung".into())
        }
        Some(Fault::Close) => Err("closed".into()),
        Some(Fault::StoreLate) => {
            let (head, body) = request.into_parts();
            let body = BodyExt::collect(body).await?.to_bytes();
            tokio::runtime::Handle::current().spawn(async move {
                tokio::time::sleep(LATE).await;
                let _ = perform(service, &shared, Request::from_parts(head, body.into())).await;
            });
            Err("closed".into())
        }
        Some(Fault::Conflict { done } | Fault::Precondition { done }) => {
            if done {
                perform(service, &shared, request).await?;
            }
            match fault {
                Some(Fault::Conflict { .. }) => Ok(failure(StatusCode::CONFLICT, "ConditionalRequestConflict")),
                _ => Ok(failure(StatusCode::PRECONDITION_FAILED, "PreconditionFailed")),
            }
        }
        Some(Fault::CloseInAnswer) => half_of(perform(service, &shared, request).await?).await,
        Some(Fault::SlowDown) => Ok(failure(StatusCode::SERVICE_UNAVAILABLE, "SlowDown")),
        Some(Fault::Slow) => {
            let answer = perform(service, &shared, request).await;
            tokio::time::sleep(Duration::from_secs(1)).await;
            answer
        }
    }
}

async fn perform(service: S3Service, shared: &Shared, request: Request<s3s::Body>) -> Result<Answer, BoxError> {
    let is_conditional = request.headers().contains_key("if-none-match");
    let _conditional = if is_conditional { Some(shared.conditional.lock().await) } else { None };
    if is_conditional && shared.ignores_conditions.load(Ordering::Relaxed) {
        // The header is part of what is signed: what it asks for is made so.
        let _ = std::fs::remove_file(shared.root.join(request.uri().path().trim_start_matches('/')));
    }
    let answer = service.call(request).await.map_err(|error| format!("{error:?}"))?;
    Ok(answer.map(BodyExt::boxed_unsync))
}

fn failure(status: StatusCode, code: &str) -> Answer {
    let text = format!("<Error><Code>{code}</Code><Message>a fault of the test</Message></Error>");
    let mut answer = Response::new(Full::from(text).map_err(|never| match never {}).boxed_unsync());
    *answer.status_mut() = status;
    answer
}

async fn read_half(mut body: Incoming) -> Result<(), BoxError> {
    let half = body.size_hint().lower() / 2;
    let mut read = 0;
    while read < half
        && let Some(frame) = body.frame().await
    {
        read += frame?.data_ref().map_or(0, |data| data.len() as u64);
    }
    Ok(())
}

/// The answer announced whole, and its body cut in the middle.
async fn half_of(answer: Answer) -> Result<Answer, BoxError> {
    let (mut parts, body) = answer.into_parts();
    let body = body.collect().await?.to_bytes();
    if body.is_empty() {
        return Err("closed".into());
    }
    parts.headers.insert("content-length", body.len().into());
    let half = futures_util::stream::once(async move { Ok(Frame::data(body.slice(..body.len() / 2))) });
    let cut = futures_util::stream::once(async {
        // So that the half arrives.
        tokio::time::sleep(Duration::from_millis(20)).await;
        Err(BoxError::from("closed"))
    });
    Ok(Response::from_parts(parts, StreamBody::new(half.chain(cut)).boxed_unsync()))
}

//! The listener over real sockets: normal requests and every limit.

mod bounds;
mod idle;
mod shedding;

use std::convert::Infallible;
use std::net::SocketAddr;
use std::time::{Duration, Instant};

use bytes::Bytes;
use http::{Request, Response, StatusCode};
use http_body_util::{BodyExt, Full};
use hyper::service::service_fn;
use hyper_util::rt::{TokioExecutor, TokioIo};
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::oneshot;
use tokio_util::sync::CancellationToken;

use crate::base::supervisor::Tasks;
use crate::http::raw_client::RawClient;
use crate::http::{Drained, Inbound, Limits, Problem, read_body, serve};

const BODY_BYTES_MAX: usize = 1 << 20;
pub(super) const BIG_REPLY_BYTES: usize = 32 << 20;

pub(super) struct TestServer {
    pub(super) address: SocketAddr,
    stop: CancellationToken,
    drained: oneshot::Receiver<Drained>,
}

impl TestServer {
    pub(super) async fn start(limits: Limits) -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let address = listener.local_addr().unwrap();
        let stop = CancellationToken::new();
        let (done, drained) = oneshot::channel();
        let until = stop.clone();
        Tasks::default().spawn(async move {
            let _ = done.send(serve(listener, service_fn(answer), limits, until).await);
        });
        Self { address, stop, drained }
    }

    pub(super) async fn client(&self) -> RawClient {
        RawClient::connect(self.address).await
    }

    pub(super) async fn stop(self) -> Drained {
        self.stop.cancel();
        self.drained.await.unwrap()
    }
}

async fn answer(request: Request<Inbound>) -> Result<Response<Full<Bytes>>, Infallible> {
    let path = request.uri().path().to_owned();
    if path == "/slow" {
        tokio::time::sleep(Duration::from_millis(300)).await;
    }
    if path == "/peer" {
        return Ok(Response::new(Full::new(Bytes::from(request.body().peer().to_string()))));
    }
    if path == "/refused" {
        return Ok(Problem::new(StatusCode::UNAUTHORIZED, "No.").into_reply());
    }
    if path == "/big" {
        return Ok(Response::new(Full::new(Bytes::from(vec![0; BIG_REPLY_BYTES]))));
    }
    Ok(match read_body(request.into_body(), BODY_BYTES_MAX, Duration::from_secs(5)).await {
        Ok(body) => Response::new(Full::new(Bytes::from(format!("{path} {}", body.len())))),
        Err(_) => Problem::new(StatusCode::PAYLOAD_TOO_LARGE, "Too large.").closing().into_reply(),
    })
}

pub(super) fn quick() -> Limits {
    Limits {
        header_timeout: Duration::from_millis(200),
        idle_timeout: Duration::from_millis(200),
        write_timeout: Duration::from_millis(200),
        drain_timeout: Duration::from_secs(2).into(),
        ..Limits::default()
    }
}

#[tokio::test]
async fn one_connection_serves_many_requests_and_pipelined_ones_in_order() {
    let server = TestServer::start(Limits::default()).await;
    let mut client = server.client().await;
    assert_eq!(client.post("/a", "text/plain", "123").await.body, b"/a 3");
    assert_eq!(client.get("/b").await.body, b"/b 0");
    let pipelined: String = (0..100)
        .map(|n| format!("POST /{n} HTTP/1.1\r\nhost: test\r\ncontent-length: {n}\r\n\r\n{}", "x".repeat(n)))
        .collect();
    client.send(pipelined).await;
    for n in 0..100 {
        assert_eq!(client.reply().await.body, format!("/{n} {n}").into_bytes());
    }
    client.send("GET /whole HTTP/1.1\r\nhost: test\r\n\r\nGET /ha").await;
    assert_eq!(client.reply().await.body, b"/whole 0", "part of the next request does not hold the reply back");
    client.send("lf HTTP/1.1\r\nhost: test\r\n\r\n").await;
    assert_eq!(client.reply().await.body, b"/half 0");
    assert_eq!(server.stop().await, Drained { cut: 0 });
}

#[tokio::test]
async fn requests_know_their_peer() {
    let server = TestServer::start(Limits::default()).await;
    assert_eq!(server.client().await.get("/peer").await.body, b"127.0.0.1");
}

#[tokio::test]
async fn speaks_http2_without_tls() {
    let server = TestServer::start(Limits::default()).await;
    let tcp = TcpStream::connect(server.address).await.unwrap();
    let (sender, connection) =
        hyper::client::conn::http2::handshake(TokioExecutor::new(), TokioIo::new(tcp)).await.unwrap();
    Tasks::default().spawn(async move { connection.await.unwrap() });
    let requests = (0..50).map(|n| {
        let mut sender = sender.clone();
        async move {
            let body = Full::new(Bytes::from(vec![0; n * 1_000]));
            let request = Request::post(format!("http://test/{n}")).body(body).unwrap();
            let reply = sender.send_request(request).await.unwrap();
            reply.into_body().collect().await.unwrap().to_bytes()
        }
    });
    for (n, body) in futures_util::future::join_all(requests).await.into_iter().enumerate() {
        assert_eq!(body, format!("/{n} {}", n * 1_000));
    }
    assert_eq!(server.stop().await, Drained { cut: 0 }, "an idle HTTP/2 connection does not hold the drain");
}

#[tokio::test]
async fn slow_heads_time_out() {
    let server = TestServer::start(Limits { idle_timeout: Duration::from_secs(60), ..quick() }).await;
    let mut first = server.client().await;
    first.send("GET /a HTTP/1.1\r\nhost:").await;
    let start = Instant::now();
    assert!(first.closed().await);
    let mut later = server.client().await;
    later.get("/a").await;
    later.send("GET /a HTTP/1.1\r\n").await;
    assert!(later.closed().await);
    assert!(start.elapsed() < Duration::from_secs(2));
    let mut silent = server.client().await;
    assert!(silent.closed().await);
}

#[tokio::test]
async fn an_idle_connection_is_closed_but_a_busy_one_is_not() {
    let server = TestServer::start(quick()).await;
    let mut client = server.client().await;
    assert_eq!(client.get("/slow").await.body, b"/slow 0", "longer than the idle timeout");
    let start = Instant::now();
    assert!(client.closed().await);
    assert!(start.elapsed() >= Duration::from_millis(190), "{:?}", start.elapsed());
}

#[tokio::test]
async fn unread_replies_time_out() {
    let server = TestServer::start(quick()).await;
    let mut client = server.client().await;
    client.send("GET /big HTTP/1.1\r\nhost: test\r\n\r\n").await;
    tokio::time::sleep(Duration::from_millis(600)).await;
    assert!(client.try_reply().await.is_none(), "cut before the whole reply was sent");
    let patient = TestServer::start(Limits::default()).await;
    assert_eq!(patient.client().await.get("/big").await.body.len(), BIG_REPLY_BYTES);
}

#[tokio::test]
async fn a_request_without_reply_is_cut() {
    let server = TestServer::start(Limits { request_timeout: Duration::from_millis(100), ..quick() }).await;
    let mut client = server.client().await;
    client.send("GET /slow HTTP/1.1\r\nhost: test\r\n\r\n").await;
    assert!(client.closed().await);
}

#[tokio::test]
async fn large_headers_are_refused() {
    let server = TestServer::start(Limits { header_bytes_max: 8 * 1024, ..quick() }).await;
    let mut client = server.client().await;
    client.send(format!("GET /a HTTP/1.1\r\nhost: test\r\nx: {}\r\n\r\n", "x".repeat(7_000))).await;
    assert_eq!(client.reply().await.status, 200);
    client.send(format!("GET /a HTTP/1.1\r\nhost: test\r\nx: {}\r\n\r\n", "x".repeat(9_000))).await;
    assert_eq!(client.reply().await.status, 431);
    assert!(client.closed().await);
}

#[tokio::test]
async fn a_refused_upload_gets_its_reply() {
    let server = TestServer::start(Limits::default()).await;
    for _ in 0..5 {
        let mut client = server.client().await;
        let reply = client.post("/a", "text/plain", vec![b'x'; 4 * BODY_BYTES_MAX]).await;
        assert_eq!(reply.status, 413);
        assert_eq!(reply.header("connection"), Some("close"));
        assert!(client.closed().await);
    }
}

#[tokio::test]
async fn a_refusal_drains_a_short_body_or_closes_the_connection() {
    let server = TestServer::start(Limits::default()).await;
    let mut client = server.client().await;
    let head = |more: &str| format!("POST /refused HTTP/1.1\r\nhost: test\r\n{more}\r\n\r\n");
    for more in ["content-length: 2", "transfer-encoding: chunked"] {
        client.send(head(more)).await;
        tokio::time::sleep(Duration::from_millis(10)).await;
        client.send(if more.starts_with('c') { "hi" } else { "2\r\nhi\r\n0\r\n\r\n" }).await;
        let reply = client.reply().await;
        assert_eq!((reply.status, reply.header("connection")), (401, None), "{more}");
    }
    assert_eq!(client.post("/a", "text/plain", "123").await.body, b"/a 3");
    let large = "x".repeat(BODY_BYTES_MAX);
    let trailers = "2\r\nhi\r\n0\r\na: b\r\n\r\n";
    for (more, body) in [
        ("content-length: 2", "h"),
        ("content-length: 1048576", &large),
        ("content-length: 2\r\nexpect: 100-continue", ""),
        ("transfer-encoding: chunked", trailers),
    ] {
        let mut client = server.client().await;
        client.send(head(more) + body).await;
        let reply = client.reply().await;
        assert_eq!((reply.status, reply.header("connection")), (401, Some("close")), "{more}");
        assert!(client.closed().await);
    }
}

#[tokio::test]
async fn expect_continue_is_answered() {
    let server = TestServer::start(Limits::default()).await;
    let mut client = server.client().await;
    client.send("POST /a HTTP/1.1\r\nhost: test\r\ncontent-length: 2\r\nexpect: 100-continue\r\n\r\n").await;
    tokio::time::sleep(Duration::from_millis(20)).await;
    client.send("hi").await;
    assert_eq!(client.reply().await.body, b"/a 2");
}

#[tokio::test]
async fn connections_over_the_limit_get_only_health_probes() {
    let limits = Limits { connections_max: 2, idle_timeout: Duration::from_secs(60), ..Limits::default() };
    let server = TestServer::start(limits).await;
    let (mut one, mut two) = (server.client().await, server.client().await);
    for client in [&mut one, &mut two] {
        client.send("POST /a HTTP/1.1\r\nhost: test\r\ncontent-length: 2\r\n\r\n1").await;
    }
    tokio::time::sleep(Duration::from_millis(50)).await;
    let mut probe = server.client().await;
    let reply = probe.get("/health").await;
    assert_eq!((reply.status, reply.header("connection")), (200, Some("close")));
    assert!(probe.closed().await);
    let mut refused = server.client().await;
    let reply = refused.get("/a").await;
    assert_eq!((reply.status, reply.header("retry-after")), (503, Some("1")));
    assert!(refused.closed().await);
    one.send("2").await;
    assert_eq!(one.reply().await.body, b"/a 2");
    drop(one);
    tokio::time::sleep(Duration::from_millis(50)).await;
    assert_eq!(server.client().await.get("/a").await.status, 200);
}

#[tokio::test]
async fn the_longest_idle_connection_is_closed_to_make_room() {
    let limits = Limits { connections_max: 3, idle_timeout: Duration::from_secs(60), ..Limits::default() };
    let server = TestServer::start(limits).await;
    let (mut served, mut silent, mut busy) = (server.client().await, server.client().await, server.client().await);
    served.get("/a").await;
    busy.send("POST /a HTTP/1.1\r\nhost: test\r\ncontent-length: 2\r\n\r\n1").await;
    tokio::time::sleep(Duration::from_millis(1_100)).await;
    let mut first = server.client().await;
    assert_eq!(first.get("/a").await.status, 200);
    assert!(silent.closed().await, "what never asked anything goes first");
    let mut second = server.client().await;
    assert_eq!(second.get("/a").await.status, 200);
    assert!(served.closed().await);
    busy.send("2").await;
    assert_eq!(busy.reply().await.body, b"/a 2", "a request in flight is not idle");
}

#[tokio::test]
async fn drain_completes_requests_in_flight() {
    let server = TestServer::start(Limits::default()).await;
    let (mut busy, mut idle, mut fresh) = (server.client().await, server.client().await, server.client().await);
    idle.get("/a").await;
    busy.send("GET /slow HTTP/1.1\r\nhost: test\r\n\r\n").await;
    tokio::time::sleep(Duration::from_millis(50)).await;
    let address = server.address;
    server.stop.cancel();
    assert!(idle.closed().await);
    assert!(fresh.closed().await);
    assert!(TcpStream::connect(address).await.is_err(), "the listener is closed at once");
    let reply = busy.reply().await;
    assert_eq!((reply.body.as_slice(), reply.header("connection")), (b"/slow 0".as_slice(), Some("close")));
    assert!(busy.closed().await);
    assert_eq!(server.stop().await, Drained { cut: 0 });
}

#[tokio::test]
async fn drain_cuts_requests_that_outlast_it() {
    let server =
        TestServer::start(Limits { drain_timeout: Duration::from_millis(50).into(), ..Limits::default() }).await;
    let mut busy = server.client().await;
    busy.send("GET /slow HTTP/1.1\r\nhost: test\r\n\r\n").await;
    tokio::time::sleep(Duration::from_millis(50)).await;
    assert_eq!(server.stop().await, Drained { cut: 1 });
    assert!(busy.closed().await);
}

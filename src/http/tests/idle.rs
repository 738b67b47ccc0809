//! Idle connections: what they hold, how they resume, and how a drain ends them.

use std::time::{Duration, Instant};

use bytes::Bytes;
use http::Request;
use http_body_util::{BodyExt, Empty};
use hyper_util::rt::{TokioExecutor, TokioIo};
use tokio::net::TcpStream;
use tokio::sync::oneshot;

use super::TestServer;
use crate::base::supervisor::Tasks;
use crate::http::{Drained, Limits};

/// Longer than a connection keeps its buffers.
const LONG_IDLE: Duration = Duration::from_millis(700);

#[tokio::test]
async fn a_parked_connection_resumes() {
    let server = TestServer::start(Limits::default()).await;
    let mut client = server.client().await;
    for n in 1..4 {
        let body = vec![0; n * 100_000];
        assert_eq!(client.post("/a", "text/plain", body).await.body, format!("/a {}", n * 100_000).into_bytes());
        tokio::time::sleep(LONG_IDLE).await;
    }
    // The first byte alone, then the rest, then two requests together.
    client.send("G").await;
    tokio::time::sleep(LONG_IDLE).await;
    client.send("ET /b HTTP/1.1\r\nhost: test\r\n\r\n").await;
    assert_eq!(client.reply().await.body, b"/b 0");
    tokio::time::sleep(LONG_IDLE).await;
    client.send("GET /c HTTP/1.1\r\nhost: test\r\n\r\nGET /slow HTTP/1.1\r\nhost: test\r\n\r\nGET /d HT").await;
    assert_eq!(client.reply().await.body, b"/c 0");
    assert_eq!(client.reply().await.body, b"/slow 0");
    tokio::time::sleep(LONG_IDLE).await;
    client.send("TP/1.1\r\nhost: test\r\n\r\n").await;
    assert_eq!(client.reply().await.body, b"/d 0");
    tokio::time::sleep(LONG_IDLE).await;
    assert_eq!(server.stop().await, Drained { cut: 0 });
    assert!(client.closed().await);
}

#[tokio::test]
async fn a_parked_connection_cannot_switch_protocols() {
    let server = TestServer::start(Limits::default()).await;
    let mut client = server.client().await;
    client.get("/a").await;
    tokio::time::sleep(LONG_IDLE).await;
    client.send("PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n\0\0\0\x04\0\0\0\0\0").await;
    assert!(client.try_reply().await.is_none_or(|reply| reply.status == 400));
}

#[tokio::test]
async fn a_last_request_is_answered_during_the_drain() {
    let server = TestServer::start(Limits { last_call: Duration::from_secs(1), ..Limits::default() }).await;
    let (mut lively, mut idle) = (server.client().await, server.client().await);
    lively.get("/a").await;
    idle.get("/a").await;
    let stream = TcpStream::connect(server.address).await.unwrap();
    let (mut sender, connection) =
        hyper::client::conn::http2::handshake(TokioExecutor::new(), TokioIo::new(stream)).await.unwrap();
    let (ended, end) = oneshot::channel();
    Tasks::default().spawn(async move {
        let _ = ended.send(connection.await.is_ok());
    });
    let request = |path| Request::get(format!("http://test{path}")).body(Empty::<Bytes>::new()).unwrap();
    assert_eq!(sender.send_request(request("/a")).await.unwrap().status(), 200);
    let in_flight = sender.send_request(request("/slow"));
    let stopping = async {
        tokio::time::sleep(Duration::from_millis(50)).await;
        server.stop().await
    };
    let talking = async {
        tokio::time::sleep(Duration::from_millis(250)).await;
        let start = Instant::now();
        let reply = lively.get("/b").await;
        assert_eq!((reply.status, reply.header("connection")), (200, Some("close")));
        assert!(lively.closed().await);
        assert!(start.elapsed() < Duration::from_millis(500), "closed with its reply");
        assert!(idle.closed().await, "told nothing, and closed when the time was over");
    };
    let (reply, drained, ()) = tokio::join!(in_flight, stopping, talking);
    let body = reply.unwrap().into_body().collect().await.unwrap().to_bytes();
    assert_eq!(body, "/slow 0");
    assert!(end.await.unwrap(), "GOAWAY, not a broken connection");
    assert_eq!(drained, Drained { cut: 0 });
}

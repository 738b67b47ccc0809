//! An HTTP/1.1 test client that writes exactly the bytes it is given.

use std::net::SocketAddr;
use std::time::Duration;

use tokio::io::{AsyncRead, AsyncReadExt, AsyncWrite, AsyncWriteExt};
use tokio::net::TcpStream;

/// The timeout of a test.
const PATIENCE: Duration = Duration::from_secs(10);

pub(crate) struct RawClient<T = TcpStream> {
    tcp: T,
    unread: Vec<u8>,
}

#[derive(Debug)]
pub(crate) struct RawReply {
    pub(crate) status: u16,
    pub(crate) head: String,
    pub(crate) body: Vec<u8>,
}

impl RawReply {
    /// The value of a header. Names are in lower case on the wire.
    pub(crate) fn header(&self, name: &str) -> Option<&str> {
        self.head.lines().find_map(|line| line.strip_prefix(name)?.strip_prefix(": "))
    }

    pub(crate) fn json(&self) -> serde_json::Value {
        serde_json::from_slice(&self.body).expect("reply is JSON")
    }
}

impl RawClient {
    pub(crate) async fn connect(address: SocketAddr) -> Self {
        Self::over(TcpStream::connect(address).await.expect("connect"))
    }
}

impl<T: AsyncRead + AsyncWrite + Unpin> RawClient<T> {
    pub(crate) fn over(tcp: T) -> Self {
        Self { tcp, unread: Vec::new() }
    }

    pub(crate) fn into_inner(self) -> T {
        self.tcp
    }

    /// Fails if the server has closed the connection.
    pub(crate) async fn try_send(&mut self, bytes: impl AsRef<[u8]>) -> std::io::Result<()> {
        self.tcp.write_all(bytes.as_ref()).await
    }

    pub(crate) async fn send(&mut self, bytes: impl AsRef<[u8]>) {
        self.tcp.write_all(bytes.as_ref()).await.expect("send");
    }

    pub(crate) async fn post(&mut self, path: &str, content_type: &str, body: impl AsRef<[u8]>) -> RawReply {
        let body = body.as_ref();
        let mut request = format!(
            "POST {path} HTTP/1.1\r\nhost: test\r\ncontent-type: {content_type}\r\ncontent-length: {}\r\n\r\n",
            body.len()
        )
        .into_bytes();
        request.extend_from_slice(body);
        self.send(request).await;
        self.reply().await
    }

    pub(crate) async fn get(&mut self, path: &str) -> RawReply {
        self.send(format!("GET {path} HTTP/1.1\r\nhost: test\r\n\r\n")).await;
        self.reply().await
    }

    /// The reply to a HEAD request has a length and no body.
    pub(crate) async fn head(&mut self, path: &str) -> RawReply {
        self.send(format!("HEAD {path} HTTP/1.1\r\nhost: test\r\n\r\n")).await;
        self.message(false).await.expect("a reply")
    }

    pub(crate) async fn reply(&mut self) -> RawReply {
        self.try_reply().await.expect("a reply before the end of the connection")
    }

    /// The next final reply; `None` if the connection ends first.
    pub(crate) async fn try_reply(&mut self) -> Option<RawReply> {
        loop {
            let reply = self.message(true).await?;
            if reply.status != 100 {
                return Some(reply);
            }
        }
    }

    /// `true` if the server closed without sending anything more.
    pub(crate) async fn closed(&mut self) -> bool {
        let mut byte = [0];
        match tokio::time::timeout(PATIENCE, self.tcp.read(&mut byte)).await.expect("closed in time") {
            Ok(count) => count == 0 && self.unread.is_empty(),
            Err(_) => true,
        }
    }

    async fn message(&mut self, has_body: bool) -> Option<RawReply> {
        let head_end = loop {
            if let Some(at) = self.unread.windows(4).position(|four| four == b"\r\n\r\n") {
                break at + 4;
            }
            self.more().await?;
        };
        let head = String::from_utf8(self.unread.drain(..head_end).collect()).expect("head is text");
        let status = head[9..12].parse().expect("status");
        let mut reply = RawReply { status, head, body: Vec::new() };
        if !has_body {
            return Some(reply);
        }
        let length: usize = reply.header("content-length").map_or(0, |length| length.parse().expect("length"));
        while self.unread.len() < length {
            self.more().await?;
        }
        reply.body = self.unread.drain(..length).collect();
        Some(reply)
    }

    async fn more(&mut self) -> Option<()> {
        let read = self.tcp.read_buf(&mut self.unread);
        let count = tokio::time::timeout(PATIENCE, read).await.expect("an answer in time").ok()?;
        (count > 0).then_some(())
    }
}

//! HTTP/1.1 on a plain TCP connection or over TLS, one request at a time: only what a load generator needs, since it
//! shares the processor with the server that it measures.
//!
//! Invariant: a connection is not used after an error. Responses must have a Content-Length.

use std::io::{self, ErrorKind};
use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use rustls::ClientConfig;
use rustls::pki_types::ServerName;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;
use tokio_rustls::TlsConnector;
use tokio_rustls::client::TlsStream;

const CONNECT_TIMEOUT: Duration = Duration::from_secs(5);
const HEAD_BYTES_MAX: usize = 32 << 10;
const BODY_BYTES_MAX: usize = 8 << 20;
const READ_BYTES: usize = 16 << 10;
/// A server under load.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Target {
    pub(super) url: String,
    /// `host:port` to connect to.
    pub(super) authority: String,
    /// The name that its certificate must have. `None` without TLS.
    server_name: Option<ServerName<'static>>,
    /// The path before `/v1`.
    pub(super) base_path: String,
}

impl Target {
    /// Parses `http://HOST[:PORT][/BASE]`, or the same with `https`.
    pub(super) fn parse(url: &str) -> Result<Self, String> {
        let uri: http::Uri = url.parse().map_err(|error| format!("not a URL: {error}"))?;
        let encrypted = match uri.scheme_str() {
            Some("http") if uri.query().is_none() => false,
            Some("https") if uri.query().is_none() => true,
            _ => return Err("must be http://HOST[:PORT] or https://HOST[:PORT]".to_owned()),
        };
        let host = uri.host().filter(|host| !host.is_empty()).ok_or("must name a host")?;
        let name = host.trim_start_matches('[').trim_end_matches(']').to_owned();
        let server_name = encrypted.then(|| ServerName::try_from(name)).transpose();
        Ok(Self {
            url: url.trim_end_matches('/').to_owned(),
            authority: format!("{host}:{}", uri.port_u16().unwrap_or(if encrypted { 443 } else { 80 })),
            server_name: server_name.map_err(|_| "must name a host that a certificate can hold")?,
            base_path: uri.path().trim_end_matches('/').to_owned(),
        })
    }

    pub(super) fn has_user(&self) -> bool {
        self.url.contains('@')
    }

    /// The TLS setup of its connections, if any.
    pub(super) fn security(&self, config: &Arc<ClientConfig>) -> Option<Security> {
        let name = self.server_name.clone()?;
        Some(Security { connector: TlsConnector::from(Arc::clone(config)), name })
    }

    pub(super) async fn resolve(&self) -> io::Result<SocketAddr> {
        let mut addresses = tokio::net::lookup_host(&self.authority).await?;
        addresses.next().ok_or_else(|| io::Error::new(ErrorKind::NotFound, "the name has no address"))
    }
}

/// The head of a response. Its body is [`Connection::body`].
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct ResponseHead {
    pub(super) status: u16,
    pub(super) retry_after: Option<Duration>,
    /// The server closes the connection after this response.
    pub(super) close: bool,
    head_len: usize,
    body_len: usize,
}

/// What a TLS connection needs.
#[derive(Clone)]
pub(super) struct Security {
    connector: TlsConnector,
    name: ServerName<'static>,
}

enum Stream {
    Plain(TcpStream),
    Tls(Box<TlsStream<TcpStream>>),
}

impl Stream {
    async fn write_all(&mut self, bytes: &[u8]) -> io::Result<()> {
        match self {
            Self::Plain(tcp) => tcp.write_all(bytes).await,
            Self::Tls(stream) => {
                stream.write_all(bytes).await?;
                stream.flush().await
            }
        }
    }

    async fn read(&mut self, space: &mut [u8]) -> io::Result<usize> {
        match self {
            Self::Plain(tcp) => tcp.read(space).await,
            Self::Tls(stream) => stream.read(space).await,
        }
    }
}

pub(super) struct Connection {
    stream: Stream,
    buffer: Vec<u8>,
    filled: usize,
}

impl Connection {
    pub(super) async fn open(address: SocketAddr, security: Option<&Security>) -> io::Result<Self> {
        let opening = async {
            let tcp = TcpStream::connect(address).await?;
            tcp.set_nodelay(true)?;
            let Some(Security { connector, name }) = security else { return Ok(Stream::Plain(tcp)) };
            Ok::<_, io::Error>(Stream::Tls(Box::new(connector.connect(name.clone(), tcp).await?)))
        };
        let stream = tokio::time::timeout(CONNECT_TIMEOUT, opening)
            .await
            .map_err(|_| io::Error::new(ErrorKind::TimedOut, "no connection within 5 s"))??;
        Ok(Self { stream, buffer: vec![0; READ_BYTES], filled: 0 })
    }

    /// Sends a request and reads the whole response.
    pub(super) async fn exchange(&mut self, request: &[u8]) -> io::Result<ResponseHead> {
        self.filled = 0;
        self.stream.write_all(request).await?;
        let answer = loop {
            self.read_more().await?;
            if let Some(answer) = parse_head(&self.buffer[..self.filled])? {
                break answer;
            }
            if self.filled > HEAD_BYTES_MAX {
                return Err(invalid("the head of the answer is too long"));
            }
        };
        let whole = answer.head_len + answer.body_len;
        while self.filled < whole {
            self.read_more().await?;
        }
        if self.filled > whole { Err(invalid("bytes after the answer")) } else { Ok(answer) }
    }

    /// The body of the last response.
    pub(super) fn body(&self, answer: &ResponseHead) -> &[u8] {
        &self.buffer[answer.head_len..answer.head_len + answer.body_len]
    }

    async fn read_more(&mut self) -> io::Result<()> {
        if self.filled == self.buffer.len() {
            self.buffer.resize(self.buffer.len() * 2, 0);
        }
        match self.stream.read(&mut self.buffer[self.filled..]).await? {
            0 => Err(io::Error::new(ErrorKind::UnexpectedEof, "the server closed the connection")),
            n => {
                self.filled += n;
                Ok(())
            }
        }
    }
}

fn invalid(why: &'static str) -> io::Error {
    io::Error::new(ErrorKind::InvalidData, why)
}

/// `None` until the head is complete.
fn parse_head(bytes: &[u8]) -> io::Result<Option<ResponseHead>> {
    let Some(end) = bytes.windows(4).position(|window| window == b"\r\n\r\n") else { return Ok(None) };
    let head = std::str::from_utf8(&bytes[..end]).map_err(|_| invalid("the head of the answer is not text"))?;
    let mut lines = head.split("\r\n");
    let status = lines
        .next()
        .and_then(|line| line.strip_prefix("HTTP/1.1 ").or_else(|| line.strip_prefix("HTTP/1.0 ")))
        .and_then(|rest| rest.get(..3)?.parse().ok())
        .ok_or_else(|| invalid("the answer is not HTTP/1.1"))?;
    let mut answer =
        ResponseHead { status, retry_after: None, close: head.starts_with("HTTP/1.0"), head_len: end + 4, body_len: 0 };
    let mut has_length = false;
    for (name, value) in lines.filter_map(|line| line.split_once(':')) {
        let value = value.trim();
        if name.eq_ignore_ascii_case("content-length") {
            answer.body_len = value.parse().map_err(|_| invalid("the answer's Content-Length is no number"))?;
            has_length = true;
        } else if name.eq_ignore_ascii_case("retry-after") {
            answer.retry_after = value.parse().ok().map(Duration::from_secs);
        } else if name.eq_ignore_ascii_case("connection") {
            answer.close |= value.eq_ignore_ascii_case("close");
        }
    }
    match answer.body_len {
        _ if !has_length && status != 204 => Err(invalid("the answer has no Content-Length")),
        len if len > BODY_BYTES_MAX => Err(invalid("the answer is too long")),
        _ => Ok(Some(answer)),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn targets_are_http_with_or_without_tls() {
        let target = Target::parse("http://localhost:8080/").unwrap();
        assert_eq!((target.authority.as_str(), target.base_path.as_str()), ("localhost:8080", ""));
        let target = Target::parse("http://[::1]/api/").unwrap();
        assert_eq!((target.authority.as_str(), target.base_path.as_str()), ("[::1]:80", "/api"));
        let target = Target::parse("https://[::1]/api/").unwrap();
        assert_eq!((target.authority.as_str(), target.base_path.as_str()), ("[::1]:443", "/api"));
        let config = Arc::new(crate::cli::client::tls::TlsArgs::default().client_config().unwrap());
        assert!(target.security(&config).is_some());
        assert!(Target::parse("http://[::1]/api/").unwrap().security(&config).is_none());
        assert!(!target.has_user() && Target::parse("http://u:p@a").unwrap().has_user());
        for wrong in ["", "localhost:8080", "ftp://a", "http://", "https://a/?b", "http://a/?b"] {
            assert!(Target::parse(wrong).is_err(), "{wrong}");
        }
    }

    #[test]
    fn heads_are_parsed_once_complete() {
        let text = b"HTTP/1.1 503 Service Unavailable\r\nretry-after: 2\r\nContent-Length: 5\r\nConnection: close\r\n\r\nhello";
        for cut in 0..text.len() - 5 {
            assert_eq!(parse_head(&text[..cut]).unwrap(), None);
        }
        let answer = parse_head(text).unwrap().unwrap();
        assert_eq!((answer.status, answer.body_len, answer.close), (503, 5, true));
        assert_eq!(answer.retry_after, Some(Duration::from_secs(2)));
        assert_eq!(&text[answer.head_len..], b"hello");
        for wrong in [
            "HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n",
            "HTTP/1.1 200 OK\r\nContent-Length: x\r\n\r\n",
            "HTTP/1.1 200 OK\r\nContent-Length: 99999999999\r\n\r\n",
            "SSH-2.0\r\n\r\n",
            "HTTP/1.1 2\r\n\r\n",
        ] {
            assert!(parse_head(wrong.as_bytes()).is_err(), "{wrong}");
        }
    }
}

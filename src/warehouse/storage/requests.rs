//! The HTTP client of object stores, which aborts requests that stall.
//!
//! The bound is on silence: the time in which no piece of the request was sent and none of the response
//! received. A timeout for the whole request would have to allow for the largest part over the slowest line, and
//! a hanging request would block its file for as long. Knows HTTP, nothing of files.

use std::future::Future;
use std::pin::{Pin, pin};
use std::sync::Arc;
use std::task::{Context, Poll, ready};
use std::time::Duration;

use bytes::Bytes;
use hyper::body::{Body, Frame, SizeHint};
use object_store::client::{
    HttpClient, HttpConnector, HttpError, HttpErrorKind, HttpRequest, HttpRequestBody, HttpResponse, HttpResponseBody,
    HttpService,
};
use object_store::{ClientConfigKey, ClientOptions};
use parking_lot::Mutex;
use tokio::time::{Instant, Sleep, sleep, sleep_until};

use super::markup::Markup;

/// The longest duration of a request that keeps making progress.
const REQUEST_TIMEOUT: Duration = Duration::from_secs(300);
/// Bodies are sent in body of this size, to distinguish a slow connection from a silent one.
const PIECE_BYTES: usize = 64 << 10;

/// How much of a body the operating system may buffer, and the assumed minimum rate of sending it, which cannot be
/// observed.
const HELD_BACK_BYTES_MAX: usize = 4 << 20;
const HELD_BACK_BYTES_PER_SECOND: usize = 1 << 20;

fn held_back(body_bytes: usize) -> Duration {
    Duration::from_secs_f64(body_bytes.min(HELD_BACK_BYTES_MAX) as f64 / HELD_BACK_BYTES_PER_SECOND as f64)
}

/// Builds the HTTP clients for an object store and its credential providers.
#[derive(Clone, Copy, Debug)]
pub(super) struct Connector {
    pub(super) silence_max: Duration,
}

impl HttpConnector for Connector {
    fn connect(&self, options: &ClientOptions) -> object_store::Result<HttpClient> {
        let plain = options.get_config_value(&ClientConfigKey::AllowHttp).is_some_and(|on| is_on(&on));
        let failed = |error| object_store::Error::Generic { store: "HTTP client", source: Box::new(error) };
        let connections = Mutex::new(connections(plain, self.silence_max).map_err(failed)?);
        Ok(HttpClient::new(Client { plain, silence_max: self.silence_max, connections }))
    }
}

/// Whether an environment variable is true, by the rules of the object-store client.
pub(super) fn is_on(value: &str) -> bool {
    ["1", "true", "on", "yes", "y"].iter().any(|on| value.eq_ignore_ascii_case(on))
}

fn connections(plain: bool, silence_max: Duration) -> reqwest::Result<reqwest::Client> {
    reqwest::Client::builder()
        .user_agent(concat!("causality/", env!("CARGO_PKG_VERSION")))
        .connect_timeout(silence_max)
        .timeout(REQUEST_TIMEOUT)
        .http1_only()
        .https_only(!plain)
        .build()
}

#[derive(Debug)]
struct Client {
    plain: bool,
    silence_max: Duration,
    /// Replaced as a whole when one connection stalls, since the others may be dead too.
    connections: Mutex<reqwest::Client>,
}

impl HttpService for Client {
    fn call<'a, 'b>(
        &'a self,
        request: HttpRequest,
    ) -> Pin<Box<dyn Future<Output = Result<HttpResponse, HttpError>> + Send + 'b>>
    where
        'a: 'b,
        Self: 'b,
    {
        Box::pin(self.send(request))
    }
}

impl Client {
    async fn send(&self, request: HttpRequest) -> Result<HttpResponse, HttpError> {
        let (parts, body) = request.into_parts();
        // Files are requested by range. Any other response is parsed as XML.
        let is_file = parts.headers.contains_key(http::header::RANGE);
        let url = parts.uri.to_string().parse().map_err(|error| HttpError::new(HttpErrorKind::Unknown, error))?;
        let progress = Progress::new();
        let silence_max = self.silence_max + held_back(body.content_length());
        let mut outgoing = reqwest::Request::new(parts.method, url);
        *outgoing.headers_mut() = parts.headers;
        if body.content_length() > 0 {
            let body = RequestBody { rest: body, frame: Bytes::new(), progress: progress.clone() };
            *outgoing.body_mut() = Some(reqwest::Body::wrap(body));
        } else {
            // Object stores require an explicit content length of 0.
            *outgoing.body_mut() = Some(Bytes::new().into());
        }
        let connections = self.connections.lock().clone();
        let answered =
            unless_stalled(&progress, silence_max, connections.execute(outgoing)).await.inspect_err(|_| {
                if let Ok(fresh) = self::connections(self.plain, self.silence_max) {
                    *self.connections.lock() = fresh;
                }
            })?;
        let (parts, body) =
            http::Response::from(answered.map_err(|error| failed(error, HttpErrorKind::Request))?).into_parts();
        let markup = (!is_file && parts.status.is_success()).then(Markup::default);
        let body = ResponseBody { body, markup, silence: None, silence_max: self.silence_max };
        Ok(HttpResponse::from_parts(parts, HttpResponseBody::new(body)))
    }
}

/// The time of a request's last progress.
#[derive(Clone)]
struct Progress(Arc<Mutex<Instant>>);

impl Progress {
    fn new() -> Self {
        Self(Arc::new(Mutex::new(Instant::now())))
    }

    fn note(&self) {
        *self.0.lock() = Instant::now();
    }

    fn last(&self) -> Instant {
        *self.0.lock()
    }
}

async fn unless_stalled<T>(
    progress: &Progress,
    silence_max: Duration,
    work: impl Future<Output = T>,
) -> Result<T, HttpError> {
    let mut work = pin!(work);
    loop {
        let until = progress.last() + silence_max;
        tokio::select! {
            // Check for a result first: it may have arrived while this process was suspended.
            biased;
            done = &mut work => return Ok(done),
            () = sleep_until(until) => {
                if progress.last() + silence_max <= until {
                    return Err(Stalled(silence_max).into());
                }
            }
        }
    }
}

/// A request body that records progress when it is polled.
struct RequestBody {
    rest: HttpRequestBody,
    frame: Bytes,
    progress: Progress,
}

impl Body for RequestBody {
    type Data = Bytes;
    type Error = HttpError;

    fn poll_frame(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, HttpError>>> {
        self.progress.note();
        while self.frame.is_empty() {
            match ready!(Pin::new(&mut self.rest).poll_frame(context)) {
                Some(Ok(frame)) => self.frame = frame.into_data().unwrap_or_default(),
                end => return Poll::Ready(end),
            }
        }
        let length = self.frame.len().min(PIECE_BYTES);
        Poll::Ready(Some(Ok(Frame::data(self.frame.split_to(length)))))
    }

    fn is_end_stream(&self) -> bool {
        self.frame.is_empty() && self.rest.is_end_stream()
    }

    fn size_hint(&self) -> SizeHint {
        let rest = self.rest.size_hint().exact().unwrap_or_default();
        SizeHint::with_exact(self.frame.len() as u64 + rest)
    }
}

/// A response body that fails if its next piece does not arrive in time.
struct ResponseBody {
    body: reqwest::Body,
    /// Checks the response if it is not a file.
    markup: Option<Markup>,
    /// Runs while waiting for a piece.
    silence: Option<Pin<Box<Sleep>>>,
    silence_max: Duration,
}

impl Body for ResponseBody {
    type Data = Bytes;
    type Error = HttpError;

    fn poll_frame(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, HttpError>>> {
        if let Poll::Ready(frame) = Pin::new(&mut self.body).poll_frame(context) {
            self.silence = None;
            let frame = frame.map(|frame| frame.map_err(|error| failed(error, HttpErrorKind::Interrupted)));
            if let (Some(Ok(frame)), Some(markup)) = (&frame, &mut self.markup)
                && let Some(Err(refused)) = frame.data_ref().map(|bytes| markup.read(bytes))
            {
                return Poll::Ready(Some(Err(HttpError::new(HttpErrorKind::Decode, refused))));
            }
            return Poll::Ready(frame);
        }
        let silence_max = self.silence_max;
        let silence = self.silence.get_or_insert_with(|| Box::pin(sleep(silence_max)));
        ready!(silence.as_mut().poll(context));
        Poll::Ready(Some(Err(Stalled(silence_max).into())))
    }

    fn is_end_stream(&self) -> bool {
        self.body.is_end_stream()
    }

    fn size_hint(&self) -> SizeHint {
        self.body.size_hint()
    }
}

/// The request made no progress for this long.
#[derive(Debug, thiserror::Error)]
#[error("the object store was silent for {0:?}")]
struct Stalled(Duration);

impl From<Stalled> for HttpError {
    fn from(stalled: Stalled) -> Self {
        Self::new(HttpErrorKind::Timeout, stalled)
    }
}

/// Converts the client's error. `broken` is the kind for a broken connection.
fn failed(error: reqwest::Error, broken: HttpErrorKind) -> HttpError {
    let kind = if error.is_timeout() {
        HttpErrorKind::Timeout
    } else if error.is_connect() {
        HttpErrorKind::Connect
    } else if error.is_builder() || error.is_redirect() {
        HttpErrorKind::Unknown
    } else {
        broken
    };
    // The caller names the URL unless it is secret.
    HttpError::new(kind, error.without_url())
}

#[cfg(test)]
mod tests {
    use tokio::io::{AsyncReadExt, AsyncWriteExt};
    use tokio::net::{TcpSocket, TcpStream};

    use super::*;

    const SILENCE_MAX: Duration = Duration::from_millis(700);
    const BODY_BYTES: usize = 32 << 20;

    /// Sends a body to a peer that runs `serve`. Returns the response's body or the error's kind, and the duration.
    async fn exchange(serve: impl AsyncFnOnce(TcpStream)) -> (Result<Bytes, HttpErrorKind>, Duration) {
        let socket = TcpSocket::new_v4().unwrap();
        // Buffered bytes say nothing about the connection.
        socket.set_recv_buffer_size(64 << 10).unwrap();
        socket.bind("127.0.0.1:0".parse().unwrap()).unwrap();
        let listener = socket.listen(1).unwrap();
        let address = listener.local_addr().unwrap();
        let client =
            Connector { silence_max: SILENCE_MAX }.connect(&ClientOptions::new().with_allow_http(true)).unwrap();
        let body = HttpRequestBody::from(Bytes::from(vec![7; BODY_BYTES]));
        let request = http::Request::put(format!("http://{address}/key")).body(body).unwrap();
        let started = Instant::now();
        let ask = async {
            let answered = async { client.execute(request).await?.into_body().bytes().await };
            (answered.await.map_err(|error| error.kind()), started.elapsed())
        };
        let serve = async { serve(listener.accept().await.unwrap().0).await };
        tokio::pin!(ask, serve);
        tokio::select! {
            asked = &mut ask => asked,
            () = &mut serve => ask.await,
        }
    }

    /// Reads `bytes` of the request at about 20 MiB a second.
    async fn read_slowly(stream: &mut TcpStream, mut bytes: usize) {
        let mut buffer = vec![0; 1 << 20];
        while bytes > 0 {
            let read = stream.read(&mut buffer).await.unwrap();
            bytes = bytes.saturating_sub(read);
            tokio::time::sleep(Duration::from_millis(50).mul_f64(read as f64 / buffer.len() as f64)).await;
        }
    }

    #[tokio::test]
    async fn a_slow_connection_does_not_time_out() {
        let (answered, took) = exchange(async |mut stream| {
            read_slowly(&mut stream, BODY_BYTES).await;
            stream.write_all(b"HTTP/1.1 200 OK\r\ncontent-length: 10\r\n\r\n").await.unwrap();
            for _ in 0..5 {
                tokio::time::sleep(SILENCE_MAX / 2).await;
                stream.write_all(b"ab").await.unwrap();
            }
        })
        .await;
        assert_eq!(answered.unwrap(), "ababababab");
        assert!(took > SILENCE_MAX * 3, "{took:?}");
    }

    #[tokio::test]
    async fn a_silent_connection_times_out() {
        let forever = Duration::from_secs(3_600);
        let (answered, took) = exchange(async |mut stream| {
            read_slowly(&mut stream, BODY_BYTES / 4).await;
            tokio::time::sleep(forever).await;
        })
        .await;
        assert_eq!(answered, Err(HttpErrorKind::Timeout), "in the middle of the request");
        assert!(took < SILENCE_MAX * 6 + held_back(BODY_BYTES), "{took:?}");
        let (answered, _) = exchange(async |mut stream| {
            read_slowly(&mut stream, BODY_BYTES).await;
            tokio::time::sleep(forever).await;
        })
        .await;
        assert_eq!(answered, Err(HttpErrorKind::Timeout), "before the answer");
        let (answered, _) = exchange(async |mut stream| {
            read_slowly(&mut stream, BODY_BYTES).await;
            stream.write_all(b"HTTP/1.1 200 OK\r\ncontent-length: 10\r\n\r\nhalf").await.unwrap();
            tokio::time::sleep(forever).await;
        })
        .await;
        assert_eq!(answered, Err(HttpErrorKind::Timeout), "in the middle of the answer");
    }

    #[tokio::test]
    async fn a_broken_connection_is_reported_as_one() {
        let (answered, _) = exchange(async |mut stream| {
            read_slowly(&mut stream, BODY_BYTES).await;
            stream.write_all(b"HTTP/1.1 200 OK\r\ncontent-length: 10\r\n\r\nhalf").await.unwrap();
        })
        .await;
        assert_eq!(answered, Err(HttpErrorKind::Interrupted));
        let (answered, _) = exchange(async |mut stream| read_slowly(&mut stream, BODY_BYTES / 4).await).await;
        assert_eq!(answered, Err(HttpErrorKind::Request));
    }
}

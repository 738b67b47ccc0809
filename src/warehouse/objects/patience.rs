//! Requests to an object store, given up soon when the other end has fallen silent.
//!
//! Invariant: a request goes on while its bytes move, however slow the network is; when nothing
//! has moved for longer than [`PATIENCE`] allows it fails, and the connections that there were
//! are not used again, since they may be as dead as the one that showed it.

use std::future::Future;
use std::pin::Pin;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::task::{Context, Poll};
use std::time::Duration;

use bytes::Bytes;
use hyper::body::{Body, Frame, SizeHint};
use object_store::client::{
    HttpClient, HttpConnector, HttpError, HttpErrorKind, HttpRequest, HttpRequestBody, HttpResponse, HttpResponseBody,
    HttpService,
};
use object_store::{ClientConfigKey, ClientOptions};
use tokio::time::{Instant, Sleep};

const PATIENCE: Patience = Patience { silence_max: Duration::from_secs(5), buffered_bytes_per_second: 1 << 20 };
/// What the operating system may hold back of a body that was handed to it: its way is not seen.
const BUFFERED_BYTES_MAX: usize = 4 << 20;
/// How long a request may take in all; the sink tries again.
const REQUEST_TIMEOUT: Duration = Duration::from_secs(30);
const CONNECT_TIMEOUT: Duration = Duration::from_secs(5);
/// Bytes that are handed to a connection at a time: what is taken shows that the other end is there.
const PIECE_BYTES: usize = 64 << 10;

/// How long a request may wait without a byte that moves.
#[derive(Clone, Copy, Debug)]
struct Patience {
    silence_max: Duration,
    /// What the operating system holds back goes out at this rate at least.
    buffered_bytes_per_second: usize,
}

impl Patience {
    fn of_body(self, bytes: usize) -> Duration {
        let buffered = bytes.min(BUFFERED_BYTES_MAX) as f64;
        self.silence_max + Duration::from_secs_f64(buffered / self.buffered_bytes_per_second as f64)
    }
}

/// Makes clients of this kind.
#[derive(Debug)]
pub(super) struct Connector;

impl HttpConnector for Connector {
    fn connect(&self, options: &ClientOptions) -> object_store::Result<HttpClient> {
        let plain = options.get_config_value(&ClientConfigKey::AllowHttp).is_some_and(|value| value == "true");
        let client = Mutex::new(client(plain)?);
        Ok(HttpClient::new(Patient { plain, patience: PATIENCE, client }))
    }
}

fn client(plain: bool) -> object_store::Result<reqwest::Client> {
    let built = reqwest::Client::builder()
        .user_agent(concat!("causality/", env!("CARGO_PKG_VERSION")))
        .timeout(REQUEST_TIMEOUT)
        .connect_timeout(CONNECT_TIMEOUT)
        .http1_only()
        .https_only(!plain)
        .build();
    built.map_err(|error| object_store::Error::Generic { store: "HTTP client", source: error.into() })
}

#[derive(Debug)]
struct Patient {
    plain: bool,
    patience: Patience,
    /// Replaced, with all its connections, when one of them falls silent.
    client: Mutex<reqwest::Client>,
}

impl HttpService for Patient {
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

impl Patient {
    async fn send(&self, request: HttpRequest) -> Result<HttpResponse, HttpError> {
        let (parts, body) = request.into_parts();
        let url = parts.uri.to_string().parse().map_err(|error| HttpError::new(HttpErrorKind::Unknown, error))?;
        let moved = Moved::default();
        let silence_max = self.patience.of_body(body.content_length());
        let mut request = reqwest::Request::new(parts.method, url);
        *request.headers_mut() = parts.headers;
        *request.body_mut() = Some(match body.as_bytes() {
            Some(bytes) if bytes.len() <= PIECE_BYTES => bytes.clone().into(),
            _ => reqwest::Body::wrap(Sending { body, frame: Bytes::new(), moved: moved.clone() }),
        });
        let client = self.client().clone();
        let answered = tokio::select! {
            answered = client.execute(request) => answered.map_err(of_reqwest),
            () = moved.silence(silence_max) => {
                if let Ok(fresh) = self::client(self.plain) {
                    *self.client() = fresh;
                }
                Err(silent())
            }
        };
        let (parts, body) = http::Response::<reqwest::Body>::from(answered?).into_parts();
        let silence_max = self.patience.silence_max;
        let silence = Box::pin(tokio::time::sleep(silence_max));
        let body = Receiving { body, silence_max, silence };
        Ok(HttpResponse::from_parts(parts, HttpResponseBody::new(body)))
    }

    fn client(&self) -> MutexGuard<'_, reqwest::Client> {
        self.client.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

fn silent() -> HttpError {
    HttpError::new(HttpErrorKind::Timeout, std::io::Error::from(std::io::ErrorKind::TimedOut))
}

/// Only what says when a request may be sent again is told apart.
fn of_reqwest(error: reqwest::Error) -> HttpError {
    let kind = if error.is_timeout() {
        HttpErrorKind::Timeout
    } else if error.is_connect() {
        HttpErrorKind::Connect
    } else if error.is_decode() || error.is_builder() {
        HttpErrorKind::Decode
    } else {
        HttpErrorKind::Interrupted
    };
    HttpError::new(kind, error.without_url())
}

/// When a byte of the request moved last.
#[derive(Clone, Debug)]
struct Moved(Arc<Mutex<Instant>>);

impl Default for Moved {
    fn default() -> Self {
        Self(Arc::new(Mutex::new(Instant::now())))
    }
}

impl Moved {
    fn now(&self) {
        *self.0.lock().unwrap_or_else(PoisonError::into_inner) = Instant::now();
    }

    /// Returns when nothing has moved for too long.
    async fn silence(&self, silence_max: Duration) {
        loop {
            let until = *self.0.lock().unwrap_or_else(PoisonError::into_inner) + silence_max;
            if until <= Instant::now() {
                return;
            }
            tokio::time::sleep_until(until).await;
        }
    }
}

/// The body of a request, in pieces.
#[derive(Debug)]
struct Sending {
    body: HttpRequestBody,
    /// What is left of the frame at hand.
    frame: Bytes,
    moved: Moved,
}

impl Body for Sending {
    type Data = Bytes;
    type Error = HttpError;

    fn poll_frame(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, HttpError>>> {
        while self.frame.is_empty() {
            match Pin::new(&mut self.body).poll_frame(context) {
                Poll::Ready(Some(Ok(frame))) => self.frame = frame.into_data().unwrap_or_default(),
                other => return other,
            }
        }
        self.moved.now();
        let length = self.frame.len().min(PIECE_BYTES);
        Poll::Ready(Some(Ok(Frame::data(self.frame.split_to(length)))))
    }

    fn is_end_stream(&self) -> bool {
        self.frame.is_empty() && self.body.is_end_stream()
    }

    fn size_hint(&self) -> SizeHint {
        SizeHint::with_exact(self.frame.len() as u64 + self.body.size_hint().lower())
    }
}

/// The body of an answer.
struct Receiving {
    body: reqwest::Body,
    silence_max: Duration,
    silence: Pin<Box<Sleep>>,
}

impl Body for Receiving {
    type Data = Bytes;
    type Error = HttpError;

    fn poll_frame(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, HttpError>>> {
        if let Poll::Ready(frame) = Pin::new(&mut self.body).poll_frame(context) {
            let until = Instant::now() + self.silence_max;
            self.silence.as_mut().reset(until);
            return Poll::Ready(frame.map(|frame| frame.map_err(of_reqwest)));
        }
        self.silence.as_mut().poll(context).map(|()| Some(Err(silent())))
    }

    fn is_end_stream(&self) -> bool {
        self.body.is_end_stream()
    }

    fn size_hint(&self) -> SizeHint {
        self.body.size_hint()
    }
}

#[cfg(test)]
mod tests {
    use object_store::PutPayload;
    use tokio::io::{AsyncReadExt, AsyncWriteExt};
    use tokio::net::TcpSocket;

    use super::*;

    const IMPATIENCE: Patience =
        Patience { silence_max: Duration::from_millis(500), buffered_bytes_per_second: 8 << 20 };
    const SILENCE: Duration = IMPATIENCE.silence_max;
    const BODY_BYTES: usize = 24 << 20;
    const RESTS: usize = 24;

    /// Puts a body to a server that rests `RESTS` times while it reads, and answers in the end or not.
    async fn put(rest: Duration, answers: bool) -> (Result<Bytes, HttpError>, Duration) {
        let socket = TcpSocket::new_v4().unwrap();
        socket.set_recv_buffer_size(64 << 10).unwrap();
        socket.bind(([127, 0, 0, 1], 0).into()).unwrap();
        let listener = socket.listen(1).unwrap();
        let address = listener.local_addr().unwrap();
        let serving = async {
            let (mut socket, _) = listener.accept().await.unwrap();
            // The head comes first, and is not counted.
            let (mut read, mut rests, mut bytes) = (0, 0, vec![0; PIECE_BYTES]);
            while read < BODY_BYTES {
                read += socket.read(&mut bytes).await.unwrap();
                if read * RESTS / BODY_BYTES > rests {
                    rests += 1;
                    tokio::time::sleep(rest).await;
                }
            }
            if answers {
                socket.write_all(b"HTTP/1.1 200 OK\r\ncontent-length: 4\r\n\r\nd").await.unwrap();
                tokio::time::sleep(SILENCE / 2).await;
                socket.write_all(b"one").await.unwrap();
            }
            std::future::pending::<()>().await;
        };
        let patient = Patient { plain: true, patience: IMPATIENCE, client: Mutex::new(client(true).unwrap()) };
        let body = HttpRequestBody::from(PutPayload::from(Bytes::from(vec![7; BODY_BYTES])));
        let request = http::Request::put(format!("http://{address}/object")).body(body).unwrap();
        let started = Instant::now();
        let asking = async {
            let answer = patient.send(request).await?;
            answer.into_body().bytes().await
        };
        let answer = tokio::select! {
            answer = asking => answer,
            () = serving => unreachable!("it never ends"),
        };
        (answer, started.elapsed())
    }

    #[tokio::test]
    async fn a_slow_upload_goes_on_and_a_silent_end_is_given_up() {
        let (answer, took) = put(Duration::from_millis(80), true).await;
        assert_eq!(answer.unwrap(), "done");
        assert!(took > IMPATIENCE.of_body(BODY_BYTES), "{took:?} shows nothing");
        let (answer, took) = put(Duration::ZERO, false).await;
        assert_eq!(answer.unwrap_err().kind(), HttpErrorKind::Timeout);
        assert!(took >= SILENCE && took < 10 * SILENCE, "{took:?}");
    }
}

//! Requests to an object store, given up soon when the other end has fallen silent.
//!
//! Invariant: a request goes on while its bytes move, however slow the network is; when nothing
//! has moved for [`SILENCE_MAX`] it fails, and the connections that there were are not used
//! again, since they may be as dead as the one that showed it.

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

/// How long a request may wait without a byte that moves.
const SILENCE_MAX: Duration = Duration::from_secs(6);
/// How long a request may take in all; the sink tries again.
const REQUEST_TIMEOUT: Duration = Duration::from_secs(30);
const CONNECT_TIMEOUT: Duration = Duration::from_secs(5);
/// Bytes that are handed to a connection at a time: what is taken shows that the other end is there.
const PIECE_BYTES: usize = 64 << 10;

/// Makes clients of this kind.
#[derive(Debug)]
pub(super) struct Connector;

impl HttpConnector for Connector {
    fn connect(&self, options: &ClientOptions) -> object_store::Result<HttpClient> {
        let plain = options.get_config_value(&ClientConfigKey::AllowHttp).is_some_and(|value| value == "true");
        let client = Mutex::new(client(plain)?);
        Ok(HttpClient::new(Patient { plain, client }))
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
        let mut request = reqwest::Request::new(parts.method, url);
        *request.headers_mut() = parts.headers;
        *request.body_mut() = Some(match body.as_bytes() {
            Some(bytes) if bytes.len() <= PIECE_BYTES => bytes.clone().into(),
            _ => reqwest::Body::wrap(Sending { body, frame: Bytes::new(), moved: moved.clone() }),
        });
        let client = self.client().clone();
        let answered = tokio::select! {
            answered = client.execute(request) => answered.map_err(of_reqwest),
            () = moved.silence() => {
                if let Ok(fresh) = self::client(self.plain) {
                    *self.client() = fresh;
                }
                Err(silent())
            }
        };
        let (parts, body) = http::Response::<reqwest::Body>::from(answered?).into_parts();
        let body = Receiving { body, silence: Box::pin(tokio::time::sleep(SILENCE_MAX)) };
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
    async fn silence(&self) {
        loop {
            let until = *self.0.lock().unwrap_or_else(PoisonError::into_inner) + SILENCE_MAX;
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
            self.silence.as_mut().reset(Instant::now() + SILENCE_MAX);
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

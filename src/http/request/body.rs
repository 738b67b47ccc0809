//! Reads request bodies within a size, a timeout and the memory budget.
//!
//! Memory is taken from the budget as bytes arrive, never by declared size: a client that declares a large body and
//! sends nothing takes no memory.

use std::error::Error;
use std::net::IpAddr;
use std::pin::{Pin, pin};
use std::sync::Arc;
use std::task::{Context, Poll};
use std::time::Duration;

use bytes::{Bytes, BytesMut};
use http::HeaderMap;
use http_body_util::BodyExt;
use hyper::body::{Body, Frame, Incoming, SizeHint};

use super::body_error::BodyError;
use crate::http::connection::share::Share;

/// The initial allocation for a body that arrives in parts.
const FIRST_BYTES: usize = 2 * 1024;
/// Allocation ahead of the received bytes, as a factor. Untouched memory costs nothing, while growing costs a copy.
const AHEAD: usize = 10;

/// A request body that counts its bytes as they arrive.
#[derive(Debug)]
pub struct Inbound {
    /// `None` after its end, or during the drop.
    body: Option<Incoming>,
    share: Arc<Share>,
}

/// Why [`Inbound`] ended early.
#[derive(Debug, thiserror::Error)]
pub enum InboundError {
    #[error("read request body")]
    Connection(#[source] hyper::Error),
    #[error("requests hold all the memory that they may")]
    Busy,
    #[error("the body came too slowly while memory was short")]
    Slow,
    /// The trailers are not real: a bare line feed preceded them, and what follows was skipped.
    #[error("the trailers of the request body cannot be read")]
    Trailers,
}

impl Inbound {
    pub(crate) fn new(body: Incoming, share: Arc<Share>) -> Self {
        Self { body: Some(body), share }
    }

    /// The peer that sent the request: the client, or a proxy in front of it.
    pub fn peer(&self) -> IpAddr {
        self.share.peer()
    }

    /// The memory of the request, for code that expands the body.
    pub(crate) fn memory(&self) -> BodyMemory {
        BodyMemory(Arc::clone(&self.share))
    }

    /// Reserves memory for a reply of this size. Memory that the request holds already counts.
    pub fn reserve_for_reply(&self, bytes: usize) -> Result<(), BodyError> {
        self.share.reserve(bytes).map_err(|exhausted| {
            self.share.count_refusal(exhausted);
            BodyError::Busy
        })
    }

    /// The same for an optional reply: a lack of room is not counted as a refusal.
    pub fn has_room_for_reply(&self, bytes: usize) -> bool {
        self.share.reserve(bytes).is_ok()
    }
}

/// See [`Inbound::memory`].
pub(crate) struct BodyMemory(Arc<Share>);

impl BodyMemory {
    /// Counts bytes as if they were received.
    pub(crate) fn received(&self, bytes: usize) -> Result<(), BodyError> {
        self.0.body_received(bytes).map_err(|exhausted| {
            self.0.count_refusal(exhausted);
            BodyError::Busy
        })
    }
}

impl Body for Inbound {
    type Data = Bytes;
    type Error = InboundError;

    fn poll_frame(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Option<Result<Frame<Bytes>, InboundError>>> {
        if self.share.is_evicted() {
            return Poll::Ready(Some(Err(InboundError::Slow)));
        }
        let Some(body) = &mut self.body else { return Poll::Ready(None) };
        let Poll::Ready(frame) = Pin::new(body).poll_frame(cx) else {
            self.share.waits_for_body(cx.waker());
            return Poll::Pending;
        };
        let counted = match frame {
            // In HTTP/1, hyper reports trailers only if there are some.
            Some(Ok(frame))
                if frame.trailers_ref().is_some_and(HeaderMap::is_empty) && !self.share.is_multiplexed() =>
            {
                Some(Err(InboundError::Trailers))
            }
            Some(Ok(frame)) => match self.share.body_received(frame.data_ref().map_or(0, Bytes::len)) {
                Ok(()) => Some(Ok(frame)),
                Err(exhausted) => {
                    self.share.count_refusal(exhausted);
                    Some(Err(InboundError::Busy))
                }
            },
            Some(Err(error)) => Some(Err(InboundError::Connection(error))),
            None => {
                self.body = None;
                None
            }
        };
        if !matches!(counted, Some(Ok(_))) || self.is_end_stream() {
            self.share.body_ended();
        }
        Poll::Ready(counted)
    }

    fn is_end_stream(&self) -> bool {
        self.body.as_ref().is_none_or(Body::is_end_stream)
    }

    fn size_hint(&self) -> SizeHint {
        self.body.as_ref().map_or_else(SizeHint::default, Body::size_hint)
    }
}

impl Drop for Inbound {
    fn drop(&mut self) {
        self.share.body_ended();
        if let Some(body) = self.body.take()
            && !body.is_end_stream()
        {
            self.share.leave_unread(body);
        }
    }
}

/// Reads a body to its end. A body that arrived in a single frame is not copied.
///
/// `timeout` runs from the headers to the last byte.
pub async fn read_body<B>(body: B, bytes_max: usize, timeout: Duration) -> Result<Bytes, BodyError>
where
    B: Body<Data = Bytes>,
    B::Error: Into<Box<dyn Error + Send + Sync>>,
{
    let declared = declared(&body, bytes_max)?;
    tokio::time::timeout(timeout, collect(body, bytes_max, declared)).await.map_err(|_| BodyError::Timeout)?
}

/// The root cause of a body error, through any number of wrappers.
pub(crate) fn fault(error: Box<dyn Error + Send + Sync>) -> BodyError {
    let mut cause: Option<&(dyn Error + 'static)> = Some(&*error);
    while let Some(error) = cause {
        match error.downcast_ref() {
            Some(InboundError::Busy) => return BodyError::Busy,
            Some(InboundError::Slow) => return BodyError::Slow,
            Some(InboundError::Connection(_) | InboundError::Trailers) => return BodyError::Broken,
            None => cause = error.source(),
        }
    }
    BodyError::Broken
}

/// The `Content-Length`; fails before reading anything if it exceeds the limit.
fn declared<B: Body>(body: &B, bytes_max: usize) -> Result<Option<usize>, BodyError> {
    match body.size_hint().exact() {
        None => Ok(None),
        Some(length) => match usize::try_from(length) {
            Ok(length) if length <= bytes_max => Ok(Some(length)),
            _ => Err(BodyError::TooLarge),
        },
    }
}

async fn collect<B>(body: B, bytes_max: usize, declared: Option<usize>) -> Result<Bytes, BodyError>
where
    B: Body<Data = Bytes>,
    B::Error: Into<Box<dyn Error + Send + Sync>>,
{
    let mut body = pin!(body);
    let mut joined = BytesMut::new();
    while let Some(frame) = body.frame().await {
        // Trailers are skipped.
        let Ok(data) = frame.map_err(|error| fault(error.into()))?.into_data() else { continue };
        let total = joined.len() + data.len();
        if total > bytes_max {
            return Err(BodyError::TooLarge);
        }
        if joined.is_empty() && body.is_end_stream() {
            return Ok(data);
        }
        // A small slice of a large buffer would keep the buffer alive, so it is copied before waiting for more.
        if total > joined.capacity() {
            let ahead = FIRST_BYTES.max(AHEAD * total);
            let capacity = ahead.min(declared.unwrap_or(bytes_max)).max(total);
            joined.reserve(capacity - joined.len());
        }
        joined.extend_from_slice(&data);
    }
    Ok(joined.freeze())
}

#[cfg(test)]
mod tests {
    use std::collections::VecDeque;
    use std::convert::Infallible;

    use http_body_util::Full;

    use super::*;

    /// A body of unknown length in the given pieces, which then ends or hangs.
    struct Pieces(VecDeque<Bytes>, bool);

    impl Body for Pieces {
        type Data = Bytes;
        type Error = Infallible;
        fn poll_frame(mut self: Pin<&mut Self>, _: &mut Context<'_>) -> Poll<Option<Result<Frame<Bytes>, Infallible>>> {
            match self.0.pop_front() {
                Some(piece) => Poll::Ready(Some(Ok(Frame::data(piece)))),
                None if self.1 => Poll::Pending,
                None => Poll::Ready(None),
            }
        }
    }

    fn pieces(sizes: &[usize], hangs: bool) -> Pieces {
        Pieces(sizes.iter().map(|size| Bytes::from(vec![7; *size])).collect(), hangs)
    }

    const PATIENCE: Duration = Duration::from_secs(10);

    #[tokio::test]
    async fn one_frame_is_not_copied() {
        let sent = Bytes::from(vec![1; 1_000]);
        let body = read_body(Full::new(sent.clone()), 1_000, PATIENCE).await.unwrap();
        assert_eq!(body.as_ptr(), sent.as_ptr());
    }

    #[tokio::test]
    async fn frames_are_joined() {
        let body = read_body(pieces(&[1, 100_000, 0, 199_999], false), 300_000, PATIENCE).await.unwrap();
        assert_eq!(body, vec![7; 300_000]);
    }

    #[tokio::test]
    async fn refuses_over_the_limit() {
        let read = |body, timeout| read_body(body, 300_000, timeout);
        assert_eq!(read(pieces(&[300_000, 1], false), PATIENCE).await.unwrap_err(), BodyError::TooLarge);
        let declared = Full::new(Bytes::from(vec![0; 300_001]));
        assert_eq!(read_body(declared, 300_000, PATIENCE).await.unwrap_err(), BodyError::TooLarge);
        let hanging = read(pieces(&[1], true), Duration::from_millis(30));
        assert_eq!(hanging.await.unwrap_err(), BodyError::Timeout);
    }

    #[tokio::test]
    async fn body_errors_are_found_through_wrappers() {
        let layered = axum::Error::new(InboundError::Slow);
        assert_eq!(fault(Box::new(layered)), BodyError::Slow);
        assert_eq!(fault(Box::new(InboundError::Busy)), BodyError::Busy);
        assert_eq!(fault("broken".into()), BodyError::Broken);
    }
}

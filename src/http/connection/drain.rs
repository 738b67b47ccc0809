//! Reads the rest of a refused body for a while, so that the client sees the reply.
//!
//! In HTTP/2 the reply ends the stream, and common clients that are still sending then fail without reading it, so the
//! reply has to wait. In HTTP/1.1 the reply waits only for data that is sent along with the head, so that the
//! connection can be reused. Otherwise the reply says that the connection closes, and the stream drains the rest
//! afterwards.

use std::future::poll_fn;
use std::pin::Pin;
use std::task::Poll;
use std::time::Duration;

use bytes::Bytes;
use hyper::body::{Body, Incoming};

use super::share::Share;

/// How much of a body is read and discarded.
pub(crate) struct DrainLimits {
    bytes_max: usize,
    timeout: Duration,
}

/// A client that takes longer has too much to send.
pub(crate) const IN_HTTP2: DrainLimits = DrainLimits { bytes_max: 32 * 1024 * 1024, timeout: Duration::from_secs(5) };
pub(crate) const IN_HTTP1: DrainLimits = DrainLimits { bytes_max: 256 * 1024, timeout: Duration::from_millis(100) };

/// Reads the body of a share up to a limit, or until the share is evicted. Returns `true` at the end of the body.
pub(crate) async fn drain(mut body: Incoming, share: &Share, limits: &DrainLimits) -> bool {
    let mut drained = 0;
    let reading = poll_fn(|cx| {
        while !share.is_evicted() {
            match Pin::new(&mut body).poll_frame(cx) {
                Poll::Ready(Some(Ok(frame))) => {
                    // These may not be real trailers, and another request may follow them.
                    if frame.is_trailers() && !share.is_multiplexed() {
                        return Poll::Ready(false);
                    }
                    drained += frame.data_ref().map_or(0, Bytes::len);
                    if drained > limits.bytes_max {
                        return Poll::Ready(false);
                    }
                }
                Poll::Ready(Some(Err(_))) => return Poll::Ready(false),
                Poll::Ready(None) => return Poll::Ready(true),
                Poll::Pending => {
                    share.waits_for_body(cx.waker());
                    return Poll::Pending;
                }
            }
        }
        Poll::Ready(false)
    });
    let is_whole = tokio::time::timeout(limits.timeout, reading).await.unwrap_or(false);
    share.body_ended();
    is_whole
}

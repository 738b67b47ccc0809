//! The rest of a body that was refused, read over for a while so that the client hears why.
//!
//! In HTTP/2 the reply ends the request's stream, and common clients that are still sending then give up without a look
//! at the reply: there it has to wait. In HTTP/1.1 it waits only for what is on its way with the head, so that the
//! connection can go on; else it says that the connection ends, and the stream sees to the rest once it is out.

use std::future::poll_fn;
use std::pin::Pin;
use std::task::Poll;
use std::time::Duration;

use bytes::Bytes;
use hyper::body::{Body, Incoming};

use super::share::Share;

/// How far a body is read over; none of it is kept.
pub(crate) struct Patience {
    bytes_max: usize,
    timeout: Duration,
}

/// A client that is slower than this sends too much to wait for.
pub(crate) const IN_HTTP2: Patience = Patience { bytes_max: 32 * 1024 * 1024, timeout: Duration::from_secs(5) };
pub(crate) const IN_HTTP1: Patience = Patience { bytes_max: 256 * 1024, timeout: Duration::from_millis(100) };

/// Reads the body of a share, to a limit, or until the room of the request is needed for others. True when it came to
/// its end.
pub(crate) async fn drain(mut body: Incoming, share: &Share, patience: &Patience) -> bool {
    let mut drained = 0;
    let reading = poll_fn(|cx| {
        while !share.is_evicted() {
            match Pin::new(&mut body).poll_frame(cx) {
                Poll::Ready(Some(Ok(frame))) => {
                    // Trailers may be none in truth, and what follows them another request.
                    if frame.is_trailers() && !share.is_multiplexed() {
                        return Poll::Ready(false);
                    }
                    drained += frame.data_ref().map_or(0, Bytes::len);
                    if drained > patience.bytes_max {
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
    let is_whole = tokio::time::timeout(patience.timeout, reading).await.unwrap_or(false);
    share.body_ended();
    is_whole
}

//! The rest of a body that was refused, read over for a while so that the client hears why.
//!
//! In HTTP/1.1 the stream sees to it once the reply is out. In HTTP/2 the reply ends the request's stream, and common
//! clients that are still sending then give up without a look at the reply: there it has to wait.

use std::future::poll_fn;
use std::pin::Pin;
use std::task::Poll;
use std::time::Duration;

use bytes::Bytes;
use hyper::body::{Body, Incoming};

use super::share::Share;

/// Bytes that are read over; none of them is kept.
const DRAINED_BYTES_MAX: usize = 32 * 1024 * 1024;
const DRAIN_TIMEOUT: Duration = Duration::from_secs(5);

/// Reads to the end of the body of a share, to a limit, or until the room of the request is needed for others.
pub(super) async fn drain(mut body: Incoming, share: &Share) {
    let mut drained = 0;
    let reading = poll_fn(|cx| {
        while !share.is_evicted() {
            match Pin::new(&mut body).poll_frame(cx) {
                Poll::Ready(Some(Ok(frame))) => {
                    drained += frame.data_ref().map_or(0, Bytes::len);
                    if drained > DRAINED_BYTES_MAX {
                        return Poll::Ready(());
                    }
                }
                Poll::Ready(_) => return Poll::Ready(()),
                Poll::Pending => {
                    share.waits_for_body(cx.waker());
                    return Poll::Pending;
                }
            }
        }
        Poll::Ready(())
    });
    // A client that is slower than this sends too much to wait for.
    let _ = tokio::time::timeout(DRAIN_TIMEOUT, reading).await;
    share.body_ended();
}

//! The rest of a body that was refused, read over for a while so that the client hears why.
//!
//! In HTTP/1.1 the stream sees to it once the reply is out. In HTTP/2 the reply ends the request's stream, and common
//! clients that are still sending then give up without a look at the reply: there it has to wait.

use std::pin::pin;
use std::time::Duration;

use bytes::Bytes;
use http_body_util::BodyExt;
use hyper::body::Body;

/// Bytes that are read over; none of them is kept.
const DRAINED_BYTES_MAX: usize = 32 * 1024 * 1024;
const DRAIN_TIMEOUT: Duration = Duration::from_secs(5);

/// Reads to the end of a body, or to a limit.
pub async fn drain<B: Body<Data = Bytes>>(body: B) {
    let mut body = pin!(body);
    let mut drained = 0;
    let reading = async {
        while let Some(Ok(frame)) = body.frame().await {
            drained += frame.data_ref().map_or(0, Bytes::len);
            if drained > DRAINED_BYTES_MAX {
                return;
            }
        }
    };
    // A client that is slower than this sends too much to wait for.
    let _ = tokio::time::timeout(DRAIN_TIMEOUT, reading).await;
}

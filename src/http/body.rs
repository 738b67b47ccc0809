//! Request bodies, read whole within a size, a time and the process's memory.
//!
//! Memory is taken from the budget as bytes arrive, never on a client's word: a client
//! that declares a large body and sends nothing holds nothing.

use std::pin::pin;
use std::sync::Arc;
use std::time::Duration;

use bytes::{Bytes, BytesMut};
use http_body_util::BodyExt;
use hyper::body::Body;
use tokio::sync::{OwnedSemaphorePermit, Semaphore};

/// Bytes that are reserved before the first ones arrived.
const FIRST_STEP_BYTES: usize = 64 * 1024;
/// Bytes that are allocated, and not yet reserved, for a body that began to arrive.
const AHEAD_BYTES_MAX: usize = 256 * 1024;
/// The budget is counted in these, so that a large one fits the counter.
const UNIT_BYTES: usize = 1024;

/// Why a body could not be read.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum BodyError {
    /// It is, or says it is, larger than allowed (413).
    TooLarge,
    /// It did not end within the time (408).
    Timeout,
    /// The connection broke or the framing is wrong (400).
    Broken,
    /// All bodies together hold the memory that they may (503).
    Busy,
}

/// Bytes that all request bodies in flight may hold together.
#[derive(Clone, Debug)]
pub struct MemoryBudget(Arc<Semaphore>);

/// How a body is read.
#[derive(Clone, Debug)]
pub struct BodyLimits {
    pub bytes_max: usize,
    /// From the headers to the last byte.
    pub timeout: Duration,
    pub memory: MemoryBudget,
}

/// A body and its share of the memory, given back when this is dropped.
#[derive(Debug)]
pub struct BoundedBody {
    bytes: Bytes,
    reserved: Reserved,
}

/// The share of a request's body in the memory, given back when this is dropped.
#[derive(Debug)]
pub struct Reserved(#[expect(dead_code, reason = "held for its drop")] OwnedSemaphorePermit);

impl BoundedBody {
    /// Makes something of the body and frees it: while the request waits for what it set going, its buffer serves
    /// the next one. The share stays taken for what was made.
    pub fn consume<T>(self, make: impl FnOnce(&[u8]) -> T) -> (T, Reserved) {
        (make(&self.bytes), self.reserved)
    }
}

impl MemoryBudget {
    pub fn new(bytes_max: usize) -> Self {
        Self(Arc::new(Semaphore::new(units(bytes_max).min(Semaphore::MAX_PERMITS))))
    }

    fn reserve(&self, bytes: usize) -> Result<OwnedSemaphorePermit, BodyError> {
        let units = u32::try_from(units(bytes)).map_err(|_| BodyError::Busy)?;
        Arc::clone(&self.0).try_acquire_many_owned(units).map_err(|_| BodyError::Busy)
    }
}

impl BodyLimits {
    /// Reads a body to its end. One that came in a single frame is not copied.
    pub async fn read<B>(&self, body: B) -> Result<BoundedBody, BodyError>
    where
        B: Body<Data = Bytes>,
    {
        let declared = declared(&body, self.bytes_max)?;
        // Small requests, nearly all of them, reserve once.
        let mut reserved = self.memory.reserve(declared.unwrap_or(0).clamp(1, FIRST_STEP_BYTES))?;
        let read = collect(body, self.bytes_max, declared, |total| {
            let missing = units(total).saturating_sub(reserved.num_permits());
            if missing > 0 {
                reserved.merge(self.memory.reserve((missing * UNIT_BYTES).max(FIRST_STEP_BYTES))?);
            }
            Ok(())
        });
        let bytes = tokio::time::timeout(self.timeout, read).await.map_err(|_| BodyError::Timeout)??;
        Ok(BoundedBody { bytes, reserved: Reserved(reserved) })
    }
}

/// Reads a body to its end without a share in a memory budget: for the few requests of an operator.
pub async fn read_body<B>(body: B, bytes_max: usize, timeout: Duration) -> Result<Bytes, BodyError>
where
    B: Body<Data = Bytes>,
{
    let declared = declared(&body, bytes_max)?;
    let read = collect(body, bytes_max, declared, |_| Ok(()));
    tokio::time::timeout(timeout, read).await.map_err(|_| BodyError::Timeout)?
}

/// The Content-Length, refused before anything is read when it is over the limit.
fn declared<B: Body>(body: &B, bytes_max: usize) -> Result<Option<usize>, BodyError> {
    match body.size_hint().exact() {
        None => Ok(None),
        Some(length) => match usize::try_from(length) {
            Ok(length) if length <= bytes_max => Ok(Some(length)),
            _ => Err(BodyError::TooLarge),
        },
    }
}

async fn collect<B: Body<Data = Bytes>>(
    body: B,
    bytes_max: usize,
    declared: Option<usize>,
    mut reserve: impl FnMut(usize) -> Result<(), BodyError>,
) -> Result<Bytes, BodyError> {
    let mut body = pin!(body);
    let mut first = Bytes::new();
    let mut joined = BytesMut::new();
    while let Some(frame) = body.frame().await {
        // Trailers are read over.
        let Ok(data) = frame.map_err(|_| BodyError::Broken)?.into_data() else { continue };
        let total = first.len() + joined.len() + data.len();
        if total > bytes_max {
            return Err(BodyError::TooLarge);
        }
        reserve(total)?;
        if first.is_empty() && joined.is_empty() {
            first = data;
            continue;
        }
        if joined.is_empty() {
            // Memory that nothing was written to yet costs nothing; to grow costs a copy.
            joined.reserve(declared.unwrap_or(0).min(AHEAD_BYTES_MAX.max(total * 2)).max(total));
            joined.extend_from_slice(&std::mem::take(&mut first));
        }
        joined.extend_from_slice(&data);
    }
    Ok(if joined.is_empty() { first } else { joined.freeze() })
}

fn units(bytes: usize) -> usize {
    bytes.div_ceil(UNIT_BYTES)
}

#[cfg(test)]
mod tests {
    use std::collections::VecDeque;
    use std::convert::Infallible;
    use std::pin::Pin;
    use std::task::{Context, Poll};

    use http_body_util::Full;
    use hyper::body::Frame;

    use super::*;

    /// A body of unknown length in the given pieces; then it ends, or hangs.
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

    fn limits(memory_bytes_max: usize) -> BodyLimits {
        BodyLimits {
            bytes_max: 300_000,
            timeout: Duration::from_millis(30),
            memory: MemoryBudget::new(memory_bytes_max),
        }
    }

    #[tokio::test]
    async fn one_frame_is_not_copied() {
        let sent = Bytes::from(vec![1; 1_000]);
        let body = limits(1 << 20).read(Full::new(sent.clone())).await.unwrap();
        assert_eq!(body.bytes.as_ptr(), sent.as_ptr());
    }

    #[tokio::test]
    async fn frames_are_joined() {
        let body = limits(1 << 20).read(pieces(&[1, 100_000, 0, 199_999], false)).await.unwrap();
        assert_eq!(body.bytes, vec![7; 300_000]);
        assert_eq!(read_body(pieces(&[2, 3], false), 5, Duration::from_secs(1)).await.unwrap().len(), 5);
    }

    #[tokio::test]
    async fn refuses_over_the_limit() {
        let limits = limits(1 << 20);
        assert_eq!(limits.read(pieces(&[300_000, 1], false)).await.unwrap_err(), BodyError::TooLarge);
        let declared = Full::new(Bytes::from(vec![0; 300_001]));
        assert_eq!(limits.read(declared).await.unwrap_err(), BodyError::TooLarge);
        assert_eq!(limits.read(pieces(&[1], true)).await.unwrap_err(), BodyError::Timeout);
    }

    #[tokio::test]
    async fn memory_is_shared_and_given_back() {
        let limits = limits(300 * 1024);
        let held = limits.read(pieces(&[200_000], false)).await.unwrap();
        assert_eq!(limits.read(pieces(&[200_000], false)).await.unwrap_err(), BodyError::Busy);
        drop(held);
        assert!(limits.read(pieces(&[200_000], false)).await.is_ok());
        assert_eq!(limits.memory.0.available_permits(), 300);
    }
}

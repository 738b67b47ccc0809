//! Reply bodies that hold their request's share of the memory until their last byte is sent.

use std::io::IoSlice;
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll};

use bytes::{Buf, Bytes};
use http::header::CONTENT_LENGTH;
use http::response::Parts;
use http::{HeaderValue, Response, StatusCode};
use hyper::body::{Body, Frame, SizeHint};

use super::share::Share;
use crate::http::reply::problem::Problem;

/// Assumed size of a reply of unknown length.
const UNKNOWN_BYTES: usize = 64 * 1024;

pub(crate) struct Outbound<B> {
    body: Content<B>,
    /// `None` for the refusal of a connection that closes.
    share: Option<Arc<Share>>,
}

enum Content<B> {
    Of(B),
    Own(Option<Bytes>),
}

/// Bytes to be sent. hyper drops them after sending.
pub(crate) struct ReplyChunk {
    bytes: Bytes,
    _share: Option<Arc<Share>>,
}

/// The properties of a request that its reply depends on.
#[derive(Clone, Copy)]
pub(crate) struct RequestKind {
    /// A HEAD request: the reply has no body.
    pub(crate) head: bool,
    /// The request changed nothing and is no probe, so its reply may be withheld.
    pub(crate) safe: bool,
}

/// The reply of a service, or a refusal if there is no memory for it.
pub(crate) fn outbound<B: Body>(
    reply: Response<B>,
    request_kind: RequestKind,
    share: Arc<Share>,
) -> Response<Outbound<B>> {
    let hint = reply.body().size_hint();
    let bytes = hint.upper().map_or(UNKNOWN_BYTES, |bytes| usize::try_from(bytes).unwrap_or(usize::MAX));
    // Replies that may not be withheld always get their memory.
    if let Err(exhausted) = share.reply(if request_kind.head { 0 } else { bytes }, request_kind.safe) {
        share.count_refusal(exhausted);
        return refusal(exhausted.problem(), request_kind, Some(share));
    }
    let (mut head, body) = reply.into_parts();
    let body = if request_kind.head { without_body(&mut head, hint.exact()) } else { Content::Of(body) };
    Response::from_parts(head, Outbound { body, share: Some(share) })
}

/// A reply from the listener instead of the service.
pub(crate) fn refusal<B>(
    problem: Problem,
    request_kind: RequestKind,
    share: Option<Arc<Share>>,
) -> Response<Outbound<B>> {
    let (mut head, body) = problem.into_reply().into_parts();
    let bytes = body.into_inner().unwrap_or_default();
    if let Some(share) = &share {
        let _ = share.reply(bytes.len(), false);
    }
    let length = bytes.len() as u64;
    let body = if request_kind.head { without_body(&mut head, Some(length)) } else { Content::Own(Some(bytes)) };
    Response::from_parts(head, Outbound { body, share })
}

/// The reply to HEAD has the headers of the reply to GET (RFC 9110, 9.3.2). In HTTP/2 hyper would send the body.
fn without_body<B>(head: &mut Parts, length: Option<u64>) -> Content<B> {
    let can_have_body = head.status != StatusCode::NO_CONTENT && head.status != StatusCode::NOT_MODIFIED;
    if let Some(length) = length.filter(|_| can_have_body) {
        head.headers.entry(CONTENT_LENGTH).or_insert_with(|| HeaderValue::from(length));
    }
    Content::Own(None)
}

impl<B: Body<Data = Bytes> + Unpin> Body for Outbound<B> {
    type Data = ReplyChunk;
    type Error = B::Error;

    fn poll_frame(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Option<Result<Frame<ReplyChunk>, B::Error>>> {
        let Self { body, share } = self.get_mut();
        let chunk = |bytes| ReplyChunk { bytes, _share: share.clone() };
        match body {
            Content::Of(body) => {
                Pin::new(body).poll_frame(cx).map(|frame| frame.map(|frame| frame.map(|frame| frame.map_data(chunk))))
            }
            Content::Own(bytes) => Poll::Ready(bytes.take().map(|bytes| Ok(Frame::data(chunk(bytes))))),
        }
    }

    fn is_end_stream(&self) -> bool {
        match &self.body {
            Content::Of(body) => body.is_end_stream(),
            Content::Own(bytes) => bytes.is_none(),
        }
    }

    fn size_hint(&self) -> SizeHint {
        match &self.body {
            Content::Of(body) => body.size_hint(),
            Content::Own(bytes) => SizeHint::with_exact(bytes.as_ref().map_or(0, |bytes| bytes.len() as u64)),
        }
    }
}

impl Buf for ReplyChunk {
    fn remaining(&self) -> usize {
        self.bytes.remaining()
    }

    fn chunk(&self) -> &[u8] {
        self.bytes.chunk()
    }

    fn chunks_vectored<'a>(&'a self, dst: &mut [IoSlice<'a>]) -> usize {
        self.bytes.chunks_vectored(dst)
    }

    fn advance(&mut self, count: usize) {
        self.bytes.advance(count);
    }

    fn copy_to_bytes(&mut self, len: usize) -> Bytes {
        self.bytes.copy_to_bytes(len)
    }
}

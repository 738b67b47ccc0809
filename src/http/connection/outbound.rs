//! Reply bodies that keep their request's share of the memory until their last byte has left.

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

/// What a reply of unknown length is taken for.
const UNKNOWN_BYTES: usize = 64 * 1024;

pub(crate) struct Outbound<B> {
    body: Content<B>,
    /// Nothing for the refusal of a connection that ends.
    share: Option<Arc<Share>>,
}

enum Content<B> {
    Of(B),
    Own(Option<Bytes>),
}

/// Bytes that have not left. Dropped by the protocol library when they have.
pub(crate) struct Held {
    bytes: Bytes,
    _share: Option<Arc<Share>>,
}

/// What the request was, as far as its reply depends on it.
#[derive(Clone, Copy)]
pub(crate) struct Asked {
    /// Its reply has no body.
    pub(crate) head: bool,
    /// It changed nothing, and is no probe, so that its reply can be withheld.
    pub(crate) safe: bool,
}

/// The reply of a service, or a refusal where there is no memory for it.
pub(crate) fn outbound<B: Body>(reply: Response<B>, asked: Asked, share: Arc<Share>) -> Response<Outbound<B>> {
    let hint = reply.body().size_hint();
    let bytes = hint.upper().map_or(UNKNOWN_BYTES, |bytes| usize::try_from(bytes).unwrap_or(usize::MAX));
    // What is not refused always has room.
    if let Err(exhausted) = share.reply(if asked.head { 0 } else { bytes }, asked.safe) {
        share.count_refusal(exhausted);
        return refusal(exhausted.problem(), asked, Some(share));
    }
    let (mut head, body) = reply.into_parts();
    let body = if asked.head { without_body(&mut head, hint.exact()) } else { Content::Of(body) };
    Response::from_parts(head, Outbound { body, share: Some(share) })
}

/// A reply that no service made.
pub(crate) fn refusal<B>(problem: Problem, asked: Asked, share: Option<Arc<Share>>) -> Response<Outbound<B>> {
    let (mut head, body) = problem.into_reply().into_parts();
    let bytes = body.into_inner().unwrap_or_default();
    if let Some(share) = &share {
        let _ = share.reply(bytes.len(), false);
    }
    let length = bytes.len() as u64;
    let body = if asked.head { without_body(&mut head, Some(length)) } else { Content::Own(Some(bytes)) };
    Response::from_parts(head, Outbound { body, share })
}

/// The reply to HEAD tells what that to GET would be (RFC 9110, 9.3.2). In HTTP/2 the protocol library would send it.
fn without_body<B>(head: &mut Parts, length: Option<u64>) -> Content<B> {
    let can_have_body = head.status != StatusCode::NO_CONTENT && head.status != StatusCode::NOT_MODIFIED;
    if let Some(length) = length.filter(|_| can_have_body) {
        head.headers.entry(CONTENT_LENGTH).or_insert_with(|| HeaderValue::from(length));
    }
    Content::Own(None)
}

impl<B: Body<Data = Bytes> + Unpin> Body for Outbound<B> {
    type Data = Held;
    type Error = B::Error;

    fn poll_frame(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Option<Result<Frame<Held>, B::Error>>> {
        let Self { body, share } = self.get_mut();
        let hold = |bytes| Held { bytes, _share: share.clone() };
        match body {
            Content::Of(body) => {
                Pin::new(body).poll_frame(cx).map(|frame| frame.map(|frame| frame.map(|frame| frame.map_data(hold))))
            }
            Content::Own(bytes) => Poll::Ready(bytes.take().map(|bytes| Ok(Frame::data(hold(bytes))))),
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

impl Buf for Held {
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

//! Entry points for the fuzz targets that are not public.

use std::convert::Infallible;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering::Relaxed};

use bytes::Bytes;
use futures_util::FutureExt;
use futures_util::stream::iter;
use http_body_util::StreamBody;
use hyper::body::Frame;

use super::request::body_error;
use super::request::coding::{self, Coding};

pub use super::request::body_error::BodyError;

/// The ratio is not checked up to this size.
pub const RATIO_FREE_BYTES: usize = coding::RATIO_FREE_BYTES;
pub const RATIO_MAX: usize = body_error::RATIO_MAX;

/// Decompresses a body that arrives in these parts, within a memory limit. Also returns the memory taken.
pub fn inflate<'a>(
    coding: Coding,
    parts: impl Iterator<Item = &'a [u8]>,
    bytes_max: usize,
    memory: usize,
) -> (Result<Bytes, BodyError>, usize) {
    let taken = Arc::new(AtomicUsize::new(0));
    let take = {
        let taken = Arc::clone(&taken);
        move |bytes| {
            let total = taken.load(Relaxed) + bytes;
            let fits = total <= memory;
            if fits {
                taken.store(total, Relaxed);
            }
            fits
        }
    };
    let frames = parts.map(|part| Ok::<_, Infallible>(Frame::data(Bytes::copy_from_slice(part))));
    let body = StreamBody::new(iter(frames));
    let inflated = coding::inflate(body, coding, bytes_max, take).now_or_never();
    (inflated.expect("a body that is all there is not waited for"), taken.load(Relaxed))
}

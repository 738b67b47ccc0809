//! The limits of the quarantine, and the inputs of one request that wait to be stored.

use std::collections::HashMap;
use std::sync::atomic::{AtomicBool, Ordering::Relaxed};
use std::time::{Duration, Instant};

use http::HeaderMap;
use http::header::CONTENT_TYPE;
use parking_lot::{Mutex, MutexGuard};
use prost::Message as _;
use tokio::sync::Semaphore;

use crate::quarantine::{Attribute, INPUT_BYTES_MAX, Input, InputFormat};

/// Inputs kept per request; beyond that the sender has to keep them.
const INPUTS_MAX: usize = 1_000;
/// Requests that store input concurrently.
const CONCURRENCY_MAX: usize = 4;
/// How long to pause after a failure to store input.
const PAUSE: Duration = Duration::from_secs(1);
/// Longer media types are truncated.
const CONTENT_TYPE_BYTES_MAX: usize = 128;

/// The limits and the state of the quarantine.
pub(crate) struct Quarantine {
    pub(super) bytes_max: u64,
    pub(super) permits: Semaphore,
    pub(super) failing: AtomicBool,
    /// Time of the last failure. Storing pauses for a while after it, so that refusals stay cheap.
    pub(super) failed_at: Mutex<Option<Instant>>,
}

/// Describes a body and its context.
#[derive(Debug)]
pub(crate) struct Origin {
    pub(super) whole: InputFormat,
    /// The format of one event in the body; `None` when the body is one event.
    pub(super) each: Option<InputFormat>,
    pub(super) content_type: String,
    pub(super) attributes: Vec<Attribute>,
    /// The app named by the sender, for gateways without API keys.
    pub(super) app: String,
}

impl Origin {
    pub(crate) fn of(headers: &HeaderMap, whole: InputFormat, each: Option<InputFormat>) -> Self {
        let content_type =
            headers.get(CONTENT_TYPE).map(|value| String::from_utf8_lossy(value.as_bytes()).into_owned());
        let content_type = crate::event::cut(content_type.unwrap_or_default(), CONTENT_TYPE_BYTES_MAX);
        Self { whole, each, content_type, attributes: Vec::new(), app: String::new() }
    }

    pub(crate) fn with(mut self, name: impl Into<String>, value: impl Into<String>) -> Self {
        self.attributes.push(Attribute::new(name, value));
        self
    }

    pub(crate) fn of_app(self, app: &str) -> Self {
        Self { app: app.to_owned(), ..self }
    }
}

/// The inputs of one request that wait to be stored.
#[derive(Debug, Default)]
pub(crate) struct PendingInputs {
    pub(super) inputs: Vec<Input>,
    pub(super) bytes: usize,
    pub(super) too_large: u64,
    /// How often each log record occurs among them.
    pub(super) repeats: HashMap<u64, u32>,
}

impl PendingInputs {
    /// Returns whether more inputs may follow.
    pub(super) fn push(&mut self, input: Input, bytes_max: usize) -> bool {
        let bytes = input.encoded_len();
        if self.inputs.len() == INPUTS_MAX || self.bytes + bytes > bytes_max {
            self.too_large += 1;
            return false;
        }
        if bytes > INPUT_BYTES_MAX {
            self.too_large += 1;
            return true;
        }
        self.bytes += bytes;
        self.inputs.push(input);
        true
    }
}

impl Quarantine {
    pub(crate) fn new(bytes_max: u64) -> Self {
        Self {
            bytes_max,
            permits: Semaphore::new(CONCURRENCY_MAX),
            failing: AtomicBool::new(false),
            failed_at: Mutex::default(),
        }
    }

    pub(super) fn pauses(&self) -> bool {
        self.failing.load(Relaxed) && self.failed_at().is_some_and(|at| at.elapsed() < PAUSE)
    }

    pub(super) fn failed_at(&self) -> MutexGuard<'_, Option<Instant>> {
        self.failed_at.lock()
    }
}

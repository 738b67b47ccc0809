//! Why a body could not be read, and the problem that says so.

use http::StatusCode;

use crate::http::reply::problem::Problem;

/// The maximum ratio of decompression. Batches of identical events reach about 100.
pub(crate) const RATIO_MAX: usize = 250;

/// Why a body could not be read.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum BodyError {
    /// The body, or its declared length, exceeds the limit (413).
    TooLarge,
    /// The body did not end in time (408).
    Timeout,
    /// The connection broke or the framing is wrong (400).
    Broken,
    /// The memory of all requests is used up (503).
    Busy,
    /// The body arrived slowly while others needed the memory (503).
    Slow,
    /// The decompressed body exceeds the limit (413).
    InflatesTooLarge,
    /// The compression ratio is so high that it must be intentional (413).
    InflatesTooMuch,
    /// The body is not in its declared coding, or ends early (400).
    NotItsCoding,
}

impl From<BodyError> for Problem {
    fn from(error: BodyError) -> Self {
        let (status, detail) = match error {
            BodyError::Busy => return Self::short_of_memory(),
            BodyError::Slow => return Self::too_slow(),
            BodyError::TooLarge => (StatusCode::PAYLOAD_TOO_LARGE, "The body is too large."),
            BodyError::InflatesTooLarge => {
                (StatusCode::PAYLOAD_TOO_LARGE, "The body is too large once it is inflated.")
            }
            BodyError::InflatesTooMuch => {
                let detail = format!("The body inflates to more than {RATIO_MAX} times its size.");
                return Self::new(StatusCode::PAYLOAD_TOO_LARGE, detail).closing();
            }
            BodyError::Timeout => (StatusCode::REQUEST_TIMEOUT, "The body did not arrive in time."),
            BodyError::Broken => (StatusCode::BAD_REQUEST, "The body could not be read."),
            BodyError::NotItsCoding => {
                (StatusCode::BAD_REQUEST, "The body is not what Content-Encoding says, or it ends early.")
            }
        };
        Self::new(status, detail).closing()
    }
}

//! Why a body could not be read, and the problem that says so.

use http::StatusCode;

use crate::http::reply::problem::Problem;

/// A body may inflate to this many times its size: batches of equal events reach some 100.
pub(crate) const RATIO_MAX: usize = 250;

/// Why a body could not be read.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum BodyError {
    /// It is, or says it is, larger than allowed (413).
    TooLarge,
    /// It did not end within the time (408).
    Timeout,
    /// The connection broke or the framing is wrong (400).
    Broken,
    /// All requests together hold the memory that they may (503).
    Busy,
    /// It came slowly, and others needed the memory (503).
    Slow,
    /// It inflates to more than is allowed (413).
    InflatesTooLarge,
    /// It inflates to so many times its size that it was made to (413).
    InflatesTooMuch,
    /// It is not coded as its headers say, or ends early (400).
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

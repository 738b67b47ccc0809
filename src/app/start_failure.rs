//! Why a start failed, and the exit code that follows from it.

use crate::base::errors::append_new;

/// Why the process did not start.
#[derive(Debug, thiserror::Error)]
#[error("{text}")]
pub struct StartFailure {
    pub kind: StartFailureKind,
    pub(super) text: String,
}

/// The kind of a failed start. It decides the exit code.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum StartFailureKind {
    /// A setting, a credential or a schema is wrong.
    Refused,
    /// A server does not answer.
    Unreachable,
    Failed,
}

impl StartFailure {
    /// A failure with everything that caused it.
    pub(super) fn new(kind: StartFailureKind, action: String, error: &dyn std::error::Error) -> Self {
        let text = append_new(format!("{action}: {error}"), error);
        Self { kind, text }
    }

    pub(super) fn said(kind: StartFailureKind, text: String) -> Self {
        Self { kind, text }
    }
}

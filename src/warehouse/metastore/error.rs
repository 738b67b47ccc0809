//! Failures of a metastore, classified by what an operator can do about them.

use std::fmt;

/// Texts of the server are truncated to this length in messages.
const SHOWN_CHARS_MAX: usize = 300;

#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Failure {
    pub(super) kind: FailureKind,
    text: String,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum FailureKind {
    /// It does not answer in time.
    Unreachable,
    /// The peer is not a metastore, or requires an unsupported authentication.
    Protocol,
    /// It is too old and lacks a call.
    Old,
    /// It has a table of the same name that is not ours.
    Conflict,
    /// It has no such database, table or partition.
    Missing,
    /// The database, table or partition exists already.
    Exists,
    /// It rejected the call, or failed while processing it.
    Refused,
    /// The warehouse could not be listed.
    Warehouse,
}

impl FailureKind {
    /// The value of the metric label.
    pub(super) fn name(self) -> &'static str {
        match self {
            Self::Unreachable => "unreachable",
            Self::Protocol => "protocol",
            Self::Old => "old",
            Self::Conflict => "conflict",
            Self::Missing | Self::Exists | Self::Refused => "refused",
            Self::Warehouse => "warehouse",
        }
    }
}

impl Failure {
    pub(super) fn new(kind: FailureKind, text: impl Into<String>) -> Self {
        Self { kind, text: text.into() }
    }
}

impl fmt::Display for Failure {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.text)
    }
}

/// A text of the server on one line, truncated.
pub(super) fn shown(text: &str) -> String {
    let printable = |c: char| if c.is_control() { ' ' } else { c };
    let mut shown: String = text.trim().chars().take(SHOWN_CHARS_MAX).map(printable).collect();
    if text.trim().chars().nth(SHOWN_CHARS_MAX).is_some() {
        shown.push('…');
    }
    shown
}

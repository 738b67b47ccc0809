//! How a command fails: a status for scripts and a sentence for people.

use std::process::ExitCode;

use crate::app::{StartFailure, StartFailureKind};

/// The exit codes of every command; 64, 69 and 78 as in `sysexits.h`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum ExitStatus {
    Ok = 0,
    Failed = 1,
    Usage = 64,
    Unreachable = 69,
    /// A server or a database rejects the settings.
    Refused = 78,
}

impl From<ExitStatus> for ExitCode {
    fn from(status: ExitStatus) -> Self {
        Self::from(status as u8)
    }
}

/// Why a command failed. Displays as one sentence that says what to do; any further lines are details.
#[derive(Debug, thiserror::Error)]
#[error("{message}")]
pub struct Failure {
    pub status: ExitStatus,
    message: String,
}

impl Failure {
    pub fn failed(message: impl Into<String>) -> Self {
        Self { status: ExitStatus::Failed, message: message.into() }
    }

    pub fn usage(message: impl Into<String>) -> Self {
        Self { status: ExitStatus::Usage, message: message.into() }
    }

    pub fn unreachable(message: impl Into<String>) -> Self {
        Self { status: ExitStatus::Unreachable, message: message.into() }
    }

    pub fn refused(message: impl Into<String>) -> Self {
        Self { status: ExitStatus::Refused, message: message.into() }
    }

    /// Prefixes the message with the place where it failed.
    pub fn within(mut self, place: &str) -> Self {
        self.message = format!("{place}: {}", self.message);
        self
    }

    /// Appends a line of details.
    pub fn followed_by(mut self, line: &str) -> Self {
        self.message = format!("{}\n  {line}", self.message);
        self
    }
}

impl From<StartFailure> for Failure {
    fn from(failure: StartFailure) -> Self {
        let message = failure.to_string();
        match failure.kind {
            StartFailureKind::Refused => Self::refused(message),
            StartFailureKind::Unreachable => Self::unreachable(message),
            StartFailureKind::Failed => Self::failed(message),
        }
    }
}

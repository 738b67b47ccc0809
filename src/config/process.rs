//! The settings of the process.

use std::path::PathBuf;
use std::time::Duration;

use crate::base::settings::{Reader, choice};

/// Where the process keeps its files, how it logs, and how it stops.
#[derive(Clone, Debug)]
pub struct ProcessSettings {
    pub data_dir: PathBuf,
    pub log_level: LogLevel,
    pub log_format: LogFormat,
    pub shutdown_timeout: Duration,
    pub shutdown_delay: Duration,
}

impl ProcessSettings {
    pub fn read(from: &mut Reader<'_>) -> Self {
        Self {
            data_dir: from.get("data_dir"),
            log_level: from.get("log_level"),
            log_format: from.get("log_format"),
            shutdown_timeout: from.positive("shutdown_timeout"),
            shutdown_delay: from.get("shutdown_delay"),
        }
    }
}

choice! {
    /// The least severe level to log.
    LogLevel { Error = "error", Warn = "warn", Info = "info", Debug = "debug", Trace = "trace" }
}

choice! {
    /// `auto`: text on a terminal, else JSON.
    LogFormat { Auto = "auto", Text = "text", Json = "json" }
}

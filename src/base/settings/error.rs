//! Configuration errors.

use std::fmt;
use std::path::PathBuf;

/// One invalid setting.
#[derive(Debug, PartialEq, Eq)]
pub struct InvalidSetting {
    pub key: String,
    pub value: Option<String>,
    pub source: String,
    pub allowed: String,
}

/// Why the configuration cannot be used. Lists all invalid settings.
#[derive(Debug)]
pub enum ConfigError {
    File { path: PathBuf, detail: String },
    Invalid(Vec<InvalidSetting>),
}

impl fmt::Display for ConfigError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::File { path, detail } => write!(f, "cannot read configuration file {}: {detail}", path.display()),
            Self::Invalid(all) => {
                for (index, invalid) in all.iter().enumerate() {
                    let separator = if index == 0 { "" } else { "\n" };
                    let value = invalid.value.as_ref().map(|value| format!(" = {value:?}")).unwrap_or_default();
                    write!(
                        f,
                        "{separator}{}{value} (from {}) is not allowed; allowed: {}",
                        invalid.key, invalid.source, invalid.allowed
                    )?;
                }
                Ok(())
            }
        }
    }
}

impl std::error::Error for ConfigError {}

//! Configuration errors.

use std::fmt;
use std::path::PathBuf;

/// One invalid setting.
#[derive(Debug, PartialEq, Eq)]
pub struct Wrong {
    pub key: String,
    pub value: Option<String>,
    pub source: String,
    pub allowed: String,
}

/// Why the configuration cannot be used. Lists all invalid settings.
#[derive(Debug)]
pub enum ConfigError {
    File { path: PathBuf, detail: String },
    Wrong(Vec<Wrong>),
}

impl fmt::Display for ConfigError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::File { path, detail } => write!(f, "cannot read configuration file {}: {detail}", path.display()),
            Self::Wrong(all) => {
                for (index, wrong) in all.iter().enumerate() {
                    let separator = if index == 0 { "" } else { "\n" };
                    let value = wrong.value.as_ref().map(|value| format!(" = {value:?}")).unwrap_or_default();
                    write!(
                        f,
                        "{separator}{}{value} (from {}) is not allowed; allowed: {}",
                        wrong.key, wrong.source, wrong.allowed
                    )?;
                }
                Ok(())
            }
        }
    }
}

impl std::error::Error for ConfigError {}

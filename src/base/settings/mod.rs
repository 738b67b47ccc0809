//! What a setting is: how its text is parsed, checked and shown. Each part reads its own settings from a [`Reader`].
//!
//! Invariant: a setting has one name everywhere (lower case in files, upper case in the environment), one parser, and
//! its default in one place, `deploy/causality.toml`. Knows no setting by name.

mod choice;
mod error;
mod reader;
mod redaction;
mod secret;
mod value;

pub(crate) use choice::choice;
pub use error::{ConfigError, InvalidSetting};
pub use reader::{DEFAULTS, Reader, Shown, defaults};
#[cfg(test)]
pub(crate) use reader::{read_with, text_of};
pub use secret::{KeyReplaced, Secret, SecretKey, Token, Url};
pub use value::{Address, Attempts, Limit, Setting, Size};

//! The layers above the built-in defaults: a file, the environment, flags.

use std::path::{Path, PathBuf};

use figment::value::{Dict, Map, Value};
use figment::{Metadata, Profile, Provider};

use crate::base::settings::{ConfigError, InvalidSetting};

/// A layer of names and texts: the environment or flags.
pub(super) struct TextLayer {
    pub(super) name: &'static str,
    pub(super) values: Vec<(&'static str, String)>,
}

impl Provider for TextLayer {
    fn metadata(&self) -> Metadata {
        Metadata::named(self.name)
    }

    fn data(&self) -> figment::error::Result<Map<Profile, Dict>> {
        let values = self.values.iter().map(|(name, value)| ((*name).to_owned(), Value::from(value.clone()))).collect();
        Ok(Map::from([(Profile::Default, values)]))
    }
}

/// A file given with `--config`; unknown keys were reported on reading.
pub(super) struct FileLayer {
    path: PathBuf,
    values: Dict,
}

impl FileLayer {
    pub(super) fn read(path: &Path, names: &[&str], invalid: &mut Vec<InvalidSetting>) -> Result<Self, ConfigError> {
        let unreadable = |detail: String| ConfigError::File { path: path.to_owned(), detail };
        let text = std::fs::read_to_string(path).map_err(|error| unreadable(error.to_string()))?;
        let values: Dict = toml::from_str(&text).map_err(|error| {
            // Report the line number only: the parser's own message quotes the line, which may contain a password.
            let line = error.span().map_or(1, |span| 1 + text[..span.start.min(text.len())].matches('\n').count());
            unreadable(format!("line {line}: {}", error.message()))
        })?;
        for key in values.keys().filter(|key| !names.contains(&key.as_str())) {
            let nearest = names.iter().find(|name| name.contains(key.as_str()) || key.contains(**name));
            let allowed = match nearest {
                Some(name) => format!("a setting's name; did you mean {name}?"),
                None => "a setting's name; `causality config` lists them".into(),
            };
            invalid.push(InvalidSetting { key: key.clone(), value: None, source: path.display().to_string(), allowed });
        }
        Ok(Self { path: path.to_owned(), values })
    }
}

impl Provider for FileLayer {
    fn metadata(&self) -> Metadata {
        Metadata::named(self.path.display().to_string())
    }

    fn data(&self) -> figment::error::Result<Map<Profile, Dict>> {
        Ok(Map::from([(Profile::Default, self.values.clone())]))
    }
}

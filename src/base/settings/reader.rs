//! Reads single settings from the layers, and notes what was read and what is invalid.

use std::sync::LazyLock;
use std::time::Duration;

use figment::providers::{Format, Toml};
use figment::value::{Dict, Value};
use figment::{Figment, Profile, Provider as _};

use super::error::InvalidSetting;
use super::redaction::shown;
use super::value::{Setting, Size};

/// The built-in defaults with comments, which document every setting.
pub const DEFAULTS: &str = include_str!("../../../deploy/causality.toml");

static DEFAULT_LAYER: LazyLock<Figment> = LazyLock::new(|| Figment::from(Toml::string(DEFAULTS)));

/// A setting that was read, for display.
#[derive(Clone, Debug)]
pub struct Shown {
    pub name: &'static str,
    /// With secrets redacted; `None` when unset.
    pub value: Option<String>,
    pub source: String,
}

/// Reads settings by name. An invalid value is noted, and its default returned, so that all of them are reported.
pub struct Reader<'l> {
    layers: &'l Figment,
    /// Of the highest layer that has one.
    values: Dict,
    read: Vec<Shown>,
    invalid: Vec<InvalidSetting>,
}

/// The settings of a part with their defaults.
pub fn defaults<T>(read: impl FnOnce(&mut Reader<'_>) -> T) -> T {
    read(&mut Reader::new(&DEFAULT_LAYER))
}

impl<'l> Reader<'l> {
    pub fn new(layers: &'l Figment) -> Self {
        let values = layers.data().ok().and_then(|mut profiles| profiles.remove(&Profile::Default));
        Self { layers, values: values.unwrap_or_default(), read: Vec::new(), invalid: Vec::new() }
    }

    /// A setting that has a default.
    pub fn get<T: Setting>(&mut self, name: &'static str) -> T {
        self.get_if(name, "", |_| true)
    }

    /// The same, for a part of the values of `T`: `allowed` says which.
    pub fn get_if<T: Setting>(&mut self, name: &'static str, allowed: &str, is_allowed: impl Fn(&T) -> bool) -> T {
        self.optional_if(name, allowed, is_allowed).unwrap_or_else(|| default(name))
    }

    /// A size in bytes.
    pub fn bytes(&mut self, name: &'static str) -> usize {
        self.get::<Size>(name).0 as usize
    }

    /// A count from 1 to `most`.
    pub fn count_to(&mut self, name: &'static str, most: usize) -> usize {
        self.get_if(name, &format!("a whole number from 1 to {most}"), |count| *count <= most)
    }

    /// A duration of at least `least`.
    pub fn duration_from(&mut self, name: &'static str, least: Duration) -> Duration {
        self.get_if(name, &format!("a duration from {}", least.show()), |duration| *duration >= least)
    }

    /// A duration above 0.
    pub fn positive(&mut self, name: &'static str) -> Duration {
        self.get_if(name, "a duration above 0s", |duration: &Duration| !duration.is_zero())
    }

    /// A setting that may be unset.
    pub fn optional<T: Setting>(&mut self, name: &'static str) -> Option<T> {
        self.optional_if(name, "", |_| true)
    }

    pub fn optional_if<T: Setting>(
        &mut self,
        name: &'static str,
        allowed: &str,
        is_allowed: impl Fn(&T) -> bool,
    ) -> Option<T> {
        let parsed = self.values.get(name).map(|value| parse(value, allowed, is_allowed)).transpose();
        if self.read.iter().all(|read| read.name != name) {
            let value = parsed.as_ref().ok().and_then(|value| Some(value.as_ref()?.show()));
            self.read.push(Shown { name, value, source: self.source(name) });
        }
        parsed.unwrap_or_else(|(value, allowed)| {
            self.note(name, value, allowed);
            None
        })
    }

    pub fn is_set(&self, name: &str) -> bool {
        self.values.contains_key(name)
    }

    /// Refuses a setting that was read: it contradicts others.
    pub fn refuse(&mut self, name: &str, allowed: &str) {
        let value = self.read.iter().find(|read| read.name == name).and_then(|read| read.value.clone());
        self.refuse_shown(name, value.unwrap_or_default(), allowed);
    }

    /// The same, showing `value`.
    pub fn refuse_shown(&mut self, name: &str, value: String, allowed: &str) {
        self.note(name, Some(value), allowed.to_owned());
    }

    /// Once for each setting, which several parts may read.
    fn note(&mut self, name: &str, value: Option<String>, allowed: String) {
        if self.invalid.iter().all(|invalid| invalid.key != name) {
            self.invalid.push(InvalidSetting { key: name.into(), value, source: self.source(name), allowed });
        }
    }

    pub fn names(&self) -> Vec<&'static str> {
        self.read.iter().map(|read| read.name).collect()
    }

    pub fn is_valid(&self) -> bool {
        self.invalid.is_empty()
    }

    /// The settings that were read, in that order, and those that are invalid.
    pub fn finish(self) -> (Vec<Shown>, Vec<InvalidSetting>) {
        (self.read, self.invalid)
    }

    fn source(&self, name: &str) -> String {
        let metadata = self.values.get(name).and_then(|value| self.layers.get_metadata(value.tag()));
        match metadata.map(|metadata| &*metadata.name) {
            Some("environment") => format!("environment {}", name.to_ascii_uppercase()),
            Some("flag") => format!("flag --{}", name.replace('_', "-")),
            Some(file) if !file.starts_with("TOML") => file.to_owned(),
            _ => "default".into(),
        }
    }
}

/// The error is the value as shown, and what is allowed.
fn parse<T: Setting>(
    value: &Value,
    allowed: &str,
    is_allowed: impl Fn(&T) -> bool,
) -> Result<T, (Option<String>, String)> {
    let text = text_of(value).ok_or_else(|| (None, "text, a number, true or false, or a list of texts".to_owned()))?;
    match T::parse(&text) {
        Ok(parsed) if is_allowed(&parsed) => Ok(parsed),
        Ok(parsed) => Err((Some(parsed.show()), allowed.to_owned())),
        // An invalid secret is still secret.
        Err(allowed) => Err((Some(if T::CONFIDENTIAL { "***".into() } else { shown(&text) }), allowed)),
    }
}

/// Tests hold that every setting that needs a default has a valid one.
fn default<T: Setting>(name: &str) -> T {
    let text = DEFAULT_LAYER.find_value(name).ok().and_then(|value| text_of(&value));
    text.and_then(|text| T::parse(&text).ok()).unwrap_or_else(|| panic!("{name} has no valid default"))
}

/// Formats a scalar or a list of scalars as an environment variable.
pub(crate) fn text_of(value: &Value) -> Option<String> {
    match value {
        Value::String(_, text) => Some(text.clone()),
        Value::Bool(_, on) => Some(on.to_string()),
        Value::Num(_, number) => number
            .to_i128()
            .map(|whole| whole.to_string())
            .or_else(|| number.to_u128().map(|whole| whole.to_string()))
            .or_else(|| number.to_f64().map(|real| real.to_string())),
        Value::Array(_, items) => items.iter().map(text_of).collect::<Option<Vec<_>>>().map(|items| items.join(",")),
        _ => None,
    }
}

/// Reads the settings of a part from the defaults and `values`, for tests.
#[cfg(test)]
pub(crate) fn read_with<T>(values: &[(&str, &str)], read: impl FnOnce(&mut Reader<'_>) -> T) -> Result<T, String> {
    let layers = values.iter().fold(DEFAULT_LAYER.clone(), |layers, (name, value)| {
        layers.merge(figment::providers::Serialized::default(&name.to_ascii_lowercase(), value))
    });
    let mut reader = Reader::new(&layers);
    let value = read(&mut reader);
    let (_, invalid) = reader.finish();
    if invalid.is_empty() { Ok(value) } else { Err(super::error::ConfigError::Invalid(invalid).to_string()) }
}

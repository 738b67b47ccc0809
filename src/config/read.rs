//! Reads single settings from the layers.

use figment::Figment;
use figment::value::Value;

use super::error::InvalidSetting;
use super::redaction::shown;
use super::value::Setting;

pub(super) fn source(layers: &Figment, name: &str) -> String {
    match layers.find_metadata(name).map(|metadata| &*metadata.name) {
        Some("environment") => format!("environment {}", name.to_ascii_uppercase()),
        Some("flag") => format!("flag --{}", name.replace('_', "-")),
        Some(file) if !file.starts_with("TOML") => file.to_owned(),
        _ => "default".into(),
    }
}

pub(super) fn read_one<T: Setting>(
    layers: &Figment,
    name: &str,
    required: bool,
    invalid: &mut Vec<InvalidSetting>,
) -> Option<T> {
    let refuse = |value: Option<String>, allowed: String| InvalidSetting {
        key: name.into(),
        value,
        source: source(layers, name),
        allowed,
    };
    let Ok(value) = layers.find_value(name) else {
        if required {
            invalid.push(refuse(None, "a value: it has no default".into()));
        }
        return None;
    };
    let Some(text) = text_of(&value) else {
        invalid.push(refuse(None, "text, a number, true or false, or a list of texts".into()));
        return None;
    };
    match T::parse(&text) {
        Ok(parsed) => Some(parsed),
        // An invalid secret is still secret.
        Err(allowed) => {
            let shown = if T::CONFIDENTIAL { "***".into() } else { shown(&text) };
            invalid.push(refuse(Some(shown), allowed));
            None
        }
    }
}

/// Formats a scalar or a list of scalars as an environment variable.
pub(super) fn text_of(value: &Value) -> Option<String> {
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

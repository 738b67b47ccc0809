//! The `buf.validate` options of the proto files that `src/event` enforces.
//!
//! Invariant: an option that the validator does not implement fails the build, so every option in a proto file takes
//! effect. Does not know the format of the tables.

use prost_reflect::{
    DescriptorPool, DynamicMessage, ExtensionDescriptor, FieldDescriptor, Kind, MessageDescriptor, Value,
};

use crate::Result;

/// Patterns that the validator implements, with their variant of `Pattern` in `src/event/schema/pattern.rs`.
pub(crate) const PATTERNS: &[(&str, &str)] =
    &[(r"^([A-Za-z0-9][A-Za-z0-9._-]*)?$", "AppId"), (r"^\P{Cc}*$", "NoControl"), (r"^([A-Za-z]{3})?$", "Currency")];
/// The pattern that also bounds the length.
const BOUNDED: &str = "Currency";

/// The options of one field, and those of its elements if it is a list or a map.
#[derive(Default)]
pub(crate) struct Rules {
    pub(crate) required: bool,
    pub(crate) bytes_max: Option<u64>,
    pub(crate) pattern: Option<&'static str>,
    pub(crate) min: Option<i64>,
    pub(crate) max: Option<i64>,
    pub(crate) finite: bool,
    pub(crate) elements_min: Option<u64>,
    pub(crate) elements_max: Option<u64>,
    /// Rules for the keys of a map.
    pub(crate) keys: Option<Box<Rules>>,
    /// Rules for the elements of a list or the values of a map.
    pub(crate) elements: Option<Box<Rules>>,
}

/// The rules of a field. `open` fields, those of requests and replies, need no bounds.
pub(crate) fn field_rules(field: &FieldDescriptor, open: bool) -> Result<Rules> {
    let path = format!("{}.{}", field.parent_message().name(), field.name());
    let mut rules = Rules::default();
    if let Some(options) = extension(&path, &field.options(), "buf.validate.field")? {
        rules.read(&path, field, &options)?;
    }
    let member = Rules::default();
    let elements = rules.elements.as_deref().unwrap_or(&member);
    let unbounded = match field.kind() {
        _ if open => None,
        _ if (field.is_list() || field.is_map()) && rules.elements_max.is_none() => Some("max_items or max_pairs"),
        Kind::Message(entry) if field.is_map() => {
            let keys = rules.keys.as_deref().unwrap_or(&member);
            keys.unbounded(&Kind::String).or_else(|| elements.unbounded(&entry.map_entry_value_field().kind()))
        }
        kind if field.is_list() => elements.unbounded(&kind),
        kind => rules.unbounded(&kind),
    };
    match unbounded {
        Some(missing) => Err(format!("{path} has no {missing}: what is stored and shown must be bounded").into()),
        None if !open && rules.elements_min.is_some() => Err(format!("{path}: min_items is not implemented").into()),
        None if !open && rules.required && !matches!(field.kind(), Kind::String) => {
            Err(format!("{path}: required is implemented for strings alone").into())
        }
        None => Ok(rules),
    }
}

/// Checks that each oneof of a message requires one of its members, and that the message has no other options.
pub(crate) fn check_message(message: &MessageDescriptor) -> Result<()> {
    if extension(message.name(), &message.options(), "")?.is_some() {
        return Err(format!("{}: options of messages are not implemented", message.name()).into());
    }
    for oneof in message.oneofs() {
        let path = format!("{}.{}", message.name(), oneof.name());
        let options = extension(&path, &oneof.options(), "buf.validate.oneof")?;
        let given = options.map(|options| leaves(&path, &options)).transpose()?.unwrap_or_default();
        // The validator always requires exactly one payload.
        if !matches!(&given[..], [(option, Value::Bool(true))] if option == "required") {
            return Err(format!("{path}: exactly (buf.validate.oneof).required is implemented").into());
        }
    }
    Ok(())
}

/// Fails if no field uses a pattern that the validator implements.
pub(crate) fn check_patterns(used: &[&str]) -> Result<()> {
    match PATTERNS.iter().find(|(_, name)| !used.contains(name)) {
        Some((pattern, _)) => Err(format!("no field has the pattern {pattern}: take it off the list").into()),
        None => Ok(()),
    }
}

/// Excludes the files that only define options.
pub(crate) fn is_ours(file: &str) -> bool {
    file.starts_with("causality/") || file == "google/protobuf/struct.proto"
}

/// The message with that name.
pub(crate) fn message(pool: &DescriptorPool, package: &str, name: &str) -> Result<MessageDescriptor> {
    pool.get_message_by_name(&format!("{package}.{name}"))
        .ok_or_else(|| format!("{name} is not in the proto files").into())
}

impl Rules {
    fn read(&mut self, path: &str, field: &FieldDescriptor, options: &DynamicMessage) -> Result<()> {
        for (option, value) in leaves(path, options)? {
            let not_implemented = || format!("{path}: the checker does not implement {option} = {value}");
            let (holder, rest) = if field.is_map() {
                ("map.", option.strip_prefix("map."))
            } else if field.is_list() {
                ("repeated.", option.strip_prefix("repeated."))
            } else {
                ("", None)
            };
            let Some(rest) = rest else {
                let fits = holder.is_empty() || option == "required";
                if !fits || !self.set(&option, &value, &field.kind()) {
                    return Err(not_implemented().into());
                }
                continue;
            };
            let known = match (rest.split_once('.'), &value, field.kind()) {
                (None, Value::U64(count), _) if rest == "max_items" || rest == "max_pairs" => {
                    self.elements_max.replace(*count).is_none()
                }
                (None, Value::U64(count), _) if rest == "min_items" => self.elements_min.replace(*count).is_none(),
                (Some(("items", option)), value, kind) => {
                    self.elements.get_or_insert_default().set(option, value, &kind)
                }
                (Some(("keys", option)), value, _) => {
                    option != "required" && self.keys.get_or_insert_default().set(option, value, &Kind::String)
                        // Patterns for keys are not implemented.
                        && self.keys.as_ref().is_some_and(|keys| keys.pattern.is_none())
                }
                (Some(("values", option)), value, Kind::Message(entry)) => {
                    self.elements.get_or_insert_default().set(option, value, &entry.map_entry_value_field().kind())
                }
                _ => false,
            };
            // An element is never missing, only empty.
            if !known || self.elements.as_ref().is_some_and(|elements| elements.required) {
                return Err(not_implemented().into());
            }
        }
        Ok(())
    }

    /// Applies one option of a field of this kind. Returns whether it is implemented.
    fn set(&mut self, option: &str, value: &Value, kind: &Kind) -> bool {
        match (option, value, kind) {
            ("required", Value::Bool(required), Kind::String | Kind::Message(_)) => self.required = *required,
            ("string.max_bytes", Value::U64(bytes), Kind::String) => self.bytes_max = Some(*bytes),
            ("string.pattern", Value::String(pattern), Kind::String) => {
                let known = PATTERNS.iter().find(|(known, _)| known == pattern);
                self.pattern = known.map(|(_, name)| *name);
                return known.is_some();
            }
            ("int32.gte", Value::I32(min), Kind::Int32) => self.min = Some(i64::from(*min)),
            ("int32.lte", Value::I32(max), Kind::Int32) => self.max = Some(i64::from(*max)),
            ("int64.gte", Value::I64(min), Kind::Int64) => self.min = Some(*min),
            ("int64.lte", Value::I64(max), Kind::Int64) => self.max = Some(*max),
            ("float.finite", Value::Bool(finite), Kind::Float)
            | ("double.finite", Value::Bool(finite), Kind::Double) => self.finite = *finite,
            _ => return false,
        }
        // With the minimum above the maximum, the option would mean the range outside the two.
        self.min.zip(self.max).is_none_or(|(min, max)| min <= max)
    }

    /// The option that bounds a value of this kind, if it is missing.
    fn unbounded(&self, kind: &Kind) -> Option<&'static str> {
        match kind {
            Kind::String if self.bytes_max.is_none() && self.pattern != Some(BOUNDED) => Some("string.max_bytes"),
            // JSON has only finite numbers, and every event is shown as JSON.
            Kind::Float | Kind::Double if !self.finite => Some("finite"),
            _ => None,
        }
    }
}

/// The extension with that name. No other extension may be present.
fn extension(path: &str, options: &DynamicMessage, name: &str) -> Result<Option<DynamicMessage>> {
    if options.unknown_fields().next().is_some() {
        return Err(format!("{path} has an option that no proto file defines").into());
    }
    let mut found = None;
    for (extension, value) in options.extensions() {
        let named = |extension: &ExtensionDescriptor| extension.full_name().to_owned();
        match value {
            Value::Message(message) if extension.full_name() == name => found = Some(message.clone()),
            _ => return Err(format!("{path}: the option {} is not implemented", named(&extension)).into()),
        }
    }
    Ok(found)
}

/// Every option that is set, with its path: `string.max_bytes`.
fn leaves(path: &str, message: &DynamicMessage) -> Result<Vec<(String, Value)>> {
    if message.extensions().next().is_some() || message.unknown_fields().next().is_some() {
        return Err(format!("{path}: predefined rules are not implemented").into());
    }
    let mut found = Vec::new();
    for (field, value) in message.fields() {
        match value {
            Value::Message(inner) => {
                let below = leaves(path, inner)?;
                found.extend(below.into_iter().map(|(option, value)| (format!("{}.{option}", field.name()), value)));
            }
            value => found.push((field.name().to_owned(), value.clone())),
        }
    }
    Ok(found)
}

//! Compiles `proto/causality/v1` without `protoc`: the prost messages, their proto3 JSON
//! mapping, and the field tables by which `src/event` checks, reads and writes events.

use std::fmt::Write as _;
use std::path::{Path, PathBuf};
use std::{env, error::Error, fs};

use prost_types::field_descriptor_proto::{Label, Type};
use prost_types::{DescriptorProto, EnumDescriptorProto, FieldDescriptorProto, FileDescriptorSet};

/// What `src/event` keeps on the stack for the fields of a message.
const FIELDS_MAX: usize = 16;

const PACKAGE: &str = ".causality.v1.";
const WELL_KNOWN: &str = ".google.protobuf.";

/// Payload fields that an event of the kind cannot go without.
const REQUIRED: &[&str] = &[
    "ScreenView.screen_name",
    "ScreenExit.screen_name",
    "ButtonTap.button_id",
    "TextInput.field_id",
    "ProductView.product_id",
    "AddToCart.product_id",
    "RemoveFromCart.product_id",
    "PurchaseComplete.order_id",
    "CustomEvent.event_name",
];

const PERCENT: &[&str] = &["ScrollEvent.scroll_depth_percent", "BatteryChange.battery_level"];
const NOT_NEGATIVE: &[&str] = &["TextInput.text_length"];
/// Integers whose names end so are amounts that cannot be below zero.
const NOT_NEGATIVE_SUFFIXES: &[&str] = &["_ms", "_cents", "_bytes", "_count"];

/// Kinds whose type is not their field name without the category.
const TYPE_NAMES: &[(&str, &str)] = &[("swipe_gesture", "swipe"), ("scroll_event", "scroll"), ("custom_event", "")];

type Result<T, E = Box<dyn Error>> = std::result::Result<T, E>;

fn main() -> Result<()> {
    println!("cargo:rerun-if-changed=build.rs");
    println!("cargo:rerun-if-changed=proto");
    let descriptors = protox::compile(["causality/v1/service.proto"], ["proto"])?;
    let out_dir = PathBuf::from(env::var_os("OUT_DIR").ok_or("OUT_DIR is not set")?);

    prost_build::Config::new()
        .compile_well_known_types()
        .extern_path(".google.protobuf", "::pbjson_types")
        .btree_map(["."])
        .compile_fds(descriptors.clone())?;

    let mut json = pbjson_build::Builder::new();
    for file in &descriptors.file {
        json.register_file_descriptor(file.clone());
    }
    json.extern_path(".google.protobuf", "::pbjson_types").btree_map(["."]).build(&[".causality.v1"])?;

    write_tables(&descriptors, &out_dir.join("tables.rs"))
}

/// Rust source for the statics of `src/event/schema.rs`.
fn write_tables(descriptors: &FileDescriptorSet, path: &Path) -> Result<()> {
    let mut out = String::new();
    let mut rules_met = 0;
    // The tables are about events; requests and replies are read and written as a whole.
    for file in descriptors.file.iter().filter(|file| !file.name().ends_with("service.proto")) {
        for message in &file.message_type {
            rules_met += write_message(&mut out, message, file.package())?;
        }
        for enumeration in &file.enum_type {
            write_enum(&mut out, enumeration)?;
        }
    }
    if rules_met != REQUIRED.len() + PERCENT.len() + NOT_NEGATIVE.len() {
        return Err("a field named in build.rs is not in the proto files".into());
    }
    let envelope = descriptors
        .file
        .iter()
        .flat_map(|file| &file.message_type)
        .find(|message| message.name() == "EventEnvelope")
        .ok_or("EventEnvelope is not in the proto files")?;
    write_kinds(&mut out, envelope)?;
    fs::write(path, out)?;
    Ok(())
}

fn write_message(out: &mut String, message: &DescriptorProto, package: &str) -> Result<usize> {
    let name = message.name();
    let mut rules_met = 0;
    let mut rows = String::new();
    let mut fields: Vec<_> = message.field.iter().collect();
    if fields.len() > FIELDS_MAX && name != "EventEnvelope" {
        return Err(format!("{name} has more than {FIELDS_MAX} fields: see FIELDS_MAX in src/event").into());
    }
    fields.sort_by_key(|field| field.number());
    for field in fields {
        let path = format!("{name}.{}", field.name());
        rules_met += [REQUIRED, PERCENT, NOT_NEGATIVE].iter().filter(|rule| rule.contains(&path.as_str())).count();
        let entry = map_entry(message, field);
        let shape = match entry {
            Some(entry) => {
                let value = entry.field.iter().find(|f| f.number() == 2).ok_or("a map entry without a value")?;
                format!("Shape::Map(&{})", row(value, &shape(value)?, "Check::None"))
            }
            None => shape(field)?,
        };
        let check = if package == "causality.v1" { check(&path, field) } else { "Check::None" };
        let repeated = entry.is_none() && field.label() == Label::Repeated;
        if repeated && !matches!(field.r#type(), Type::String | Type::Message) {
            return Err(format!("{path}: packed fields are not supported by src/event/wire.rs").into());
        }
        let shape = if repeated { format!("Shape::List(&{})", row(field, &shape, "Check::None")) } else { shape };
        write!(rows, "{},", row(field, &shape, check))?;
    }
    writeln!(out, "pub(in crate::event) static {}: Message = Message {{ fields: &[{rows}] }};", static_name(name))?;
    Ok(rules_met)
}

fn row(field: &FieldDescriptorProto, shape: &str, check: &str) -> String {
    let (number, name, json_name) = (field.number(), field.name(), json_name(field.name()));
    let view_key = format!(",\"{name}\":");
    format!(
        "Field {{ number: {number}, name: {name:?}, json_name: {json_name:?}, view_key: {view_key:?}, shape: {shape}, \
         check: {check} }}"
    )
}

fn shape(field: &FieldDescriptorProto) -> Result<String> {
    Ok(match field.r#type() {
        Type::String => "Shape::String".into(),
        Type::Bool => "Shape::Bool".into(),
        Type::Int32 => "Shape::Int32".into(),
        Type::Int64 => "Shape::Int64".into(),
        Type::Float => "Shape::Float".into(),
        Type::Double => "Shape::Double".into(),
        Type::Enum => format!("Shape::Enum(&{})", reference(field)),
        Type::Message if field.type_name() == ".google.protobuf.Struct" => "Shape::Struct".into(),
        Type::Message if is_payload(field) => format!("Shape::Payload(&{})", reference(field)),
        Type::Message => format!("Shape::Message(&{})", reference(field)),
        other => return Err(format!("{}: {} is not supported", field.name(), other.as_str_name()).into()),
    })
}

/// A member of the envelope's `oneof`; no other message of ours has one.
fn is_payload(field: &FieldDescriptorProto) -> bool {
    field.oneof_index.is_some() && field.type_name().starts_with(PACKAGE)
}

fn reference(field: &FieldDescriptorProto) -> String {
    let name = field.type_name();
    static_name(name.strip_prefix(PACKAGE).or(name.strip_prefix(WELL_KNOWN)).unwrap_or(name))
}

fn check(path: &str, field: &FieldDescriptorProto) -> &'static str {
    let integer = matches!(field.r#type(), Type::Int32 | Type::Int64);
    let amount = integer && NOT_NEGATIVE_SUFFIXES.iter().any(|suffix| field.name().ends_with(suffix));
    match () {
        () if path == "CustomEvent.event_name" => "Check::EventName",
        () if REQUIRED.contains(&path) => "Check::Required",
        () if PERCENT.contains(&path) => "Check::Percent",
        () if amount || NOT_NEGATIVE.contains(&path) => "Check::NotNegative",
        () if field.name() == "currency" => "Check::Currency",
        () => "Check::None",
    }
}

fn write_enum(out: &mut String, enumeration: &EnumDescriptorProto) -> Result<()> {
    let mut names: Vec<_> = enumeration.value.iter().map(|value| (value.number(), value.name())).collect();
    names.sort_unstable();
    if names.iter().enumerate().any(|(position, (number, _))| *number != position as i32) {
        return Err(format!("{}: enum numbers must count up from 0", enumeration.name()).into());
    }
    let names: Vec<_> = names.into_iter().map(|(_, name)| name).collect();
    writeln!(
        out,
        "pub(in crate::event) static {}: Enum = Enum {{ names: &{names:?} }};",
        static_name(enumeration.name())
    )?;
    Ok(())
}

fn write_kinds(out: &mut String, envelope: &DescriptorProto) -> Result<()> {
    let mut kinds: Vec<_> = envelope.field.iter().filter(|field| field.oneof_index.is_some()).collect();
    kinds.sort_by_key(|field| field.number());
    writeln!(out, "static KINDS: [Kind; {}] = [", kinds.len())?;
    for field in &kinds {
        let category = match field.number() {
            10..=99 => "user",
            100..=199 => "screen",
            200..=299 => "interaction",
            300..=399 => "commerce",
            400..=499 => "system",
            900..=999 => "custom",
            other => return Err(format!("{}: no category has number {other}", field.name()).into()),
        };
        let (name, json_name, number) = (field.name(), json_name(field.name()), field.number());
        let prefix = format!("{category}_");
        let event_type = match TYPE_NAMES.iter().find(|(field, _)| *field == name) {
            Some((_, event_type)) => event_type,
            None => name.strip_prefix(&prefix).unwrap_or(name),
        };
        let message = reference(field);
        writeln!(
            out,
            "Kind {{ field: {name:?}, json_name: {json_name:?}, number: {number}, category: {category:?}, \
             event_type: {event_type:?}, message: &{message} }},"
        )?;
    }
    writeln!(out, "];\nfn position(payload: &Payload) -> usize {{ match payload {{")?;
    for (position, field) in kinds.iter().enumerate() {
        writeln!(out, "Payload::{}(_) => {position},", camel(field.name(), true))?;
    }
    writeln!(out, "}} }}")?;
    writeln!(out, "fn position_of_number(number: u32) -> Option<usize> {{ Some(match number {{")?;
    for (position, field) in kinds.iter().enumerate() {
        writeln!(out, "{} => {position},", field.number())?;
    }
    writeln!(out, "_ => return None }}) }}")?;
    Ok(())
}

/// The synthetic entry message of a map field.
fn map_entry<'a>(message: &'a DescriptorProto, field: &FieldDescriptorProto) -> Option<&'a DescriptorProto> {
    let name = field.type_name().rsplit('.').next()?;
    message
        .nested_type
        .iter()
        .find(|nested| nested.name() == name && nested.options.as_ref().is_some_and(|options| options.map_entry()))
}

fn json_name(name: &str) -> String {
    camel(name, false)
}

fn camel(name: &str, mut upper: bool) -> String {
    let mut out = String::with_capacity(name.len());
    for letter in name.chars() {
        if letter == '_' {
            upper = true;
        } else {
            out.push(if upper { letter.to_ascii_uppercase() } else { letter });
            upper = false;
        }
    }
    out
}

/// `PurchaseItem` as `PURCHASE_ITEM`.
fn static_name(name: &str) -> String {
    let mut out = String::with_capacity(name.len() + 4);
    for (position, letter) in name.chars().enumerate() {
        if position > 0 && letter.is_ascii_uppercase() {
            out.push('_');
        }
        out.push(letter.to_ascii_uppercase());
    }
    out
}

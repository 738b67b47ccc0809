//! Compiles `proto/causality/v1` without `protoc`: the prost messages, their proto3 JSON mapping, and the field tables
//! with which `src/event` checks, reads and writes events. The constraints on a field come from its `buf.validate`
//! options.

#[path = "build/descriptions.rs"]
mod descriptions;
#[path = "build/options.rs"]
mod options;

use std::fmt::Write as _;
use std::path::{Path, PathBuf};
use std::{env, error::Error, fs};

use prost_reflect::DescriptorPool;
use prost_types::field_descriptor_proto::{Label, Type};
use prost_types::{DescriptorProto, EnumDescriptorProto, FieldDescriptorProto, FileDescriptorProto, FileDescriptorSet};

use options::Rules;

/// Array size that `src/event` keeps on the stack for the fields of a message.
const FIELDS_MAX: usize = 16;

const PACKAGE: &str = ".causality.v1.";
const WELL_KNOWN: &str = ".google.protobuf.";

/// Kinds whose event type is not their field name without the category.
const TYPE_NAMES: &[(&str, &str)] = &[("swipe_gesture", "swipe"), ("scroll_event", "scroll"), ("custom_event", "")];

type Result<T, E = Box<dyn Error>> = std::result::Result<T, E>;

fn main() -> Result<()> {
    println!("cargo:rerun-if-changed=build.rs");
    println!("cargo:rerun-if-changed=build");
    println!("cargo:rerun-if-changed=proto");
    let mut compiler = protox::Compiler::new(["proto"])?;
    compiler.include_source_info(true).include_imports(true).open_file("causality/v1/service.proto")?;
    let mut descriptors = compiler.file_descriptor_set();
    descriptors.file.retain(|file| options::is_ours(file.name()));
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

    descriptions::write(&descriptors, &out_dir.join("descriptions.rs"), static_name)?;
    write_tables(&descriptors, &compiler.descriptor_pool(), &out_dir.join("tables.rs"))
}

/// Rust source for the statics of `src/event/schema/tables.rs`.
fn write_tables(descriptors: &FileDescriptorSet, pool: &DescriptorPool, path: &Path) -> Result<()> {
    let mut tables = Tables { pool, out: String::new(), messages: Vec::new(), patterns: Vec::new(), places: 0 };
    for file in &descriptors.file {
        for message in &file.message_type {
            tables.write_message(message, file)?;
        }
        for enumeration in &file.enum_type {
            write_enum(&mut tables.out, enumeration)?;
        }
    }
    options::check_patterns(&tables.patterns)?;
    let Tables { mut out, messages, places, .. } = tables;
    writeln!(out, "pub(crate) const PLACES: usize = {places};")?;
    writeln!(out, "static MESSAGES: [&Message; {}] = [{}];", messages.len(), messages.concat())?;
    writeln!(out, "impl Pattern {{ pub fn regex(self) -> &'static str {{ match self {{")?;
    for (regex, name) in options::PATTERNS {
        writeln!(out, "Pattern::{name} => {regex:?},")?;
    }
    writeln!(out, "}} }} }}")?;
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

/// The source text of the tables under construction.
struct Tables<'a> {
    pool: &'a DescriptorPool,
    out: String,
    /// References to the tables of our own messages.
    messages: Vec<String>,
    /// Patterns in use.
    patterns: Vec<&'static str>,
    /// Places taken by the messages so far: one per field and one before them.
    places: usize,
}

impl Tables<'_> {
    fn write_message(&mut self, message: &DescriptorProto, file: &FileDescriptorProto) -> Result<()> {
        let name = message.name();
        let described = options::message(self.pool, file.package(), name)?;
        if file.package() == "causality.v1" {
            options::check_message(&described)?;
        }
        // google.protobuf.Struct cannot have our options, and requests are bounded by their events.
        let open = file.package() != "causality.v1" || file.name().ends_with("service.proto");
        let mut rows = String::new();
        let mut fields: Vec<_> = message.field.iter().collect();
        if fields.len() > FIELDS_MAX && name != "EventEnvelope" {
            return Err(format!("{name} has more than {FIELDS_MAX} fields: see FIELDS_MAX in src/event").into());
        }
        fields.sort_by_key(|field| field.number());
        let own = fields.iter().filter(|field| field.oneof_index.is_none()).map(|field| field.number());
        if name == "EventEnvelope" && !own.eq(1..=9) {
            return Err("src/event/intake/admit.rs checks the fields 1 to 9 of EventEnvelope, and no others".into());
        }
        let mut required = 0_u64;
        for (position, field) in fields.into_iter().enumerate() {
            let own = described.get_field_by_name(field.name()).ok_or("a field without a description")?;
            let rules = options::field_rules(&own, open)?;
            required |= u64::from(rules.required) << position;
            let nested = rules.elements.as_deref();
            self.patterns.extend([Some(&rules), nested].into_iter().flatten().filter_map(|rules| rules.pattern));
            write!(rows, "{},", field_row(message, field, &rules)?)?;
        }
        if file.package() == "causality.v1" {
            self.messages.push(format!("&{},", static_name(name)));
        }
        let place = self.places;
        self.places += message.field.len() + 1;
        writeln!(
            self.out,
            "pub(crate) static {}: Message = Message {{ name: {name:?}, fields: &[{rows}], required: {required}, \
             place: {place} }};",
            static_name(name)
        )?;
        Ok(())
    }
}

fn field_row(message: &DescriptorProto, field: &FieldDescriptorProto, rules: &Rules) -> Result<String> {
    let none = Rules::default();
    let members = rules.elements.as_deref().unwrap_or(&none);
    if let Some(entry) = map_entry(message, field) {
        let value = entry.field.iter().find(|f| f.number() == 2).ok_or("a map entry without a value")?;
        let shape = format!("Shape::Map(&{})", row(value, &shape(value)?, members));
        return Ok(row(field, &shape, rules));
    }
    let shape = shape(field)?;
    if field.label() != Label::Repeated {
        return Ok(row(field, &shape, rules));
    }
    if !matches!(field.r#type(), Type::String | Type::Message) {
        let path = format!("{}.{}", message.name(), field.name());
        return Err(format!("{path}: packed fields are not supported by src/event/codec/wire.rs").into());
    }
    Ok(row(field, &format!("Shape::List(&{})", row(field, &shape, members)), rules))
}

fn row(field: &FieldDescriptorProto, shape: &str, rules: &Rules) -> String {
    let (number, name, json_name) = (field.number(), field.name(), json_name(field.name()));
    let (view_key, json_key) = (format!(",\"{name}\":"), format!("\"{json_name}\":"));
    let Rules { required, bytes_max, min, max, finite, elements_min, elements_max, .. } = rules;
    let pattern = rules.pattern.map_or("None".to_owned(), |pattern| format!("Some(Pattern::{pattern})"));
    let key_bytes_max = rules.keys.as_ref().and_then(|keys| keys.bytes_max);
    format!(
        "Field {{ number: {number}, name: {name:?}, json_name: {json_name:?}, json_key: {json_key:?}, \
         view_key: {view_key:?}, shape: {shape}, rules: &Rules {{ required: {required}, bytes_max: {bytes_max:?}, \
         pattern: {pattern}, min: {min:?}, max: {max:?}, finite: {finite}, elements_min: {elements_min:?}, \
         elements_max: {elements_max:?}, \
         key_bytes_max: {key_bytes_max:?} }} }}"
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

fn write_enum(out: &mut String, enumeration: &EnumDescriptorProto) -> Result<()> {
    let mut names: Vec<_> = enumeration.value.iter().map(|value| (value.number(), value.name())).collect();
    names.sort_unstable();
    if names.iter().enumerate().any(|(position, (number, _))| *number != position as i32) {
        return Err(format!("{}: enum numbers must count up from 0", enumeration.name()).into());
    }
    let names: Vec<_> = names.into_iter().map(|(_, name)| name).collect();
    writeln!(out, "pub(crate) static {}: Enum = Enum {{ names: &{names:?} }};", static_name(enumeration.name()))?;
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

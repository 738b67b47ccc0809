//! The comments of the proto files as Rust source: the statics of `src/event/schema/json_schema.rs`.

use std::collections::HashMap;
use std::fmt::Write as _;
use std::path::Path;
use std::{error::Error, fs};

use prost_types::{FileDescriptorProto, FileDescriptorSet};

const PACKAGE: &str = "causality.v1";
/// Field numbers in the descriptors that make up the path of a location.
const MESSAGES: i32 = 4;
const ENUMS: i32 = 5;
const FIELDS: i32 = 2;

/// Writes the messages and enums with their names and comments. `static_name` gives the names of their tables.
pub(crate) fn write(
    descriptors: &FileDescriptorSet,
    path: &Path,
    static_name: fn(&str) -> String,
) -> Result<(), Box<dyn Error>> {
    let (mut messages, mut enums) = (String::new(), String::new());
    for file in descriptors.file.iter().filter(|file| file.package() == PACKAGE) {
        let comments = comments(file);
        let comment = |path: &[i32]| comments.get(path).map_or("", String::as_str);
        for (index, message) in file.message_type.iter().enumerate() {
            let index = i32::try_from(index)?;
            // In the order of the tables.
            let mut fields: Vec<_> = message.field.iter().enumerate().collect();
            fields.sort_by_key(|(_, field)| field.number());
            let mut of_fields = Vec::new();
            for (position, _) in fields {
                of_fields.push(comment(&[MESSAGES, index, FIELDS, i32::try_from(position)?]));
            }
            let name = message.name();
            writeln!(
                messages,
                "DescribedMessage {{ name: {name:?}, comment: {:?}, message: &{}, fields: &{of_fields:?} }},",
                comment(&[MESSAGES, index]),
                static_name(name),
            )?;
        }
        for (index, enumeration) in file.enum_type.iter().enumerate() {
            let name = enumeration.name();
            let comment = comment(&[ENUMS, i32::try_from(index)?]);
            writeln!(
                enums,
                "DescribedEnum {{ name: {name:?}, comment: {comment:?}, names: &{} }},",
                static_name(name)
            )?;
        }
    }
    let text = format!(
        "static MESSAGES: &[DescribedMessage] = &[{messages}];\nstatic ENUMS: &[DescribedEnum] = &[{enums}];\n"
    );
    fs::write(path, text)?;
    Ok(())
}

/// The comment before each element of a file, on one line.
fn comments(file: &FileDescriptorProto) -> HashMap<Vec<i32>, String> {
    let locations = file.source_code_info.iter().flat_map(|info| &info.location);
    locations
        .filter(|location| location.leading_comments.is_some())
        .map(|location| {
            let words: Vec<_> = location.leading_comments().split_whitespace().collect();
            (location.path.clone(), words.join(" "))
        })
        .collect()
}

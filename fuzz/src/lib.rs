//! What each fuzz target does with one input: it calls what the process itself calls, and holds the outcome against
//! what must be true of it. The same code replays the seeds among the tests of the crate.

pub mod accepted;
mod metered;
mod request;

pub mod cloud_events;
pub mod coding;
pub mod http;
pub mod json;
pub mod json_lines;
pub mod otlp;
pub mod protobuf;
pub mod rules;
pub mod segment;
pub mod settings;
pub mod yaml;

#[cfg(test)]
mod replay;

/// The name of a program, its seeds and its dictionary, and what it does with an input.
type Target = (&'static str, fn(&[u8]));

pub const TARGETS: &[Target] = &[
    ("json", json::run),
    ("json_lines", json_lines::run),
    ("protobuf", protobuf::run),
    ("segment", segment::run),
    ("cloud_events", cloud_events::run),
    ("otlp", otlp::run),
    ("gzip", coding::gzip),
    ("deflate", coding::deflate),
    ("brotli", coding::brotli),
    ("zstd", coding::zstd),
    ("http", http::run),
    ("cel", rules::cel),
    ("jsonpath", rules::jsonpath),
    ("yaml", yaml::run),
    ("settings", settings::run),
];

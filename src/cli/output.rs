//! The one way to stdout: a reader that has seen enough (`| head`) is not a failure.

use std::io::{self, ErrorKind, Write};

use serde::Serialize;

use super::failure::Failure;

pub(super) fn print(text: &str) -> Result<(), Failure> {
    let mut out = io::stdout().lock();
    match out.write_all(text.as_bytes()).and_then(|()| out.flush()) {
        Err(error) if error.kind() != ErrorKind::BrokenPipe => {
            Err(Failure::failed(format!("cannot write to standard output: {error}")))
        }
        _ => Ok(()),
    }
}

pub(super) fn print_json(document: &impl Serialize) -> Result<(), Failure> {
    let text = serde_json::to_string_pretty(document).map_err(|e| Failure::failed(format!("write JSON: {e}")))?;
    print(&(text + "\n"))
}

/// One document for a person: YAML, which reads well and can be pasted into a file for `apply`.
pub(super) fn print_document(document: &serde_json::Value, json: bool) -> Result<(), Failure> {
    if json {
        return print_json(document);
    }
    print(&serde_yaml_ng::to_string(document).map_err(|e| Failure::failed(format!("write YAML: {e}")))?)
}

/// A remark that is no result: to stderr, so that a script's input stays clean.
pub(super) fn note(text: &str) {
    // Without a stderr there is nobody to tell.
    let _ = writeln!(io::stderr(), "{text}");
}

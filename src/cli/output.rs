//! All output to stdout. A reader that closes the pipe early (`| head`) is not a failure.

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

/// Prints one document for a person as YAML, which is readable and can be pasted into a file for `apply`.
pub(super) fn print_document(document: &serde_json::Value, json: bool) -> Result<(), Failure> {
    if json {
        return print_json(document);
    }
    print(&serde_yaml_ng::to_string(document).map_err(|e| Failure::failed(format!("write YAML: {e}")))?)
}

/// Prints a remark that is not the result: to stderr, so that scripts read only results from stdout.
pub(super) fn note(text: &str) {
    // If stderr is closed, there is nobody left to read it.
    let _ = writeln!(io::stderr(), "{text}");
}

//! An error in a document and its place, for events and admin documents.

use std::fmt;

use serde::Serialize;

/// One error in a JSON document. Never echoes values of the input.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct FieldError {
    /// RFC 6901 JSON pointer from the document's root; empty for the document itself.
    pub pointer: String,
    /// One clause: what is wrong, or what is allowed.
    pub detail: String,
}

/// Names in a document can be as long as the document, so both texts are bounded.
const POINTER_BYTES_MAX: usize = 256;
const DETAIL_BYTES_MAX: usize = 1024;

impl FieldError {
    /// Longer texts are truncated and end with an ellipsis.
    pub fn new(pointer: impl Into<String>, detail: impl Into<String>) -> Self {
        Self { pointer: cut(pointer.into(), POINTER_BYTES_MAX), detail: cut(detail.into(), DETAIL_BYTES_MAX) }
    }

    /// The same error in a document that contains this one at `prefix`.
    pub fn under(mut self, prefix: &str) -> Self {
        self.pointer.insert_str(0, prefix);
        self
    }

    /// Translates the pointer into an event back to the document that the event was made from. `names` has pairs of
    /// prefixes: the event's and the document's. The first match counts.
    pub(crate) fn rename(&mut self, names: &[(&str, &str)]) {
        let begins = |(made, sent): &(&str, &str)| Some(format!("{sent}{}", self.pointer.strip_prefix(made)?));
        if let Some(pointer) = names.iter().find_map(begins) {
            self.pointer = pointer;
        }
    }
}

impl fmt::Display for FieldError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        if self.pointer.is_empty() { f.write_str(&self.detail) } else { write!(f, "{}: {}", self.pointer, self.detail) }
    }
}

/// Truncates a text and adds an ellipsis.
pub fn cut(mut text: String, bytes_max: usize) -> String {
    if text.len() > bytes_max {
        text.truncate(text.floor_char_boundary(bytes_max));
        text.push('…');
        text.shrink_to_fit();
    }
    text
}

/// Errors reported for one document.
pub(crate) const ERRORS_MAX: usize = 16;
/// Errors reported for one event of a batch.
const ITEM_ERRORS_MAX: usize = 4;
/// Bytes of an input name that a pointer repeats.
const POINTER_NAME_BYTES_MAX: usize = 128;

/// The errors found so far, up to [`ERRORS_MAX`].
#[derive(Debug, Default)]
pub(crate) struct Errors(Vec<FieldError>);

impl Errors {
    pub(crate) fn add(&mut self, at: Path<'_>, detail: impl Into<String>) {
        if self.0.len() < ERRORS_MAX {
            self.0.push(FieldError::new(at.pointer(), detail));
        }
    }

    pub(crate) fn is_empty(&self) -> bool {
        self.0.is_empty()
    }

    /// Like [`Self::into_result`], with the bound for one event of a batch.
    pub(crate) fn into_item_result(mut self) -> Result<(), Vec<FieldError>> {
        self.0.truncate(ITEM_ERRORS_MAX);
        self.0.shrink_to_fit();
        self.into_result()
    }

    pub(crate) fn into_result(self) -> Result<(), Vec<FieldError>> {
        if self.0.is_empty() { Ok(()) } else { Err(self.0) }
    }
}

/// A position in a document as links up the stack. Becomes text only when there is an error to report.
#[derive(Clone, Copy)]
pub(crate) enum Path<'p> {
    Root,
    Field(&'p Path<'p>, &'p str),
    Index(&'p Path<'p>, usize),
}

impl Path<'_> {
    pub(crate) fn pointer(&self) -> String {
        let mut out = String::new();
        self.write(&mut out);
        out
    }

    fn write(&self, out: &mut String) {
        match self {
            Self::Root => {}
            Self::Field(parent, name) => {
                parent.write(out);
                out.push('/');
                for (_, letter) in name.char_indices().take_while(|(at, _)| *at < POINTER_NAME_BYTES_MAX) {
                    match letter {
                        '~' => out.push_str("~0"),
                        '/' => out.push_str("~1"),
                        // A control character would take six bytes of the reply.
                        letter if letter.is_control() => out.push(char::REPLACEMENT_CHARACTER),
                        letter => out.push(letter),
                    }
                }
            }
            Self::Index(parent, index) => {
                parent.write(out);
                out.push('/');
                out.push_str(&index.to_string());
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn texts_are_bounded() {
        let error = FieldError::new("/é".repeat(1_000), "x".repeat(2_000));
        assert_eq!((error.pointer.len(), error.detail.len()), (256 + "…".len(), 1024 + "…".len()));
        assert!(error.pointer.ends_with("/…"), "{}", error.pointer);
        assert_eq!(FieldError::new("/a", "b").to_string(), "/a: b");
    }

    #[test]
    fn a_pointer_repeats_no_control_characters() {
        assert_eq!(Path::Field(&Path::Root, "a\u{0}\nb~/").pointer(), "/a\u{fffd}\u{fffd}b~0~1");
    }

    #[test]
    fn errors_of_an_event_in_a_batch_are_bounded() {
        let mut errors = Errors::default();
        (0..100).for_each(|index| errors.add(Path::Index(&Path::Root, index), "is wrong"));
        assert_eq!(errors.into_item_result().unwrap_err().len(), ITEM_ERRORS_MAX);
    }
}

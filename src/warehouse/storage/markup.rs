//! Restricts the responses of an object store that are parsed as XML.
//!
//! The client's XML parser (quick-xml before 0.41, RUSTSEC-2026-0194 and -0195) takes time that is quadratic in
//! the attributes of a tag, and memory for each of its namespaces. Responses of object stores have small tags with
//! few attributes, and no comments, document types or CDATA. Anything else is rejected before it is parsed, so that
//! the maximum length of a tag bounds both.

/// The maximum length of a tag.
const TAG_BYTES_MAX: usize = 4 << 10;
/// The maximum length of a response: a list of a thousand keys of maximum length is a fraction of it.
const ANSWER_BYTES_MAX: usize = 16 << 20;

/// Checks a response as it is received.
#[derive(Debug, Default)]
pub(super) struct Markup {
    state: State,
    tag_bytes: usize,
    bytes: usize,
}

#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
enum State {
    #[default]
    Text,
    /// After `<`.
    Opened,
    Tag,
    /// In a quoted attribute value.
    Quoted(u8),
    EndTag,
    /// `<?xml ... ?>`; true after a `?`.
    Declaration(bool),
}

/// Why a response is rejected.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("no object store answers so: {0}")]
pub(super) struct RefusedMarkup(&'static str);

impl Markup {
    pub(super) fn read(&mut self, bytes: &[u8]) -> Result<(), RefusedMarkup> {
        self.bytes += bytes.len();
        if self.bytes > ANSWER_BYTES_MAX {
            return Err(RefusedMarkup("it is too long"));
        }
        for byte in bytes {
            self.step(*byte)?;
        }
        Ok(())
    }

    fn step(&mut self, byte: u8) -> Result<(), RefusedMarkup> {
        self.state = match (self.state, byte) {
            (State::Text, b'<') => {
                self.tag_bytes = 0;
                State::Opened
            }
            (State::Text, _) => State::Text,
            (State::Opened, b'!') => return Err(RefusedMarkup("it has a comment or declaration")),
            (State::Opened, b'?') => State::Declaration(false),
            (State::Opened, b'/') => State::EndTag,
            (State::EndTag, b'"' | b'\'') => return Err(RefusedMarkup("it has a quoted end tag")),
            (State::Opened | State::Tag | State::EndTag, b'>') | (State::Declaration(true), b'>') => State::Text,
            (State::EndTag, _) => State::EndTag,
            (State::Opened | State::Tag, b'"' | b'\'') => State::Quoted(byte),
            (State::Opened | State::Tag, _) => State::Tag,
            (State::Quoted(quote), byte) if byte == quote => State::Tag,
            (State::Quoted(quote), _) => State::Quoted(quote),
            (State::Declaration(_), byte) => State::Declaration(byte == b'?'),
        };
        self.tag_bytes += usize::from(self.state != State::Text);
        if self.tag_bytes > TAG_BYTES_MAX {
            return Err(RefusedMarkup("it has a tag that is too long"));
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn read(text: &str) -> Result<(), RefusedMarkup> {
        let mut markup = Markup::default();
        // Split at arbitrary positions.
        text.as_bytes().chunks(7).try_for_each(|part| markup.read(part))
    }

    #[test]
    fn responses_of_object_stores_pass() {
        let object = "<Contents><Key>a/b's &quot;c&quot;</Key><ETag>\"d41d\"</ETag><Size>1</Size></Contents>";
        let list = format!(
            "<?xml version=\"1.0\" encoding='UTF-8'?>\n<ListBucketResult xmlns=\"http://s3.amazonaws.com/doc/2006-03-01/\">{}\
             <Prefix/></ListBucketResult>",
            object.repeat(1_000)
        );
        assert_eq!(read(&list), Ok(()));
        assert_eq!(read(r#"{"access_token": "a > b < c"}"#), Ok(()));
    }

    #[test]
    fn markup_that_is_expensive_to_parse_is_refused() {
        let attributes: String = (0..2_000).map(|n| format!(" a{n}=\">\"")).collect();
        for text in [
            format!("<a{attributes}/>"),
            format!("<a{}>", attributes.replace('"', "'")),
            format!("<?a \" ?><a b='\"'{attributes}>"),
            format!("<x>\"</x><a{attributes}>"),
        ] {
            assert_eq!(read(&text), Err(RefusedMarkup("it has a tag that is too long")), "{}", &text[..30]);
        }
        for text in ["<!-- \" -->", "<!DOCTYPE a>", "<a><![CDATA[>]]></a>", "</a \">", "<a></a '>"] {
            assert!(read(text).is_err(), "{text}");
        }
        assert_eq!(read(&"<a/>".repeat(ANSWER_BYTES_MAX / 4 + 1)), Err(RefusedMarkup("it is too long")));
    }
}

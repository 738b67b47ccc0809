//! JSON pointers (RFC 6901).

/// A member's name as a token of a pointer.
pub fn escaped(name: &str) -> String {
    name.replace('~', "~0").replace('/', "~1")
}

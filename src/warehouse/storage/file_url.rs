//! `file://` URLs (RFC 8089) that name a directory of this machine, with a percent-encoded path.

use std::path::PathBuf;

const ALLOWED: &str = "file:///directory, with no host other than localhost";

/// The directory that a `file://` URL names; `None` for another scheme. The error says what is allowed.
pub(super) fn directory_of(url: &str) -> Option<Result<PathBuf, &'static str>> {
    let rest = url.strip_prefix("file://")?;
    let (host, path) = rest.split_at(rest.find('/').unwrap_or(rest.len()));
    if !(host.is_empty() || host.eq_ignore_ascii_case("localhost")) || path.is_empty() {
        return Some(Err(ALLOWED));
    }
    let Some(path) = decoded(path.as_bytes()) else {
        return Some(Err("a URL in which % is followed by two hex digits: a % itself is %25, and no byte is zero"));
    };
    Some(path_of(path))
}

fn decoded(text: &[u8]) -> Option<Vec<u8>> {
    let digit = |byte: Option<&u8>| char::from(*byte?).to_digit(16);
    let (mut bytes, mut rest) = (Vec::with_capacity(text.len()), text.iter());
    while let Some(byte) = rest.next() {
        let byte = match byte {
            b'%' => (digit(rest.next())? * 16 + digit(rest.next())?) as u8,
            byte => *byte,
        };
        (byte != 0).then(|| bytes.push(byte))?;
    }
    Some(bytes)
}

#[cfg(unix)]
fn path_of(bytes: Vec<u8>) -> Result<PathBuf, &'static str> {
    use std::os::unix::ffi::OsStringExt;
    Ok(std::ffi::OsString::from_vec(bytes).into())
}

#[cfg(not(unix))]
fn path_of(bytes: Vec<u8>) -> Result<PathBuf, &'static str> {
    String::from_utf8(bytes).map(PathBuf::from).map_err(|_| "a URL whose path is UTF-8")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_url_names_a_directory_of_this_machine() {
        for (url, path) in [
            ("file:///srv/lake", "/srv/lake"),
            ("file://localhost/srv/lake", "/srv/lake"),
            ("file://LOCALHOST/srv", "/srv"),
            ("file:///a%20b/%C3%A4%2fc", "/a b/ä/c"),
            ("file:///as it is/ä+b", "/as it is/ä+b"),
            ("file:///100%25", "/100%"),
        ] {
            assert_eq!(directory_of(url), Some(Ok(PathBuf::from(path))), "{url}");
        }
        for url in ["file://", "file://localhost", "file://server/share", "file://srv", "file://u@localhost/x"] {
            assert_eq!(directory_of(url), Some(Err(ALLOWED)), "{url}");
        }
        for url in ["file:///a%", "file:///a%2", "file:///a%zz", "file:///a%00b", "file:///%+1"] {
            let error = directory_of(url).unwrap().unwrap_err();
            assert!(error.contains("%25"), "{url}: {error}");
        }
        assert_eq!(directory_of("s3://bucket/a%20b"), None);
    }
}

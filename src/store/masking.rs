//! Which parts of a webhook's address and headers are secrets, hiding them, and finding them again.
//!
//! Invariant: what is masked here can be put back from the stored value, and from nothing else.

/// What a secret reads back as; sent back, it keeps the stored one.
pub(super) const MASK: &str = "***";

/// Parts of a header's name that say that its value gives access.
const SECRET_WORDS: [&str; 10] =
    ["auth", "cookie", "cred", "key", "pass", "secret", "session", "signature", "token", "pwd"];
/// A word of letters and digits this long is taken for a secret wherever it stands.
const SECRET_CHARS_MIN: usize = 20;

/// Whether a header's value is hidden: by the header's name, by an authorization scheme, or because it looks like a key.
pub(super) fn is_secret_header(name: &str, value: &str) -> bool {
    let name = name.to_ascii_lowercase();
    let scheme = value.split_once(' ').map(|(scheme, _)| scheme.to_ascii_lowercase());
    SECRET_WORDS.iter().any(|word| name.contains(word))
        || matches!(scheme.as_deref(), Some("basic" | "bearer" | "digest" | "token"))
        || value.split([' ', ',', ';', '=']).any(looks_secret)
}

/// Long, and of letters and digits mixed: a key, a token, a UUID.
fn looks_secret(text: &str) -> bool {
    text.len() >= SECRET_CHARS_MIN
        && text.bytes().any(|byte| byte.is_ascii_digit())
        && text.bytes().any(|byte| byte.is_ascii_alphabetic())
        && text.bytes().all(|byte| byte.is_ascii_alphanumeric() || b"-_.~%+=".contains(&byte))
}

/// A URL cut where it may hold secrets: user, segments of the path, parameters of the query.
struct Cut<'u> {
    scheme: &'u str,
    user: Option<&'u str>,
    host: &'u str,
    path: Vec<&'u str>,
    /// Names with values; what has no `=` is a value without a name.
    query: Option<Vec<(&'u str, &'u str)>>,
}

impl<'u> Cut<'u> {
    fn of(url: &'u str) -> Self {
        let (scheme, rest) = url.split_once("://").unwrap_or(("", url));
        let (rest, query) = rest.split_once('?').map_or((rest, None), |(rest, query)| (rest, Some(query)));
        let (authority, path) = rest.split_at(rest.find('/').unwrap_or(rest.len()));
        let (user, host) = authority.rsplit_once('@').map_or((None, authority), |(user, host)| (Some(user), host));
        let parameters =
            |query: &'u str| query.split('&').map(|pair| pair.split_once('=').unwrap_or(("", pair))).collect();
        Self { scheme, user, host, path: path.split('/').collect(), query: query.map(parameters) }
    }

    fn put_together(&self) -> String {
        let mut url = if self.scheme.is_empty() { String::new() } else { format!("{}://", self.scheme) };
        if let Some(user) = self.user {
            url.push_str(user);
            url.push('@');
        }
        url.push_str(self.host);
        url.push_str(&self.path.join("/"));
        if let Some(query) = &self.query {
            let pair = |(name, value): &(&str, &str)| match name.is_empty() {
                true => (*value).to_owned(),
                false => format!("{name}={value}"),
            };
            url.push('?');
            url.push_str(&query.iter().map(pair).collect::<Vec<_>>().join("&"));
        }
        url
    }
}

/// The URL without what gives access: a user, every value of the query, and what looks like a key in the path.
pub(super) fn masked_url(url: &str) -> String {
    let mut cut = Cut::of(url);
    cut.user = cut.user.map(|_| MASK);
    for segment in cut.path.iter_mut().filter(|segment| looks_secret(segment)) {
        *segment = MASK;
    }
    for (_, value) in cut.query.iter_mut().flatten().filter(|(_, value)| !value.is_empty()) {
        *value = MASK;
    }
    cut.put_together()
}

/// Whether any part of the URL stands for a stored one.
pub(super) fn keeps_url(url: &str) -> bool {
    let cut = Cut::of(url);
    cut.path.contains(&MASK) || cut.query.iter().flatten().any(|(_, value)| *value == MASK)
}

/// The URL with the stored parts in the place of the masks: a segment by its place, a parameter by its name. None when
/// there is none to put there.
pub(super) fn kept_url(url: &str, stored: &str) -> Option<String> {
    let (mut cut, old) = (Cut::of(url), Cut::of(stored));
    for (place, segment) in cut.path.iter_mut().enumerate().filter(|(_, segment)| **segment == MASK) {
        *segment = old.path.get(place)?;
    }
    let mut old: Vec<Option<(&str, &str)>> = old.query.into_iter().flatten().map(Some).collect();
    for (name, value) in cut.query.iter_mut().flatten() {
        // The first of this name, the next time the second.
        let found = old.iter_mut().find(|old| old.is_some_and(|(old_name, _)| old_name == *name));
        let found = found.and_then(Option::take);
        if *value == MASK {
            *value = found?.1;
        }
    }
    Some(cut.put_together())
}

/// Whether a request to the one may carry what was given for the other: same scheme, host and port.
pub(super) fn same_origin(one: &str, other: &str) -> bool {
    match (url::Url::parse(one), url::Url::parse(other)) {
        (Ok(one), Ok(other)) => one.origin() == other.origin(),
        _ => false,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_gives_access_is_masked() {
        for (url, masked) in [
            ("https://h/hook", "https://h/hook"),
            ("https://h:8443/hook/v2?", "https://h:8443/hook/v2?"),
            ("https://h/hook?token=hunter2&x=1&e=", "https://h/hook?token=***&x=***&e="),
            ("https://h?hunter2", "https://h?***"),
            ("https://u:hunter2@h/", "https://***@h/"),
            (
                "https://hooks.example.com/services/T0001/B0002/hunter2hunter2hunter2hun",
                "https://hooks.example.com/services/T0001/B0002/***",
            ),
            ("https://h/a=b?c=d=e", "https://h/a=b?c=***"),
        ] {
            assert_eq!(masked_url(url), masked);
        }
    }

    #[test]
    fn masks_stand_for_what_is_stored() {
        let stored = "https://h/s/k3yk3yk3yk3yk3yk3yk3yk3y?t=1&t=2&solo&u=3";
        let masked = masked_url(stored);
        assert_eq!(masked, "https://h/s/***?t=***&t=***&***&u=***");
        assert!(keeps_url(&masked) && !keeps_url(stored));
        assert_eq!(kept_url(&masked, stored).as_deref(), Some(stored));
        assert_eq!(kept_url("https://h/other?u=***&t=new&t=***", stored).unwrap(), "https://h/other?u=3&t=new&t=2");
        for nothing in ["https://h/?x=***", "https://h/s/k/***", "https://h?u=***&u=***"] {
            assert_eq!(kept_url(nothing, stored), None, "{nothing}");
        }
    }

    #[test]
    fn headers_that_give_access_are_known_by_name_or_by_value() {
        for (name, value) in [
            ("Authorization", "x"),
            ("X-Api-Key", "x"),
            ("x-access-TOKEN", "x"),
            ("Cookie", "a=b"),
            ("X-Client-Secret", ""),
            ("X-Splunk", "Bearer x"),
            ("X-Who", "0190c3d2-7a1b-7c3d-8e9f-0a1b2c3d4e5f"),
            ("X-Who", "id=abcdefghijklmnopqrstuvwxyz1"),
        ] {
            assert!(is_secret_header(name, value), "{name}: {value}");
        }
        for (name, value) in [("X-Env", "prod"), ("Accept", "application/json"), ("X-Team", "a team of 12 people")] {
            assert!(!is_secret_header(name, value), "{name}: {value}");
        }
    }

    #[test]
    fn another_scheme_host_or_port_is_another_origin() {
        assert!(same_origin("https://h/a?b", "https://H:443/c"));
        for other in ["http://h/a", "https://h:8443/a", "https://i/a", "https://h.example.com/a", "nonsense"] {
            assert!(!same_origin("https://h/a", other), "{other}");
        }
    }
}

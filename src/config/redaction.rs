//! URLs as they may be printed.
//!
//! Invariant: what could be a part of a password is not shown, at the cost of a host or a path that could not be told
//! from one.

/// Schemes of object stores: a bucket and a key, in which an `@` is a letter like others.
const BUCKET_SCHEMES: [&str; 8] = ["s3", "s3a", "gs", "az", "azure", "abfs", "abfss", "file"];

/// `scheme://user:***@host?password=***`.
pub(super) fn redacted(url: &str) -> String {
    let Some((scheme, rest)) = url.split_once("://") else { return "***".to_owned() };
    let authority = &rest[..rest.find(['/', '?', '#']).unwrap_or(rest.len())];
    let is_bucket = BUCKET_SCHEMES.contains(&scheme) && !authority.contains(':');
    // A password may hold anything, unescaped too: it ends at the last `@`, wherever that stands.
    let user_end = if is_bucket { authority.rfind('@') } else { rest.rfind('@') };
    if let Some(end) = user_end {
        let user = rest[..end].split_once(':').map(|(user, _)| user).filter(|user| !user.contains(['/', '?', '#']));
        let user = user.map_or("***".to_owned(), |user| format!("{user}:***"));
        return format!("{scheme}://{user}@{}", redacted_query(&rest[end + 1..]));
    }
    // What stands for a port and is none is a password whose host was forgotten.
    match authority.rsplit_once(':') {
        Some((user, port)) if !authority.ends_with(']') && !port.bytes().all(|byte| byte.is_ascii_digit()) => {
            format!("{scheme}://{}:***", user.split(':').next().unwrap_or_default())
        }
        _ => redacted_query(url),
    }
}

/// A value that is no secret where it belongs. It may be a URL in the wrong place, with the password in it.
pub(super) fn shown(text: &str) -> String {
    if text.contains('#') || !text.contains("://") && text.contains(['@', '?']) {
        return "***".to_owned();
    }
    if text.contains(['@', '?']) {
        return redacted(text);
    }
    let part = |part: &str| if part.contains("://") { redacted(part) } else { part.to_owned() };
    text.split(',').map(part).collect::<Vec<_>>().join(",")
}

/// Query parameters that hold a secret, by a part of their name: `password`, `sslpassword`, `sig` of Azure, and so on.
const SECRET_PARAMETERS: [&str; 6] = ["password", "passwd", "token", "secret", "sig", "key"];

/// What follows the `?`, its secrets masked.
fn redacted_query(url: &str) -> String {
    let Some((before, query)) = url.split_once('?') else { return url.to_owned() };
    let redact = |parameter: &str| {
        let (name, _) = parameter.split_once('=').unwrap_or((parameter, ""));
        let lower = name.to_ascii_lowercase();
        // An escaped name may spell any of them.
        let secret = lower.contains('%') || SECRET_PARAMETERS.iter().any(|part| lower.contains(part));
        if secret { format!("{name}=***") } else { parameter.to_owned() }
    };
    format!("{before}?{}", query.split('&').map(redact).collect::<Vec<_>>().join("&"))
}

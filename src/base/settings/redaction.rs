//! Redacts URLs for display.
//!
//! Invariant: text that could be part of a password is never shown, at the cost of hiding hosts or paths that cannot
//! be told apart from one.

/// Schemes with a bucket and a key, where `@` is an ordinary character.
const BUCKET_SCHEMES: [&str; 8] = ["s3", "s3a", "gs", "az", "azure", "abfs", "abfss", "file"];

/// `scheme://user:***@host?password=***`.
pub(super) fn redacted(url: &str) -> String {
    let Some((scheme, rest)) = url.split_once("://") else { return "***".to_owned() };
    let authority = &rest[..rest.find(['/', '?', '#']).unwrap_or(rest.len())];
    let is_bucket = BUCKET_SCHEMES.contains(&scheme) && !authority.contains(':');
    // A password may contain anything, even unescaped: it ends at the last `@`.
    let user_end = if is_bucket { authority.rfind('@') } else { rest.rfind('@') };
    if let Some(end) = user_end {
        let user = rest[..end].split_once(':').map(|(user, _)| user).filter(|user| !user.contains(['/', '?', '#']));
        let user = user.map_or("***".to_owned(), |user| format!("{user}:***"));
        return format!("{scheme}://{user}@{}", redacted_query(&rest[end + 1..]));
    }
    // An invalid port is a password whose host is missing.
    match authority.rsplit_once(':') {
        Some((user, port)) if !authority.ends_with(']') && !port.bytes().all(|byte| byte.is_ascii_digit()) => {
            format!("{scheme}://{}:***", user.split(':').next().unwrap_or_default())
        }
        _ => redacted_query(url),
    }
}

/// Shows a value that is not secret in its own setting, but may be a misplaced URL with a password.
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

/// Parts of the names of secret query parameters: `password`, `sslpassword`, Azure's `sig`, and so on.
const SECRET_PARAMETERS: [&str; 6] = ["password", "passwd", "token", "secret", "sig", "key"];

/// The query with its secrets masked.
fn redacted_query(url: &str) -> String {
    let Some((before, query)) = url.split_once('?') else { return url.to_owned() };
    let redact = |parameter: &str| {
        let (name, _) = parameter.split_once('=').unwrap_or((parameter, ""));
        let lower = name.to_ascii_lowercase();
        // An escaped name may spell any of these.
        let secret = lower.contains('%') || SECRET_PARAMETERS.iter().any(|part| lower.contains(part));
        if secret { format!("{name}=***") } else { parameter.to_owned() }
    };
    format!("{before}?{}", query.split('&').map(redact).collect::<Vec<_>>().join("&"))
}

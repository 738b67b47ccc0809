//! Finds, masks and restores the secrets in a webhook's URL and headers.
//!
//! Invariant: a masked part can be restored from the stored value, and from nothing else.

use super::secret_text::{is_secret_name, looks_secret};

/// What a secret reads back as. Sent back, it keeps the stored secret.
pub(in crate::store) const MASK: &str = "***";

/// Path segments that are followed by a secret, whatever it looks like: `/with/key/hunter2`.
const SECRET_SEGMENTS: [&str; 10] = [
    "access-token",
    "access_token",
    "api-key",
    "api_key",
    "apikey",
    "key",
    "password",
    "routing-key",
    "secret",
    "token",
];
/// Services whose URLs grant access by codes too short to look secret.
const HOSTS_OF_SHORT_CODES: [&str; 1] = ["hooks.zapier.com"];
/// Prefixes of a header's value that are followed by a credential.
const SCHEMES: [&str; 15] = [
    "api-key",
    "apikey",
    "aws4-hmac-sha256",
    "basic",
    "bearer",
    "bot",
    "digest",
    "dpop",
    "geniekey",
    "hawk",
    "hmac",
    "key",
    "oauth",
    "splunk",
    "token",
];
/// Headers that hold media types: `application/vnd.example.v3.raw+json` is long and has a digit, but is not secret.
const MEDIA_TYPES: [&str; 2] = ["accept", "content-type"];

/// Whether a header's value is secret: by the header's name, an authorization scheme, a name within it, or because it
/// looks like a key.
pub(in crate::store) fn is_secret_header(name: &str, value: &str) -> bool {
    if MEDIA_TYPES.iter().any(|media_type| name.eq_ignore_ascii_case(media_type)) {
        return false;
    }
    let scheme = value.split_once(' ').map(|(scheme, _)| scheme.to_ascii_lowercase());
    is_secret_name(name)
        || scheme.is_some_and(|scheme| SCHEMES.contains(&scheme.as_str()))
        || looks_secret(value)
        || names_secret(value, &['=', ':'])
}

/// Whether it contains a value with a secret name: `id=7;token=hunter2`.
fn names_secret(text: &str, separators: &[char]) -> bool {
    let mut pairs = text.split([';', ',', '&']).filter_map(|pair| pair.split_once(separators));
    pairs.any(|(name, value)| is_secret_name(name) && !value.trim().is_empty())
}

/// The parts of a URL that may hold secrets: user, path segments, query parameters.
struct UrlParts<'u> {
    scheme: &'u str,
    user: Option<&'u str>,
    host: &'u str,
    path: Vec<&'u str>,
    /// Names and values; a parameter without `=` is a value without a name.
    query: Option<Vec<(&'u str, &'u str)>>,
}

impl<'u> UrlParts<'u> {
    fn of(url: &'u str) -> Self {
        let (scheme, rest) = url.split_once("://").unwrap_or(("", url));
        let (rest, query) = rest.split_once('?').map_or((rest, None), |(rest, query)| (rest, Some(query)));
        let (authority, path) = rest.split_at(rest.find('/').unwrap_or(rest.len()));
        let (user, host) = authority.rsplit_once('@').map_or((None, authority), |(user, host)| (Some(user), host));
        let parameters = |query: &'u str| query.split('&').map(parameter).collect();
        Self { scheme, user, host, path: path.split('/').collect(), query: query.map(parameters) }
    }

    /// The indexes of path segments that are secret.
    fn secret_segments(&self) -> Vec<usize> {
        let host = self.host.split(':').next().unwrap_or_default();
        let short_codes = HOSTS_OF_SHORT_CODES.iter().any(|known| known.eq_ignore_ascii_case(host));
        let names_next = |segment: &&str| SECRET_SEGMENTS.iter().any(|name| name.eq_ignore_ascii_case(segment));
        let gives_access = |place: usize, segment: &str| {
            looks_secret(segment)
                || names_secret(segment, &['='])
                || place.checked_sub(1).and_then(|before| self.path.get(before)).is_some_and(names_next)
                // `/hooks/catch/` is the same for all users of the service.
                || (short_codes && place > 2)
        };
        let segments = self.path.iter().enumerate().filter(|(_, segment)| !segment.is_empty());
        segments.filter(|(place, segment)| gives_access(*place, segment)).map(|(place, _)| place).collect()
    }

    fn join(&self) -> String {
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

/// Splits a parameter. Padded base64, and a key before a stray `=`, are values without a name.
fn parameter(pair: &str) -> (&str, &str) {
    match pair.split_once('=') {
        Some((name, value)) if !looks_secret(name) && (value.is_empty() || value.contains(|c| c != '=')) => {
            (name, value)
        }
        _ => ("", pair),
    }
}

/// The URL with its secrets masked: the user, all query values, and path segments that look like keys.
pub(in crate::store) fn masked_url(url: &str) -> String {
    let mut parts = UrlParts::of(url);
    parts.user = parts.user.map(|_| MASK);
    for place in parts.secret_segments() {
        parts.path[place] = MASK;
    }
    for (_, value) in parts.query.iter_mut().flatten().filter(|(_, value)| !value.is_empty()) {
        *value = MASK;
    }
    parts.join()
}

/// Whether any part of the URL stands for a stored one.
pub(in crate::store) fn has_masked_parts(url: &str) -> bool {
    let parts = UrlParts::of(url);
    parts.path.contains(&MASK) || parts.query.iter().flatten().any(|(_, value)| *value == MASK)
}

/// Replaces masks by the stored parts: path segments by position, parameters by name. `None` if a part is missing.
pub(in crate::store) fn restore_url(url: &str, stored: &str) -> Option<String> {
    let (mut parts, old) = (UrlParts::of(url), UrlParts::of(stored));
    for (place, segment) in parts.path.iter_mut().enumerate().filter(|(_, segment)| **segment == MASK) {
        *segment = old.path.get(place)?;
    }
    let mut old: Vec<Option<(&str, &str)>> = old.query.into_iter().flatten().map(Some).collect();
    for (name, value) in parts.query.iter_mut().flatten() {
        // Parameters of the same name match in order.
        let found = old.iter_mut().find(|old| old.is_some_and(|(old_name, _)| old_name == *name));
        let found = found.and_then(Option::take);
        if *value == MASK {
            *value = found?.1;
        }
    }
    Some(parts.join())
}

/// Whether a request to one URL may carry secrets given for the other: same scheme, host and port.
pub(in crate::store) fn same_origin(one: &str, other: &str) -> bool {
    match (url::Url::parse(one), url::Url::parse(other)) {
        (Ok(one), Ok(other)) => one.origin() == other.origin(),
        _ => false,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn credentials_in_urls_are_masked() {
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
            ("https://h?dGVzdA==&k3yk3yk3yk3yk3yk3yk3y=&x=", "https://h?***&***&x="),
            ("https://h/hook;v=2;token=hunter2", "https://h/***"),
            (
                "https://h/keys:rotate/api/v1/customer-notifications/created",
                "https://h/keys:rotate/api/v1/customer-notifications/created",
            ),
            ("https://h/KEY/hunter2", "https://h/KEY/***"),
        ] {
            assert_eq!(masked_url(url), masked);
        }
    }

    /// URL formats from these services' documentation, with keys of their kind.
    #[test]
    fn urls_of_known_services_hide_their_keys() {
        for (url, masked) in [
            (
                "https://hooks.slack.com/services/T00000000/B00000000/aBcDeFgHiJkLmNoPqRsTuVwX",
                "services/T00000000/B00000000/***",
            ),
            (
                "https://hooks.slack.com/triggers/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",
                "triggers/T016M3G1GHZ/448253121545391520/***",
            ),
            (
                "https://discord.com/api/webhooks/1043212345678901234/qWmZ-TpLkjHgfDsa_cvBnMqw9GZ1dXyLrT",
                "api/webhooks/1043212345678901234/***",
            ),
            ("https://api.telegram.org/bot110201543:AAHdqTcvCH1vGWJxfSeofSAs0K5PALDsaw/sendMessage", "***/sendMessage"),
            (
                "https://a.webhook.office.com/webhookb2/0190c3d2-7a1b-7c3d-8e9f-0a1b2c3d4e5f@0190c3d2-7a1b-7c3d-8e9f-0a1b2c3d4e5f/IncomingWebhook/0a1b2c3d4e5f0a1b2c3d4e5f0a1b2c3d/0190c3d2-7a1b-7c3d-8e9f-0a1b2c3d4e5f",
                "webhookb2/***/IncomingWebhook/***/***",
            ),
            (
                "https://prod-1.westus.logic.azure.com:443/workflows/0a1b2c3d4e5f0a1b2c3d4e5f0a1b2c3d/triggers/manual/paths/invoke?api-version=2016-06-01&sig=hunter2",
                "workflows/***/triggers/manual/paths/invoke?api-version=***&sig=***",
            ),
            ("https://hooks.zapier.com/hooks/catch/1234567/bjwhgtr/", "hooks/catch/***/***/"),
            (
                "https://events.pagerduty.com/integration/0a1b2c3d4e5f0a1b2c3d4e5f0a1b2c3d/enqueue",
                "integration/***/enqueue",
            ),
            (
                "https://api.opsgenie.com/v1/json/integrations/webhooks/prometheus?apiKey=0190c3d2-7a1b",
                "v1/json/integrations/webhooks/prometheus?apiKey=***",
            ),
            ("https://http-intake.logs.datadoghq.com/v1/input/0a1b2c3d4e5f0a1b2c3d4e5f0a1b2c3d", "v1/input/***"),
            (
                "https://http-intake.logs.datadoghq.eu/api/v2/logs?dd-api-key=hunter2&ddsource=c",
                "api/v2/logs?dd-api-key=***&ddsource=***",
            ),
            ("https://maker.ifttt.com/trigger/big_purchase/with/key/hunter2", "trigger/big_purchase/with/key/***"),
            ("https://maker.ifttt.com/use/dQw4w9WgXcQ-Zz_aBcDeFg", "use/***"),
            ("https://chat.example.com/hooks/ybndrfg8ejkmcpqxot1uwisza3", "hooks/***"),
            ("https://chat.example.com/hooks/ybndrfgejkmcpqxotuwiszahmm", "hooks/***"),
            (
                "https://chat.googleapis.com/v1/spaces/AAAAB3NzaC1/messages?key=AIza&token=hunter2%3D",
                "v1/spaces/AAAAB3NzaC1/messages?key=***&token=***",
            ),
            ("https://n8n.example.com/webhook/0190c3d2-7a1b-7c3d-8e9f-0a1b2c3d4e5f", "webhook/***"),
            ("https://eo1a2b3c.m.pipedream.net/0a1b2c3d4e5f0a1b2c3d4e5f", "***"),
            ("https://hook.eu1.make.com/abcdefghijklmnopqrstuvwxyz123456", "***"),
            (
                "https://hooks.airtable.com/workflows/v1/genericWebhook/appAbC12345678901/wflAbC12345678901/wtrAbC12345678901",
                "workflows/v1/genericWebhook/***/***/***",
            ),
            (
                "https://open.feishu.cn/open-apis/bot/v2/hook/0190c3d2-7a1b-7c3d-8e9f-0a1b2c3d4e5f",
                "open-apis/bot/v2/hook/***",
            ),
            ("https://ops.example.com/api/v1/customer-notifications/created", "api/v1/customer-notifications/created"),
            (
                "https://ops.example.com/teams/4711/orders;v=2/status,done/@me/a!b",
                "teams/4711/orders;v=2/status,done/@me/a!b",
            ),
        ] {
            let shown = masked_url(url);
            assert_eq!(shown.splitn(4, '/').nth(3), Some(masked), "{url}");
            assert_eq!(masked_url(&shown), shown);
            assert_eq!(restore_url(&shown, url).as_deref(), Some(url));
        }
    }

    #[test]
    fn masks_restore_the_stored_parts() {
        let stored = "https://h/s/k3yk3yk3yk3yk3yk3yk3yk3y?t=1&t=2&solo&u=3";
        let masked = masked_url(stored);
        assert_eq!(masked, "https://h/s/***?t=***&t=***&***&u=***");
        assert!(has_masked_parts(&masked) && !has_masked_parts(stored));
        assert_eq!(restore_url(&masked, stored).as_deref(), Some(stored));
        assert_eq!(restore_url("https://h/other?u=***&t=new&t=***", stored).unwrap(), "https://h/other?u=3&t=new&t=2");
        for nothing in ["https://h/?x=***", "https://h/s/k/***", "https://h?u=***&u=***"] {
            assert_eq!(restore_url(nothing, stored), None, "{nothing}");
        }
    }

    #[test]
    fn secret_headers_are_recognized_by_name_or_value() {
        for (name, value) in [
            ("Authorization", "x"),
            ("X-Api-Key", "x"),
            ("x-access-TOKEN", "x"),
            ("Cookie", "a=b"),
            ("X-Client-Secret", ""),
            ("X-Splunk", "Bearer x"),
            ("X-Who", "0190c3d2-7a1b-7c3d-8e9f-0a1b2c3d4e5f"),
            ("X-Who", "id=abcdefghijklmnopqrstuvwxyz1"),
            ("X-Who", "id:k3yk3yk3yk3yk3yk3yk3y"),
            ("X-Who", "7; token=hunter2"),
            ("X-Who", "GenieKey hunter2"),
            ("X-Who", "aBcDeFgHiJkLmNoPqRsTuVwX"),
            ("X-Sig", "x"),
        ] {
            assert!(is_secret_header(name, value), "{name}: {value}");
        }
        for (name, value) in [
            ("X-Env", "prod"),
            ("Accept", "application/json"),
            ("X-Team", "a team of 12 people"),
            ("Content-Type", "application/vnd.example.v3.raw+json; charset=utf-8"),
            ("X-From", "alerts@example.com:8443"),
        ] {
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

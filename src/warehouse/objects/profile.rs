//! Credentials from the AWS profile files, which the object store's client does not read itself.
//!
//! `~/.aws/credentials` and `~/.aws/config` (or `AWS_SHARED_CREDENTIALS_FILE`, `AWS_CONFIG_FILE`),
//! section `AWS_PROFILE` or `default`; only keys and region, no roles.

use std::collections::HashMap;
use std::path::PathBuf;

/// What a profile says.
#[derive(Debug, Default, PartialEq, Eq)]
pub(super) struct Profile {
    pub(super) access_key_id: Option<String>,
    pub(super) secret_access_key: Option<String>,
    pub(super) session_token: Option<String>,
    pub(super) region: Option<String>,
}

/// The profile of this process's user; empty without files.
pub(super) fn read() -> Profile {
    let variable = |name: &str| std::env::var(name).ok().filter(|value| !value.is_empty());
    let home = variable("HOME").map(PathBuf::from).unwrap_or_default();
    let file = |name: &str, default: &str| {
        let path = variable(name).map_or_else(|| home.join(".aws").join(default), PathBuf::from);
        std::fs::read_to_string(path).unwrap_or_default()
    };
    let name = variable("AWS_PROFILE").unwrap_or_else(|| "default".to_owned());
    parse(&file("AWS_SHARED_CREDENTIALS_FILE", "credentials"), &file("AWS_CONFIG_FILE", "config"), &name)
}

fn parse(credentials: &str, config: &str, name: &str) -> Profile {
    let mut values = section(config, &format!("profile {name}"));
    values.extend(section(config, name));
    values.extend(section(credentials, name));
    Profile {
        access_key_id: values.remove("aws_access_key_id"),
        secret_access_key: values.remove("aws_secret_access_key"),
        session_token: values.remove("aws_session_token"),
        region: values.remove("region"),
    }
}

fn section(text: &str, name: &str) -> HashMap<String, String> {
    let mut found = HashMap::new();
    let mut inside = false;
    for line in text.lines().map(str::trim) {
        if let Some(header) = line.strip_prefix('[') {
            inside = header.trim_end_matches(']').trim() == name;
        } else if let Some((key, value)) = line.split_once('=')
            && inside
            && !line.starts_with(['#', ';'])
        {
            found.insert(key.trim().to_owned(), value.trim().to_owned());
        }
    }
    found
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_profile_is_its_sections_of_both_files() {
        let credentials = "[default]\naws_access_key_id = A\n[ci]\n aws_access_key_id=B\n# aws_session_token=no\n\
             aws_secret_access_key = s=/+\n";
        let config = "[default]\nregion = eu-west-1\n[profile ci]\nregion=us-east-2\n";
        let ci = parse(credentials, config, "ci");
        assert_eq!(ci.access_key_id.as_deref(), Some("B"));
        assert_eq!(ci.secret_access_key.as_deref(), Some("s=/+"));
        assert_eq!((ci.session_token, ci.region.as_deref()), (None, Some("us-east-2")));
        assert_eq!(parse(credentials, config, "default").region.as_deref(), Some("eu-west-1"));
        assert_eq!(parse("", "", "default"), Profile::default());
    }
}

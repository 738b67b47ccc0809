//! Credentials from AWS profile files, which the object-store client does not read.
//!
//! `~/.aws/credentials` and `~/.aws/config` (or `AWS_SHARED_CREDENTIALS_FILE`, `AWS_CONFIG_FILE`),
//! section `AWS_PROFILE` or `default`; only keys and region. Single sign-on, roles and helper programs
//! are detected but not supported.

use std::collections::HashMap;
use std::path::PathBuf;

/// Sources of credentials in profiles without keys, which other clients support.
const OTHER_SOURCES: [&str; 8] = [
    "sso_session",
    "sso_start_url",
    "role_arn",
    "credential_process",
    "source_profile",
    "credential_source",
    "web_identity_token_file",
    "login_session",
];

/// The contents of a profile.
#[derive(Debug, Default, PartialEq, Eq)]
pub(super) struct Profile {
    name: String,
    /// Whether the profile was chosen by name.
    pub(super) chosen: bool,
    /// Whether any file contains it.
    found: bool,
    other_source: Option<&'static str>,
    pub(super) access_key_id: Option<String>,
    pub(super) secret_access_key: Option<String>,
    pub(super) session_token: Option<String>,
    pub(super) region: Option<String>,
}

impl Profile {
    /// Why the profile has no keys although some are expected.
    pub(super) fn without_keys(&self) -> Option<String> {
        let name = &self.name;
        let only = "only aws_access_key_id and aws_secret_access_key are read";
        match (self.other_source, self.access_key_id.is_some() != self.secret_access_key.is_some()) {
            (_, true) => Some(format!("the AWS profile {name:?} has one half of a key: {only}, together")),
            (Some(source), false) => Some(format!("the AWS profile {name:?} has {source} and no keys: {only}")),
            (None, false) if self.chosen && !self.found => Some(format!("no file has the AWS profile {name:?}")),
            (None, false) => None,
        }
    }
}

/// The profile of the user; empty if there are no files.
pub(super) fn read() -> Profile {
    let variable = |name: &str| std::env::var(name).ok().filter(|value| !value.is_empty());
    let home = variable("HOME").map(PathBuf::from).unwrap_or_default();
    let file = |name: &str, default: &str| {
        let path = variable(name).map_or_else(|| home.join(".aws").join(default), PathBuf::from);
        std::fs::read_to_string(path).unwrap_or_default()
    };
    let chosen = variable("AWS_PROFILE");
    let name = chosen.as_deref().unwrap_or("default");
    let profile = parse(&file("AWS_SHARED_CREDENTIALS_FILE", "credentials"), &file("AWS_CONFIG_FILE", "config"), name);
    Profile { chosen: chosen.is_some(), ..profile }
}

fn parse(credentials: &str, config: &str, name: &str) -> Profile {
    let mut values = section(config, &format!("profile {name}"));
    values.extend(section(config, name));
    values.extend(section(credentials, name));
    Profile {
        name: name.to_owned(),
        chosen: false,
        found: !values.is_empty(),
        other_source: OTHER_SOURCES.into_iter().find(|source| values.contains_key(*source)),
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
    fn a_profile_combines_its_sections_of_both_files() {
        let credentials = "[default]\naws_access_key_id = A\n[ci]\n aws_access_key_id=B\n# aws_session_token=no\n\
             aws_secret_access_key = s=/+\n";
        let config = "[default]\nregion = eu-west-1\n[profile ci]\nregion=us-east-2\n";
        let ci = parse(credentials, config, "ci");
        assert_eq!(ci.access_key_id.as_deref(), Some("B"));
        assert_eq!(ci.secret_access_key.as_deref(), Some("s=/+"));
        assert_eq!((ci.session_token, ci.region.as_deref()), (None, Some("us-east-2")));
        assert_eq!(parse(credentials, config, "default").region.as_deref(), Some("eu-west-1"));
        assert_eq!(parse("", "", "default"), Profile { name: "default".to_owned(), ..Profile::default() });
    }

    #[test]
    fn a_profile_whose_credentials_are_elsewhere_says_so() {
        let config = "[profile sso]\nsso_session = corp\n[profile half]\naws_access_key_id = A\n\
             [profile region]\nregion = eu-west-1\n";
        let why = |name: &str| Profile { chosen: true, ..parse("", config, name) }.without_keys();
        for (name, wanted) in [("sso", "sso_session"), ("half", "one half"), ("nowhere", "no file")] {
            let why = why(name).unwrap();
            assert!(why.contains(wanted) && why.contains(&format!("{name:?}")), "{why}");
        }
        assert_eq!(why("region"), None);
        assert_eq!(parse("", "", "default").without_keys(), None, "a profile is optional");
    }
}

//! The token for the admin API.
//!
//! Invariant: the ADMIN_TOKEN of the settings is sent only to the process that these settings describe, never to
//! another address.

use std::path::{Path, PathBuf};

use super::args::AdminArgs;
use crate::cli::failure::Failure;
use crate::config;

/// The client's own variables.
const TOKEN: &str = "CAUSALITY_ADMIN_TOKEN";
const TOKEN_FILE: &str = "CAUSALITY_ADMIN_TOKEN_FILE";
/// The setting of the process.
const ADMIN_TOKEN: &str = "ADMIN_TOKEN";

/// The token from the command line, else the environment, else the settings.
pub(crate) fn of(args: &AdminArgs, environment: impl Fn(&str) -> Option<String>) -> Result<Option<String>, Failure> {
    if let Some(token) = &args.admin_token {
        return Ok(Some(token.clone()));
    }
    if let Some(file) = &args.admin_token_file {
        return read(file).map(Some);
    }
    if let Some(token) = environment(TOKEN) {
        return Ok(Some(token));
    }
    if let Some(file) = environment(TOKEN_FILE) {
        return read(&PathBuf::from(file)).map(Some);
    }
    match (&args.admin_url, &args.config) {
        (Some(_), _) => Ok(None),
        (None, None) => Ok(environment(ADMIN_TOKEN)),
        (None, Some(file)) => {
            let loaded = config::load(Some(file), &[]).map_err(|error| Failure::usage(error.to_string()))?;
            Ok(loaded.config.admin.token.map(|token| token.0))
        }
    }
}

fn read(file: &Path) -> Result<String, Failure> {
    let text = std::fs::read_to_string(file)
        .map_err(|error| Failure::usage(format!("cannot read the token file {}: {error}", file.display())))?;
    match text.trim() {
        "" => Err(Failure::usage(format!("the token file {} is empty", file.display()))),
        token => Ok(token.to_owned()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn tokens_come_from_the_documented_sources_and_stay_with_their_process() {
        let dir = tempfile::tempdir().unwrap();
        let [file, other] = ["token", "other"].map(|name| dir.path().join(name));
        std::fs::write(&file, "of-file\n").unwrap();
        std::fs::write(&other, "of-flag\n").unwrap();
        let path = file.to_str().unwrap().to_owned();
        let environment = |set: &'static [&'static str]| {
            let path = path.clone();
            move |name: &str| match name {
                _ if !set.contains(&name) => None,
                TOKEN_FILE => Some(path.clone()),
                ADMIN_TOKEN => Some("of-settings".to_owned()),
                _ => Some("of-environment".to_owned()),
            }
        };
        const ALL: &[&str] = &[ADMIN_TOKEN, TOKEN_FILE, TOKEN];
        let here = AdminArgs { admin_url: None, ..AdminArgs::at("") };
        let flag = AdminArgs { admin_token: Some("t".into()), ..here.clone() };
        let flag_file = AdminArgs { admin_token_file: Some(other), ..here.clone() };
        for (args, set, expected) in [
            (&flag, ALL, Some("t")),
            (&flag_file, ALL, Some("of-flag")),
            (&here, ALL, Some("of-environment")),
            (&here, &ALL[..2], Some("of-file")),
            (&here, &ALL[..1], Some("of-settings")),
            (&here, &[], None),
            (&AdminArgs::at("http://elsewhere"), &ALL[..1], None),
            (&AdminArgs::at("http://elsewhere"), ALL, Some("of-environment")),
        ] {
            assert_eq!(of(args, environment(set)).unwrap().as_deref(), expected, "{set:?}");
        }
        let missing = AdminArgs { admin_token_file: Some(dir.path().join("none")), ..here.clone() };
        assert!(of(&missing, |_| None).unwrap_err().to_string().contains("cannot read the token file"));
    }
}

//! Configuration files, and each line `name=value` as a setting of the command line.

use std::io::Write;

thread_local! {
    static FILE: tempfile::NamedTempFile = tempfile::NamedTempFile::with_suffix(".toml").expect("a temporary file");
}

pub fn run(text: &[u8]) {
    FILE.with(|file| {
        let mut open = file.reopen().expect("open the file");
        open.write_all(text).and_then(|()| open.set_len(text.len() as u64)).expect("write the file");
        match causality::config::load(Some(file.path()), &[]) {
            Ok(loaded) => drop(format!("{:?}", loaded.config)),
            Err(refused) => assert!(!refused.to_string().is_empty()),
        }
    });
    let Ok(text) = std::str::from_utf8(text) else { return };
    for (name, value) in text.lines().filter_map(|line| line.split_once('=')) {
        let Some(name) = causality::config::NAMES.iter().find(|known| **known == name.trim()) else { continue };
        drop(causality::config::load(None, &[(*name, value.trim().to_owned())]));
    }
}

//! The data directory of the embedded engines: created if absent, and checked before anything is opened in it.

use std::fs::{DirBuilder, File, remove_file};
use std::io;
use std::os::unix::fs::{DirBuilderExt as _, MetadataExt as _};
use std::path::Path;

use anyhow::Context as _;

/// Creates the directory, and checks that this process can write there. A directory that a container mounts usually
/// belongs to another user; the engines' own errors would not say so.
pub(super) fn prepare(dir: &Path) -> anyhow::Result<()> {
    // For its owner alone, when it is new: it holds events and secrets.
    let created = DirBuilder::new().recursive(true).mode(0o700).create(dir);
    created.with_context(|| format!("create data directory {}", dir.display()))?;
    let probe = dir.join(format!(".writable-{}", std::process::id()));
    let written = File::create(&probe).and_then(|_| remove_file(&probe));
    written
        .map_err(|error| anyhow::anyhow!("cannot write to data directory {}: {}", dir.display(), reason(dir, &error)))
}

fn reason(dir: &Path, error: &io::Error) -> String {
    // The owner of the process's own entry is its effective user. Only Linux has it.
    let users = dir.metadata().and_then(|dir| Ok((dir.uid(), Path::new("/proc/self").metadata()?.uid())));
    match users {
        Ok((owner, user)) if error.kind() == io::ErrorKind::PermissionDenied && owner != user => {
            format!(
                "{error}; it belongs to user {owner}, and this process is user {user}: chown -R {user} makes it writable"
            )
        }
        _ => error.to_string(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_directory_of_another_user_names_both() {
        let dir = tempfile::tempdir().unwrap();
        prepare(&dir.path().join("new/data")).unwrap();
        let user = dir.path().metadata().unwrap().uid();
        // Only root may give a directory away; anyone else finds that the root directory is not theirs.
        let (foreign, owner) = match std::os::unix::fs::chown(dir.path(), Some(10_001), None) {
            Ok(()) => (dir.path(), 10_001),
            Err(_) => (Path::new("/"), 0),
        };
        let text = reason(foreign, &io::Error::from(io::ErrorKind::PermissionDenied));
        let names_both = format!("belongs to user {owner}, and this process is user {user}");
        assert!(!cfg!(target_os = "linux") || text.contains(&names_both), "{text}");
        let full = io::Error::from(io::ErrorKind::StorageFull);
        assert_eq!(reason(foreign, &full), full.to_string());
        assert!(prepare(Path::new("/proc/causality")).unwrap_err().to_string().contains("/proc/causality"));
    }
}

//! Seals webhook secrets at rest: AES-256-GCM with a fresh random nonce for every value.
//!
//! Format of a sealed value: one version byte (1), the nonce (12 bytes), the ciphertext with its tag (16 bytes). The
//! associated data is the webhook's id and the field's name, so that a value cannot be moved to another webhook. Does
//! not know where the values are stored.

use std::fs::{File, OpenOptions};
use std::io::{ErrorKind, Write};
use std::os::unix::fs::OpenOptionsExt;
use std::path::Path;

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use ring::aead::{AES_256_GCM, Aad, LessSafeKey, NONCE_LEN, Nonce, UnboundKey};
use ring::rand::{SecureRandom, SystemRandom};
use uuid::Uuid;

use crate::store::error::{StoreError, StoreErrorKind};

pub(in crate::store) const KEY_FILE: &str = "secrets.key";
const KEY_BYTES: usize = 32;
const VERSION: u8 = 1;
/// The name and the content of the check value.
const CHECK_FIELD: &str = "secrets_check";

pub(crate) struct Sealer {
    key: LessSafeKey,
    random: SystemRandom,
}

impl Sealer {
    /// Uses the given key.
    pub(in crate::store) fn given(text: &str) -> Result<Self, StoreError> {
        let bytes = parse_key(text).ok_or_else(|| {
            let detail = "the secrets key is not 32 bytes as base64 or hex";
            StoreError::caused(StoreErrorKind::Unavailable, "read secrets key", detail)
        })?;
        Self::of(&bytes)
    }

    /// Uses the given key, or the one in `dir`, which is created if it is missing and nothing is `sealed` yet.
    pub(in crate::store) fn open(dir: &Path, given: Option<&str>, sealed: u64) -> Result<Self, StoreError> {
        match given {
            Some(text) => Self::given(text),
            None => Self::of(&read_or_create_key(dir, &SystemRandom::new(), sealed)?),
        }
    }

    fn of(bytes: &[u8; KEY_BYTES]) -> Result<Self, StoreError> {
        let key = UnboundKey::new(&AES_256_GCM, bytes).map_err(|_| unusable("load secrets key"))?;
        Ok(Self { key: LessSafeKey::new(key), random: SystemRandom::new() })
    }

    pub(in crate::store) fn seal(&self, id: Uuid, field: &str, mut clear: Vec<u8>) -> Result<Vec<u8>, StoreError> {
        let mut nonce = [0; NONCE_LEN];
        self.random.fill(&mut nonce).map_err(|_| unusable("draw nonce"))?;
        let mut sealed = Vec::with_capacity(1 + NONCE_LEN + clear.len() + AES_256_GCM.tag_len());
        sealed.push(VERSION);
        sealed.extend_from_slice(&nonce);
        self.key
            .seal_in_place_append_tag(Nonce::assume_unique_for_key(nonce), associated(id, field), &mut clear)
            .map_err(|_| unusable("seal secret"))?;
        sealed.append(&mut clear);
        Ok(sealed)
    }

    /// A value that only this key decrypts; see [`Self::opens`].
    pub(in crate::store) fn check_value(&self) -> Result<Vec<u8>, StoreError> {
        self.seal(Uuid::nil(), CHECK_FIELD, CHECK_FIELD.as_bytes().to_vec())
    }

    /// Whether the check value was sealed with this key.
    pub(in crate::store) fn opens(&self, check_value: Vec<u8>) -> bool {
        self.unseal(Uuid::nil(), CHECK_FIELD, check_value, "").is_ok()
    }

    /// Fails with `Corrupt`, naming the webhook, if the key is wrong or the bytes were changed.
    pub(in crate::store) fn unseal(
        &self,
        id: Uuid,
        field: &str,
        mut sealed: Vec<u8>,
        webhook: &str,
    ) -> Result<Vec<u8>, StoreError> {
        let clear = match sealed.get_mut(..) {
            Some([VERSION, rest @ ..]) if rest.len() > NONCE_LEN => {
                let (nonce, text) = rest.split_at_mut(NONCE_LEN);
                Nonce::try_assume_unique_for_key(nonce)
                    .and_then(|nonce| self.key.open_in_place(nonce, associated(id, field), text))
                    .ok()
                    .map(|clear| clear.to_vec())
            }
            _ => None,
        };
        clear.ok_or_else(|| {
            let detail = format!(
                "the secrets of webhook {webhook:?} ({id}) do not decrypt with the secrets key at hand: \
                 give the key that they were stored with, or write the webhook again with its secrets"
            );
            StoreError::caused(StoreErrorKind::Corrupt, "decrypt webhook secret", detail)
        })
    }
}

/// The process was started with a key other than the one that sealed the stored secrets.
pub(in crate::store) fn wrong_key() -> StoreError {
    let detail = "secrets_key is not the key that the stored webhook secrets were encrypted with: set that one; if it is \
                  lost, set secrets_key_replaced = true once, and write every webhook with secrets again";
    StoreError::caused(StoreErrorKind::Refused, "check secrets key", detail)
}

fn associated(id: Uuid, field: &str) -> Aad<Vec<u8>> {
    let mut bytes = id.into_bytes().to_vec();
    bytes.extend_from_slice(field.as_bytes());
    Aad::from(bytes)
}

fn unusable(context: &'static str) -> StoreError {
    StoreError::new(StoreErrorKind::Unavailable, context)
}

fn parse_key(text: &str) -> Option<[u8; KEY_BYTES]> {
    let text = text.trim();
    let bytes = if text.len() == KEY_BYTES * 2 && text.is_ascii() {
        (0..KEY_BYTES).map(|i| u8::from_str_radix(&text[2 * i..2 * i + 2], 16).ok()).collect::<Option<Vec<u8>>>()?
    } else {
        STANDARD.decode(text).ok()?
    };
    bytes.try_into().ok()
}

fn read_or_create_key(dir: &Path, random: &SystemRandom, sealed: u64) -> Result<[u8; KEY_BYTES], StoreError> {
    let path = dir.join(KEY_FILE);
    match std::fs::read_to_string(&path) {
        Ok(text) => parse_key(&text).ok_or_else(|| {
            let detail = format!("{} does not hold 32 bytes as base64 or hex", path.display());
            StoreError::caused(StoreErrorKind::Corrupt, "read secrets key", detail)
        }),
        Err(error) if error.kind() == ErrorKind::NotFound && sealed == 0 => create_key(dir, &path, random),
        Err(error) if error.kind() == ErrorKind::NotFound => {
            let detail = format!(
                "{} is missing, and the secrets of {sealed} webhooks were encrypted with it: put it back, or set a new \
                 secrets_key with secrets_key_replaced = true and write these webhooks again with their secrets",
                path.display()
            );
            Err(StoreError::caused(StoreErrorKind::Refused, "read secrets key", detail))
        }
        Err(error) => {
            let detail = format!("{}: {error}", path.display());
            Err(StoreError::caused(StoreErrorKind::Unavailable, "read secrets key", detail))
        }
    }
}

/// Writes the key to a temporary file and links it into place: complete or not at all, and never over another.
fn create_key(dir: &Path, path: &Path, random: &SystemRandom) -> Result<[u8; KEY_BYTES], StoreError> {
    let mut key = [0; KEY_BYTES];
    random.fill(&mut key).map_err(|_| unusable("draw secrets key"))?;
    let temporary = dir.join(format!("{KEY_FILE}.{}", Uuid::now_v7()));
    let written = (|| {
        let mut file = OpenOptions::new().write(true).create_new(true).mode(0o600).open(&temporary)?;
        writeln!(file, "{}", STANDARD.encode(key))?;
        file.sync_all()?;
        std::fs::hard_link(&temporary, path)?;
        std::fs::remove_file(&temporary)?;
        File::open(dir)?.sync_all()
    })();
    written.map(|()| key).map_err(|error| {
        // Best effort: a leftover temporary file holds a key that nothing was sealed with.
        let _ = std::fs::remove_file(&temporary);
        let detail = format!("{}: {error}", path.display());
        StoreError::caused(StoreErrorKind::Unavailable, "create secrets key", detail)
    })
}

#[cfg(test)]
mod tests {
    use std::os::unix::fs::PermissionsExt;

    use super::*;

    #[test]
    fn a_sealed_value_opens_only_where_it_belongs() {
        let dir = tempfile::tempdir().unwrap();
        let sealer = Sealer::open(dir.path(), None, 0).unwrap();
        let (id, other) = (Uuid::now_v7(), Uuid::now_v7());
        let sealed = sealer.seal(id, "auth_config", b"s3cret".to_vec()).unwrap();
        assert!(!sealed.windows(6).any(|window| window == b"s3cret"));
        assert_ne!(sealed, sealer.seal(id, "auth_config", b"s3cret".to_vec()).unwrap(), "a nonce was used twice");

        assert_eq!(sealer.unseal(id, "auth_config", sealed.clone(), "ops").unwrap(), b"s3cret");
        for (id, field, sealed) in [
            (other, "auth_config", sealed.clone()),
            (id, "headers", sealed.clone()),
            (id, "auth_config", sealed[..sealed.len() - 1].to_vec()),
            (id, "auth_config", Vec::new()),
        ] {
            let error = sealer.unseal(id, field, sealed, "ops").unwrap_err();
            assert_eq!(error.kind, StoreErrorKind::Corrupt);
        }
    }

    #[test]
    fn the_key_file_is_private_and_never_replaced() {
        let dir = tempfile::tempdir().unwrap();
        let id = Uuid::now_v7();
        let sealed = Sealer::open(dir.path(), None, 0).unwrap().seal(id, "f", b"x".to_vec()).unwrap();
        let path = dir.path().join(KEY_FILE);
        assert_eq!(std::fs::metadata(&path).unwrap().permissions().mode() & 0o777, 0o600);
        assert_eq!(Sealer::open(dir.path(), None, 1).unwrap().unseal(id, "f", sealed, "ops").unwrap(), b"x");
        assert_eq!(std::fs::read_dir(dir.path()).unwrap().count(), 1, "a temporary file stayed");

        std::fs::remove_file(&path).unwrap();
        let error = Sealer::open(dir.path(), None, 3).err().unwrap();
        let source = std::error::Error::source(&error).unwrap().to_string();
        assert!(source.contains("secrets.key is missing") && source.contains("3 webhooks"), "{source}");
    }

    #[test]
    fn a_given_key_is_hex_or_base64() {
        let hex = "00112233445566778899aabbccddeeff00112233445566778899aabbccddeeff";
        let bytes = parse_key(hex).unwrap();
        assert_eq!(parse_key(&format!("{}\n", STANDARD.encode(bytes))), Some(bytes));
        for wrong in ["", "abc", &hex[2..], &"é".repeat(32)] {
            assert_eq!(parse_key(wrong), None, "{wrong}");
        }
    }
}

//! The secrets of a webhook: masked where it is shown, sealed where it is stored, kept when the mask is sent back.
//!
//! Invariant: a kept secret stays with the host that it was given for.

use std::collections::BTreeMap;

use serde::{Deserialize, Serialize};

use super::webhook::{Auth, NewWebhook};
use crate::base::json_pointer::escaped;
use crate::store::error::{StoreError, StoreErrorKind};
use crate::store::secrets::{MASK, has_masked_parts, is_secret_header, masked_url, restore_url, same_origin};

/// The parts that are sealed besides the auth: the complete URL and the secret headers.
#[derive(Default, Serialize, Deserialize)]
pub(in crate::store) struct SealedParts {
    url: String,
    headers: BTreeMap<String, String>,
}

impl NewWebhook {
    /// Whether any secret is the mask and so stands for the stored one.
    pub(in crate::store) fn has_masks(&self) -> bool {
        let auth = self.auth.clone().secrets_mut().iter().any(|(_, secret)| *secret == MASK);
        auth || self.headers.values().any(|value| value == MASK) || has_masked_parts(&self.url)
    }

    /// Replaces masks by the stored secrets. They stay with the host that they were given for: a URL to another host
    /// needs them again.
    pub(in crate::store) fn restore_masks(&mut self, stored: Option<&Self>) -> Result<(), StoreError> {
        let (mut kept, mut missing) = (Vec::new(), Vec::new());
        if has_masked_parts(&self.url) {
            match stored.and_then(|stored| restore_url(&self.url, &stored.url)) {
                Some(url) => {
                    self.url = url;
                    kept.push("/url".to_owned());
                }
                None => missing.push("/url".to_owned()),
            }
        }
        for (name, value) in self.headers.iter_mut().filter(|(_, value)| *value == MASK) {
            let old = stored.and_then(|stored| stored.headers.iter().find(|(old, _)| old.eq_ignore_ascii_case(name)));
            let pointer = format!("/headers/{}", escaped(name));
            match old {
                Some((_, old)) => {
                    value.clone_from(old);
                    kept.push(pointer);
                }
                None => missing.push(pointer),
            }
        }
        let (fields, without) = self.auth.restore_masks(stored.map(|stored| &stored.auth));
        let of_auth = |field: &&str| format!("/auth_config/{field}");
        kept.extend(fields.iter().map(of_auth));
        missing.extend(without.iter().map(of_auth));
        let context = "keep webhook secret";
        if !missing.is_empty() {
            return Err(StoreError::new(StoreErrorKind::NoSecretToKeep { pointers: missing }, context));
        }
        if !kept.is_empty() && !stored.is_some_and(|stored| same_origin(&self.url, &stored.url)) {
            return Err(StoreError::new(StoreErrorKind::SecretOfAnotherHost { pointers: kept }, context));
        }
        Ok(())
    }

    /// The parts to seal, if any.
    pub(in crate::store) fn sealed_parts(&self) -> Option<SealedParts> {
        let secret = |(name, value): &(&String, &String)| is_secret_header(name, value);
        let headers: BTreeMap<_, _> =
            self.headers.iter().filter(secret).map(|(name, value)| (name.clone(), value.clone())).collect();
        let hides = !headers.is_empty() || masked_url(&self.url) != self.url;
        hides.then(|| SealedParts { url: self.url.clone(), headers })
    }

    /// Whether clear-text columns hold a secret: older versions recognized fewer.
    pub(in crate::store) fn has_clear_secrets(&self) -> bool {
        let shown = |(name, value): (&String, &String)| value != MASK && is_secret_header(name, value);
        masked_url(&self.url) != self.url || self.headers.iter().any(shown)
    }

    /// Restores the sealed parts.
    pub(in crate::store) fn restore_sealed(&mut self, hidden: SealedParts) {
        self.url = hidden.url;
        self.headers.extend(hidden.headers);
    }

    /// As shown, and as stored in clear text.
    pub(in crate::store) fn masked_url(&self) -> String {
        masked_url(&self.url)
    }

    /// As shown, and as stored in clear text.
    pub(in crate::store) fn masked_headers(&self) -> BTreeMap<&str, &str> {
        let masked = |(name, value): (&'_ String, &'_ String)| is_secret_header(name, value);
        let shown = self.headers.iter().map(|(name, value)| match masked((name, value)) {
            true => (name.as_str(), MASK),
            false => (name.as_str(), value.as_str()),
        });
        shown.collect()
    }
}

impl Auth {
    /// Replaces masks by the stored secrets; returns the fields that were replaced and those without a stored secret.
    fn restore_masks(&mut self, stored: Option<&Self>) -> (Vec<&'static str>, Vec<&'static str>) {
        let mut stored = stored.filter(|stored| stored.kind() == self.kind()).cloned().unwrap_or(Self::None);
        let old = stored.secrets_mut();
        let (mut kept, mut missing) = (Vec::new(), Vec::new());
        for (field, secret) in self.secrets_mut().into_iter().filter(|(_, secret)| *secret == MASK) {
            match old.iter().find(|(name, _)| *name == field) {
                Some((_, value)) => {
                    secret.clone_from(value);
                    kept.push(field);
                }
                None => missing.push(field),
            }
        }
        (kept, missing)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn stored() -> NewWebhook {
        NewWebhook {
            name: "ops".into(),
            url: "https://ops.example.com/hook?token=t0ken".into(),
            method: "POST".into(),
            enabled: true,
            timeout_ms: 1_000,
            headers: BTreeMap::from([("X-Api-Key".into(), "k3y".into()), ("X-Env".into(), "prod".into())]),
            int64_as_string: false,
            auth: Auth::Standard { secret: "new".into(), previous_secret: None },
        }
    }

    fn kind(kept: Result<(), StoreError>) -> StoreErrorKind {
        kept.unwrap_err().kind
    }

    #[test]
    fn the_mask_keeps_the_stored_secret() {
        let masked = |change: fn(&mut NewWebhook)| {
            let shown = serde_json::to_value(stored()).unwrap();
            let mut read: NewWebhook = serde_json::from_value(shown).unwrap();
            change(&mut read);
            read
        };
        let mut same = masked(|_| {});
        assert!(same.has_masks());
        same.restore_masks(Some(&stored())).unwrap();
        assert_eq!(same, stored());

        let mut rotated = masked(|w| {
            let Auth::Standard { secret, previous_secret } = &mut w.auth else { unreachable!() };
            (*previous_secret, *secret) = (Some("old".into()), MASK.into());
            w.headers.insert("x-api-key".into(), MASK.into());
            w.headers.remove("X-Api-Key");
        });
        rotated.restore_masks(Some(&stored())).unwrap();
        assert_eq!(rotated.auth, Auth::Standard { secret: "new".into(), previous_secret: Some("old".into()) });
        assert_eq!(rotated.headers["x-api-key"], "k3y");

        for (change, pointer) in [
            (
                (|w| w.auth = Auth::Standard { secret: "x".into(), previous_secret: Some(MASK.into()) })
                    as fn(&mut NewWebhook),
                "/auth_config/previous_secret",
            ),
            (|w| w.auth = Auth::Hmac { secret: MASK.into(), header: "X".into() }, "/auth_config/secret"),
            (|w| drop(w.headers.insert("X-Other".into(), MASK.into())), "/headers/X-Other"),
            (|w| w.url = "https://ops.example.com/hook?other=***".into(), "/url"),
        ] {
            let wrong = StoreErrorKind::NoSecretToKeep { pointers: vec![pointer.to_owned()] };
            assert_eq!(kind(masked(change).restore_masks(Some(&stored()))), wrong);
        }
        let all = ["/url", "/headers/X-Api-Key", "/auth_config/secret"].map(str::to_owned).to_vec();
        assert_eq!(kind(masked(|_| {}).restore_masks(None)), StoreErrorKind::NoSecretToKeep { pointers: all });
    }

    #[test]
    fn a_key_used_as_user_name_is_kept() {
        let key = |username: &str, password: &str| Auth::Basic { username: username.into(), password: password.into() };
        let stored = NewWebhook { auth: key("k3y", ""), ..stored() };
        let read = |auth_config: serde_json::Value| {
            let mut shown = serde_json::to_value(&stored).unwrap();
            assert_eq!(shown["auth_config"], serde_json::json!({"username": "***", "password": "***"}));
            shown["auth_config"] = auth_config;
            let mut read: NewWebhook = serde_json::from_value(shown).unwrap();
            assert!(read.has_masks());
            read.restore_masks(Some(&stored)).unwrap();
            read.auth
        };
        assert_eq!(read(serde_json::json!({"username": "***", "password": "***"})), key("k3y", ""));
        assert_eq!(read(serde_json::json!({"username": "***", "password": "pw"})), key("k3y", "pw"));
        assert_eq!(read(serde_json::json!({"username": "n3w", "password": "***"})), key("n3w", ""));
    }

    #[test]
    fn a_kept_secret_does_not_follow_to_another_host() {
        for url in
            ["https://evil.example.com/hook?token=x", "http://ops.example.com/?token=x", "https://ops.example.com:8/"]
        {
            let mut moved = stored();
            moved.url = url.to_owned();
            moved.auth = Auth::Standard { secret: MASK.into(), previous_secret: None };
            let of_another = StoreErrorKind::SecretOfAnotherHost { pointers: vec!["/auth_config/secret".to_owned()] };
            assert_eq!(kind(moved.restore_masks(Some(&stored()))), of_another);
            // A secret that is given again may go to the new host.
            moved.auth = Auth::Standard { secret: "again".into(), previous_secret: None };
            moved.restore_masks(Some(&stored())).unwrap();
        }
    }
}

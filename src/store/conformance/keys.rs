//! The part of the conformance suite for API keys: the admin API lists and revokes them, gateways follow their changes.

use jiff::{SignedDuration, Timestamp};
use uuid::Uuid;

use super::*;

fn key(name: &str) -> NewApiKey {
    NewApiKey { app_id: "shop".to_owned(), name: name.to_owned(), ..NewApiKey::default() }
}

pub(in crate::store) async fn keys_are_listed_without_the_key(store: Store) {
    let (stored, secret) = store.create_key(key("ios")).await.unwrap();
    assert!(secret.len() == 64 && secret.bytes().all(|byte| byte.is_ascii_hexdigit()), "{secret}");
    let (_, other) = store.create_key(key("web")).await.unwrap();
    assert_ne!(secret, other);
    assert_eq!(store.create_key(key("ios")).await.unwrap_err().kind, StoreErrorKind::NameTaken);
    let listed = serde_json::to_string(&store.keys(first_page(10)).await.unwrap()).unwrap();
    assert!(listed.contains("ios") && !listed.contains(&secret), "{listed}");
    assert!(store.revoke_key("ios").await.unwrap());
    assert!(store.key(&stored.id.to_string()).await.unwrap().is_none());
    assert!(!store.revoke_key("ios").await.unwrap());
}

pub(in crate::store) async fn keys_have_an_expiry_limits_and_a_last_use(store: Store) {
    // Stored in milliseconds.
    let later = Timestamp::from_millisecond(Timestamp::now().as_millisecond()).unwrap();
    let expires_at = Some(later + SignedDuration::from_hours(1));
    let new = NewApiKey { expires_at, requests_per_second: Some(50), burst: Some(u32::MAX), ..key("ios") };
    let limits = new.limits();
    let (stored, _) = store.create_key(new).await.unwrap();
    assert_eq!((stored.expires_at, stored.limits, stored.last_used_at), (expires_at, limits, None));
    assert_eq!(store.key("ios").await.unwrap().unwrap(), stored);
    let (plain, _) = store.create_key(key("web")).await.unwrap();
    assert_eq!((plain.expires_at, plain.limits), (None, KeyLimits::default()));

    let used = async |minute_ms| {
        // A key that was revoked in the meantime is skipped.
        store.record_key_use(&[(stored.id, minute_ms), (Uuid::now_v7(), minute_ms)]).await.unwrap();
        store.key("ios").await.unwrap().unwrap().last_used_at.unwrap().as_millisecond()
    };
    let created = stored.created_at.as_millisecond();
    let minute = created - created % 60_000;
    assert_eq!(used(minute).await, created, "no key was used before there was one");
    assert_eq!(used(minute).await, created);
    assert_eq!(used(minute + 120_000).await, minute + 120_000);
    assert_eq!(used(minute + 60_000).await, minute + 120_000, "another process knows of a later use");
    assert_eq!(used(minute + 180_000).await, minute + 180_000);
    store.record_key_use(&[]).await.unwrap();
    assert_eq!(store.keys(first_page(10)).await.unwrap().items[1], plain);
}

pub(in crate::store) async fn key_changes_are_readable_from_any_version(store: Store) {
    let none = store.revocations(0).await.unwrap();
    assert_eq!((none.version, none.complete, none.revoked.len()), (0, true, 0));
    assert!((none.now_ms - Timestamp::now().as_millisecond()).abs() < 60_000);
    let (ios, secret) = store.create_key(key("ios")).await.unwrap();
    let (web, other) = store.create_key(key("web")).await.unwrap();
    let hashes = [key_hash(secret.as_bytes()), key_hash(other.as_bytes())];
    let all = store.keys_after(0).await.unwrap();
    let expected = |key: &ApiKey, hash, version| HashedKey {
        id: key.id,
        app_id: key.app_id.clone(),
        hash,
        expires_at_ms: None,
        limits: key.limits,
        version,
    };
    assert_eq!(all, [expected(&ios, hashes[0], 1), expected(&web, hashes[1], 2)]);
    assert_eq!(store.keys_after(1).await.unwrap(), all[1..]);
    assert_eq!(store.keys_after(2).await.unwrap(), []);

    store.create_key(key("web")).await.unwrap_err();
    assert!(!store.revoke_key("nobody").await.unwrap());
    assert_eq!(store.revocations(2).await.unwrap().version, 2, "nothing has changed");
    assert!(store.revoke_key("ios").await.unwrap());
    let news = store.revocations(2).await.unwrap();
    assert_eq!((news.version, news.complete, news.revoked), (3, true, vec![hashes[0]]));
    assert_eq!(store.revocations(3).await.unwrap().revoked.len(), 0);
    assert_eq!(store.keys_after(0).await.unwrap(), all[1..]);
    assert!(!store.revocations(4).await.unwrap().complete, "the store is behind its reader: it was restored");
}

/// Versions are counted in one row: concurrent changes wait for each other, without deadlock.
pub(in crate::store) async fn concurrent_key_changes_get_distinct_versions(store: Store) {
    let rounds = (0..8).map(|lane| {
        let store = store.clone();
        async move {
            for round in 0..8 {
                let name = format!("k{}", (lane + round) % 4);
                match store.create_key(key(&name)).await {
                    Ok(_) => {}
                    Err(error) => assert_eq!(error.kind, StoreErrorKind::NameTaken),
                }
                store.revoke_key(&name).await.unwrap();
            }
        }
    });
    futures_util::future::join_all(rounds).await;
    for name in ["k0", "k1", "k2", "k3"] {
        store.revoke_key(name).await.unwrap();
    }
    assert_eq!(store.keys_after(0).await.unwrap(), []);
    let news = store.revocations(0).await.unwrap();
    assert_eq!(news.version, 2 * news.revoked.len() as u64, "each key was created once and revoked once");
}

//! What rules and anomaly configs have in common: they have a unique name and use webhooks.

use jiff::Timestamp;
use serde::Serialize;
use serde::de::DeserializeOwned;
use uuid::Uuid;

use super::anomaly::{AnomalyConfig, NewAnomalyConfig};
use super::rule::{Actions, Faults, NewRule, Rule};
use super::set::Comparable;
use crate::store::audit::Audited;

/// The members that the product adds to a document.
pub const OWN_MEMBERS: [&str; 6] =
    ["id", "created_at", "updated_at", "disabled_reason", "deliveries_given_up", "faults"];

/// A kind of document: its table and its stored form.
pub(in crate::store) trait Document:
    Serialize + DeserializeOwned + Clone + Send + Sync + 'static
{
    type Stored: Comparable + Audited + Send + 'static;
    const TABLE: &'static str;
    const LIST: u8;

    fn name(&self) -> &str;
    fn actions_mut(&mut self) -> &mut Actions;
    fn stored(self, id: Uuid, faults: Faults, created_at: Timestamp, updated_at: Timestamp) -> Self::Stored;
}

impl Document for NewRule {
    type Stored = Rule;
    const TABLE: &'static str = "rules";
    const LIST: u8 = b'r';

    fn name(&self) -> &str {
        &self.name
    }

    fn actions_mut(&mut self) -> &mut Actions {
        &mut self.actions
    }

    fn stored(self, id: Uuid, faults: Faults, created_at: Timestamp, updated_at: Timestamp) -> Rule {
        Rule { id, document: self, faults, created_at, updated_at }
    }
}

impl Document for NewAnomalyConfig {
    type Stored = AnomalyConfig;
    const TABLE: &'static str = "anomaly_configs";
    const LIST: u8 = b'a';

    fn name(&self) -> &str {
        &self.name
    }

    fn actions_mut(&mut self) -> &mut Actions {
        &mut self.actions
    }

    fn stored(self, id: Uuid, faults: Faults, created_at: Timestamp, updated_at: Timestamp) -> AnomalyConfig {
        AnomalyConfig { id, document: self, faults, created_at, updated_at }
    }
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeSet;

    use serde_json::{Value, json};

    use super::*;
    use crate::store::{NewWebhook, Webhook};

    fn members(document: &impl Serialize) -> BTreeSet<String> {
        let Value::Object(members) = serde_json::to_value(document).unwrap() else { unreachable!() };
        members.into_iter().map(|(name, _)| name).collect()
    }

    #[test]
    fn own_members_are_those_that_clients_do_not_write() {
        let (id, now) = (Uuid::nil(), Timestamp::UNIX_EPOCH);
        let rule: NewRule = serde_json::from_value(json!({"name": "n"})).unwrap();
        let anomaly = json!({"name": "n", "detection_type": "rate", "config": {}});
        let anomaly: NewAnomalyConfig = serde_json::from_value(anomaly).unwrap();
        let document: NewWebhook = serde_json::from_value(json!({"name": "n", "url": "u"})).unwrap();
        let written = [members(&rule), members(&anomaly), members(&document)];
        let webhook =
            Webhook { id, document, disabled_reason: None, deliveries_given_up: 0, created_at: now, updated_at: now };
        let stored = [
            members(&rule.stored(id, Faults::default(), now, now)),
            members(&anomaly.stored(id, Faults::default(), now, now)),
            members(&webhook),
        ];
        let own: BTreeSet<_> = stored.iter().zip(&written).flat_map(|(stored, written)| stored - written).collect();
        assert_eq!(own, OWN_MEMBERS.map(str::to_owned).into());
    }
}

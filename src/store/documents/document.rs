//! What the store needs to know of a type of documents to keep it.
//!
//! A new type implements [`Document`], gets a table in a migration of each engine with the columns `id`, `name`,
//! `created_at`, `updated_at` and its own, and joins the lists of [`DocumentSet`] and [`AppliedSet`].
//!
//! Both engines run the statements of this file. To SQLite `$1` is a name, and it numbers names in the order in which they
//! first appear, so statements first name their parameters in ascending order.

use jiff::Timestamp;
use serde::Serialize;
use serde::de::DeserializeOwned;

use super::anomaly::{AnomalyConfig, NewAnomalyConfig};
use super::row::{Cell, Row};
use super::rule::{Actions, NewRule, Rule};
use super::set::{Applied, AppliedSet, ApplyOutcome, DocumentSet};
use crate::store::audit::Audited;
use crate::store::error::StoreError;
use crate::store::secrets::Sealer;

/// The members that the product adds to a document.
pub const OWN_MEMBERS: [&str; 6] =
    ["id", "created_at", "updated_at", "disabled_reason", "deliveries_given_up", "faults"];

/// A document with a unique name, as a person writes it.
pub(crate) trait Document: Serialize + DeserializeOwned + Clone + PartialEq + Send + Sync + 'static {
    type Stored: Audited + Clone + Send + Sync + 'static;
    const TABLE: &'static str;
    /// The columns of the table that only this type has.
    const COLUMNS: &'static [&'static str] = &["document"];
    /// A byte that no other list has, for cursors.
    const LIST: u8;
    /// The name of its list in a set, and of its path in the API.
    const PLURAL: &'static str;
    /// Whether a change of it may make deliveries due.
    const HOLDS_DELIVERIES: bool = false;

    fn name(&self) -> &str;

    /// The stored form. `row` has its id and times, and the cells of the version before, if there was one.
    fn stored(self, row: &Row) -> Result<Self::Stored, StoreError>;
    fn written(stored: &Self::Stored) -> &Self;
    fn updated_at(stored: &Self::Stored) -> Timestamp;
    fn in_set(set: &mut DocumentSet) -> &mut Vec<Self>;
    fn in_applied(applied: &mut AppliedSet) -> &mut Vec<Applied<Self::Stored>>;

    /// The webhooks that it calls, if it is of a type that calls webhooks.
    fn actions_mut(&mut self) -> Option<&mut Actions> {
        None
    }

    /// Whether any secret is the mask and so stands for the stored one.
    fn has_masked_secrets(&self) -> bool {
        false
    }

    /// Replaces masks by the stored secrets.
    fn restore_masked_secrets(&mut self, _stored: Option<&Self>) -> Result<(), StoreError> {
        Ok(())
    }

    /// The values of its columns.
    fn cells(stored: &Self::Stored, _sealer: Option<&Sealer>) -> Result<Vec<Cell>, StoreError> {
        Ok(vec![Cell::json(Self::written(stored))?])
    }

    fn read(row: &Row, _sealer: Option<&Sealer>) -> Result<Self::Stored, StoreError> {
        row.json::<Self>("document")?.stored(row)
    }

    /// `before` is `None` if it was created or could not be read.
    fn applied(before: Option<Self::Stored>, after: Self::Stored, outcome: ApplyOutcome) -> Applied<Self::Stored> {
        match before {
            Some(before) if Self::written(&after) == Self::written(&before) => {
                Applied { after: before.clone(), before: Some(before), outcome: ApplyOutcome::Unchanged }
            }
            before => Applied { before, after, outcome },
        }
    }

    /// Selects the id, the name, the times, the faults and its columns.
    fn select() -> String {
        let columns: String = Self::COLUMNS.iter().map(|column| format!(", d.{column}")).collect();
        format!(
            "SELECT d.id, d.name, d.created_at, d.updated_at, f.count, f.last_at, f.last_error{columns}
             FROM {} d LEFT JOIN faults f ON f.document_id = d.id",
            Self::TABLE
        )
    }

    /// Writes the id, the name, the times and its columns, in this order.
    fn upsert() -> String {
        let columns: Vec<&str> =
            ["id", "name", "created_at", "updated_at"].iter().chain(Self::COLUMNS).copied().collect();
        let values: Vec<String> = (1..=columns.len()).map(|place| format!("${place}")).collect();
        let changed = columns.iter().filter(|column| !matches!(**column, "id" | "created_at"));
        let changed: Vec<String> = changed.map(|column| format!("{column} = excluded.{column}")).collect();
        let (columns, values, changed) = (columns.join(", "), values.join(", "), changed.join(", "));
        format!("INSERT INTO {} ({columns}) VALUES ({values}) ON CONFLICT (id) DO UPDATE SET {changed}", Self::TABLE)
    }

    /// Deletes the row of an id and what is kept about it. Ids are unique among all types: what a document of this type
    /// cannot have is not found.
    fn delete() -> [String; 4] {
        let kept = [("anomaly_states", "config_id"), ("faults", "document_id"), ("webhook_uses", "user_id")];
        [(Self::TABLE, "id"), kept[0], kept[1], kept[2]]
            .map(|(table, id)| format!("DELETE FROM {table} WHERE {id} = $1"))
    }
}

/// The types whose documents call webhooks and may fail on events: their word in errors, and their table.
const CALLERS: [(&str, &str); 2] = [("rule", NewRule::TABLE), ("anomaly", NewAnomalyConfig::TABLE)];

/// Selects the documents that call a webhook.
pub(in crate::store) fn select_callers() -> String {
    let select = |(word, table)| {
        format!(
            "SELECT '{word} ' || d.name FROM webhook_uses u JOIN {table} d ON d.id = u.user_id WHERE u.webhook_id = $1"
        )
    };
    CALLERS.map(select).join(" UNION ALL ")
}

/// Adds to the faults of an id: count, time and text. The last parameter is the `updated_at` it must still have.
pub(in crate::store) fn add_faults() -> String {
    let unchanged =
        CALLERS.map(|(_, table)| format!("EXISTS (SELECT 1 FROM {table} WHERE id = $1 AND updated_at = $5)"));
    format!(
        "INSERT INTO faults AS f (document_id, count, last_at, last_error) SELECT $1, $2, $3, $4 WHERE {}
         ON CONFLICT (document_id) DO UPDATE SET count = f.count + excluded.count, last_at = excluded.last_at,
             last_error = excluded.last_error",
        unchanged.join(" OR ")
    )
}

impl Document for NewRule {
    type Stored = Rule;
    const TABLE: &'static str = "rules";
    const LIST: u8 = b'r';
    const PLURAL: &'static str = "rules";

    fn name(&self) -> &str {
        &self.name
    }

    fn stored(self, row: &Row) -> Result<Rule, StoreError> {
        let &Row { id, created_at, updated_at, ref faults, .. } = row;
        Ok(Rule { id, document: self, faults: faults.clone(), created_at, updated_at })
    }

    fn written(stored: &Rule) -> &Self {
        &stored.document
    }

    fn updated_at(stored: &Rule) -> Timestamp {
        stored.updated_at
    }

    fn in_set(set: &mut DocumentSet) -> &mut Vec<Self> {
        &mut set.rules
    }

    fn in_applied(applied: &mut AppliedSet) -> &mut Vec<Applied<Rule>> {
        &mut applied.rules
    }

    fn actions_mut(&mut self) -> Option<&mut Actions> {
        Some(&mut self.actions)
    }
}

impl Document for NewAnomalyConfig {
    type Stored = AnomalyConfig;
    const TABLE: &'static str = "anomaly_configs";
    const LIST: u8 = b'a';
    const PLURAL: &'static str = "anomalies";

    fn name(&self) -> &str {
        &self.name
    }

    fn stored(self, row: &Row) -> Result<AnomalyConfig, StoreError> {
        let &Row { id, created_at, updated_at, ref faults, .. } = row;
        Ok(AnomalyConfig { id, document: self, faults: faults.clone(), created_at, updated_at })
    }

    fn written(stored: &AnomalyConfig) -> &Self {
        &stored.document
    }

    fn updated_at(stored: &AnomalyConfig) -> Timestamp {
        stored.updated_at
    }

    fn in_set(set: &mut DocumentSet) -> &mut Vec<Self> {
        &mut set.anomalies
    }

    fn in_applied(applied: &mut AppliedSet) -> &mut Vec<Applied<AnomalyConfig>> {
        &mut applied.anomalies
    }

    fn actions_mut(&mut self) -> Option<&mut Actions> {
        Some(&mut self.actions)
    }
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeSet;

    use serde_json::{Value, json};

    use uuid::Uuid;

    use super::*;
    use crate::store::NewWebhook;

    fn members(document: &impl Serialize) -> BTreeSet<String> {
        let Value::Object(members) = serde_json::to_value(document).unwrap() else { unreachable!() };
        members.into_iter().map(|(name, _)| name).collect()
    }

    #[test]
    fn own_members_are_those_that_clients_do_not_write() {
        let row = Row::new(Uuid::nil(), "n", Timestamp::UNIX_EPOCH);
        let rule: NewRule = serde_json::from_value(json!({"name": "n"})).unwrap();
        let anomaly = json!({"name": "n", "detection_type": "rate", "config": {}});
        let anomaly: NewAnomalyConfig = serde_json::from_value(anomaly).unwrap();
        let document: NewWebhook = serde_json::from_value(json!({"name": "n", "url": "u"})).unwrap();
        let written = [members(&rule), members(&anomaly), members(&document)];
        let stored = [
            members(&rule.stored(&row).unwrap()),
            members(&anomaly.stored(&row).unwrap()),
            members(&document.stored(&row).unwrap()),
        ];
        let own: BTreeSet<_> = stored.iter().zip(&written).flat_map(|(stored, written)| stored - written).collect();
        assert_eq!(own, OWN_MEMBERS.map(str::to_owned).into());
    }
}

//! Rules and anomaly configs seen alike: documents with a unique name that call webhooks.

use jiff::Timestamp;
use serde::Serialize;
use serde::de::DeserializeOwned;
use uuid::Uuid;

use super::set::Comparable;
use super::{Actions, AnomalyConfig, Faults, NewAnomalyConfig, NewRule, Rule};

/// A kind of document: where it is kept, and how it looks when stored.
pub(super) trait Document: Serialize + DeserializeOwned + Send + 'static {
    type Stored: Comparable + Send + 'static;
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

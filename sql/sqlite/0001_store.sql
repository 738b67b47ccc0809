-- The store: what operators wrote, and what the reaction did about it.
-- Ids are the 16 bytes of a UUID, times are milliseconds since the Unix epoch.

CREATE TABLE webhooks (
    id              BLOB PRIMARY KEY,
    name            TEXT NOT NULL UNIQUE,
    url             TEXT NOT NULL,
    method          TEXT NOT NULL,
    enabled         INTEGER NOT NULL,
    timeout_ms      INTEGER NOT NULL,
    headers         TEXT NOT NULL,
    auth_type       TEXT NOT NULL,
    -- Sealed with AES-256-GCM; NULL for the auth type `none`.
    auth_config     BLOB,
    disabled_reason TEXT,
    created_at      INTEGER NOT NULL,
    updated_at      INTEGER NOT NULL
) WITHOUT ROWID;

CREATE TABLE rules (
    id         BLOB PRIMARY KEY,
    name       TEXT NOT NULL UNIQUE,
    document   TEXT NOT NULL,
    created_at INTEGER NOT NULL,
    updated_at INTEGER NOT NULL
) WITHOUT ROWID;

CREATE TABLE anomaly_configs (
    id         BLOB PRIMARY KEY,
    name       TEXT NOT NULL UNIQUE,
    document   TEXT NOT NULL,
    created_at INTEGER NOT NULL,
    updated_at INTEGER NOT NULL
) WITHOUT ROWID;

-- Which rules and anomaly configs call a webhook: it cannot be deleted before them.
CREATE TABLE webhook_uses (
    webhook_id BLOB NOT NULL REFERENCES webhooks (id),
    user_id    BLOB NOT NULL,
    PRIMARY KEY (webhook_id, user_id)
) WITHOUT ROWID;
CREATE INDEX webhook_uses_by_user ON webhook_uses (user_id);

CREATE TABLE api_keys (
    id         BLOB PRIMARY KEY,
    app_id     TEXT NOT NULL,
    name       TEXT NOT NULL UNIQUE,
    -- SHA-256 of the key's 64 hex characters.
    hash       BLOB NOT NULL UNIQUE,
    created_at INTEGER NOT NULL
) WITHOUT ROWID;

CREATE TABLE deliveries (
    -- The order of creation, which lists follow.
    seq               INTEGER PRIMARY KEY,
    id                BLOB NOT NULL UNIQUE,
    webhook_id        BLOB NOT NULL,
    rule_id           BLOB,
    anomaly_config_id BLOB,
    event_id          TEXT NOT NULL,
    payload           TEXT NOT NULL,
    status            TEXT NOT NULL,
    attempts          INTEGER NOT NULL,
    max_attempts      INTEGER NOT NULL,
    -- Pending: the next attempt. In progress: the end of the lease. Otherwise NULL.
    due_at            INTEGER,
    last_attempt_at   INTEGER,
    last_error        TEXT,
    last_status_code  INTEGER,
    created_at        INTEGER NOT NULL,
    finished_at       INTEGER
);
-- By webhook first, so that what a dead endpoint has piled up is never walked over.
CREATE INDEX deliveries_due ON deliveries (webhook_id, due_at) WHERE due_at IS NOT NULL;
CREATE INDEX deliveries_by_status ON deliveries (status, seq);
CREATE INDEX deliveries_by_webhook ON deliveries (webhook_id, seq);
CREATE INDEX deliveries_by_rule ON deliveries (rule_id, seq) WHERE rule_id IS NOT NULL;
CREATE INDEX deliveries_by_event ON deliveries (event_id, seq);

CREATE TABLE outbox (
    seq     INTEGER PRIMARY KEY,
    id      BLOB NOT NULL UNIQUE,
    subject TEXT NOT NULL,
    payload BLOB NOT NULL
);

-- Bus sequences whose effects are committed and that the bus may still deliver again.
CREATE TABLE consumed (
    consumer TEXT NOT NULL,
    sequence INTEGER NOT NULL,
    PRIMARY KEY (consumer, sequence)
) WITHOUT ROWID;

-- Everything up to here is acknowledged: who still has it in hand was overtaken.
CREATE TABLE consumer_floors (
    consumer TEXT PRIMARY KEY,
    floor    INTEGER NOT NULL
) WITHOUT ROWID;

CREATE TABLE anomaly_events (
    seq         INTEGER PRIMARY KEY,
    config_id   BLOB NOT NULL,
    app_id      TEXT NOT NULL,
    detected_at INTEGER NOT NULL,
    document    TEXT NOT NULL
);
CREATE INDEX anomaly_events_by_config ON anomaly_events (config_id, seq);
CREATE INDEX anomaly_events_by_app ON anomaly_events (app_id, seq);

CREATE TABLE anomaly_states (
    config_id         BLOB NOT NULL,
    app_id            TEXT NOT NULL,
    group_value       TEXT NOT NULL,
    -- Raised by every write; a write names the one that it has read.
    version           INTEGER NOT NULL,
    window            TEXT NOT NULL,
    cooldown_until_ms INTEGER NOT NULL,
    updated_at_ms     INTEGER NOT NULL,
    PRIMARY KEY (config_id, app_id, group_value)
) WITHOUT ROWID;

-- The store: what operators wrote, and what the reaction did about it.
-- Times are milliseconds since the Unix epoch, by the clock of the database, which all processes share.

CREATE FUNCTION causality_now_ms() RETURNS bigint LANGUAGE sql VOLATILE AS
    $$ SELECT (extract(epoch FROM clock_timestamp()) * 1000)::bigint $$;

CREATE TABLE webhooks (
    id              uuid PRIMARY KEY,
    name            text NOT NULL UNIQUE,
    url             text NOT NULL,
    method          text NOT NULL,
    enabled         boolean NOT NULL,
    timeout_ms      bigint NOT NULL,
    -- JSON is kept as text: as it was written.
    headers         text NOT NULL,
    auth_type       text NOT NULL,
    -- Sealed with AES-256-GCM; NULL for the auth type `none`.
    auth_config     bytea,
    disabled_reason text,
    created_at      bigint NOT NULL,
    updated_at      bigint NOT NULL
);

CREATE TABLE rules (
    id         uuid PRIMARY KEY,
    name       text NOT NULL UNIQUE,
    document   text NOT NULL,
    created_at bigint NOT NULL,
    updated_at bigint NOT NULL
);

CREATE TABLE anomaly_configs (
    id         uuid PRIMARY KEY,
    name       text NOT NULL UNIQUE,
    document   text NOT NULL,
    created_at bigint NOT NULL,
    updated_at bigint NOT NULL
);

-- Which rules and anomaly configs call a webhook: it cannot be deleted before them.
CREATE TABLE webhook_uses (
    webhook_id uuid NOT NULL REFERENCES webhooks (id),
    user_id    uuid NOT NULL,
    PRIMARY KEY (webhook_id, user_id)
);
CREATE INDEX webhook_uses_by_user ON webhook_uses (user_id);

CREATE TABLE api_keys (
    id         uuid PRIMARY KEY,
    app_id     text NOT NULL,
    name       text NOT NULL UNIQUE,
    -- SHA-256 of the key's 64 hex characters.
    hash       bytea NOT NULL UNIQUE,
    created_at bigint NOT NULL
);

CREATE TABLE deliveries (
    -- The order of creation, which lists follow.
    seq               bigint GENERATED ALWAYS AS IDENTITY PRIMARY KEY,
    id                uuid NOT NULL UNIQUE,
    webhook_id        uuid NOT NULL,
    rule_id           uuid,
    anomaly_config_id uuid,
    event_id          text NOT NULL,
    payload           text NOT NULL,
    status            text NOT NULL,
    attempts          integer NOT NULL,
    max_attempts      integer NOT NULL,
    -- Pending: the next attempt. In progress: the end of the lease. Otherwise NULL.
    due_at            bigint,
    last_attempt_at   bigint,
    last_error        text,
    last_status_code  integer,
    created_at        bigint NOT NULL,
    finished_at       bigint
) WITH (fillfactor = 80);
-- By webhook first, so that what a dead endpoint has piled up is never walked over.
CREATE INDEX deliveries_due ON deliveries (webhook_id, due_at, seq) WHERE due_at IS NOT NULL;
CREATE INDEX deliveries_by_status ON deliveries (status, seq);
CREATE INDEX deliveries_by_webhook ON deliveries (webhook_id, seq);
CREATE INDEX deliveries_by_rule ON deliveries (rule_id, seq) WHERE rule_id IS NOT NULL;
CREATE INDEX deliveries_by_event ON deliveries (event_id, seq);

CREATE TABLE outbox (
    seq     bigint GENERATED ALWAYS AS IDENTITY PRIMARY KEY,
    id      uuid NOT NULL UNIQUE,
    subject text NOT NULL,
    payload bytea NOT NULL
);

-- Bus sequences whose effects are committed and that the bus may still deliver again.
CREATE TABLE consumed (
    consumer text NOT NULL,
    sequence bigint NOT NULL,
    PRIMARY KEY (consumer, sequence)
);

-- Everything up to here is acknowledged: who still has it in hand was overtaken.
CREATE TABLE consumer_floors (
    consumer text PRIMARY KEY,
    floor    bigint NOT NULL
);

CREATE TABLE anomaly_events (
    seq         bigint GENERATED ALWAYS AS IDENTITY PRIMARY KEY,
    config_id   uuid NOT NULL,
    app_id      text NOT NULL,
    detected_at bigint NOT NULL,
    document    text NOT NULL
);
CREATE INDEX anomaly_events_by_config ON anomaly_events (config_id, seq);
CREATE INDEX anomaly_events_by_app ON anomaly_events (app_id, seq);

CREATE TABLE anomaly_states (
    config_id         uuid NOT NULL,
    app_id            text NOT NULL,
    group_value       text NOT NULL,
    -- Raised by every write; a write names the one that it has read.
    version           bigint NOT NULL,
    "window"          text NOT NULL,
    cooldown_until_ms bigint NOT NULL,
    updated_at_ms     bigint NOT NULL,
    PRIMARY KEY (config_id, app_id, group_value)
);

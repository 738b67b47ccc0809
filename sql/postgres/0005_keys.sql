-- API keys that gateways ask for.
ALTER TABLE api_keys ADD COLUMN expires_at bigint;
-- The key's own rate limits. NULL: those of the configuration.
ALTER TABLE api_keys ADD COLUMN requests_per_second bigint;
ALTER TABLE api_keys ADD COLUMN burst bigint;
-- To the minute.
ALTER TABLE api_keys ADD COLUMN last_used_at bigint;
-- The version of the keys that the creation of this one made: gateways read those above the one that they have seen.
ALTER TABLE api_keys ADD COLUMN version bigint NOT NULL DEFAULT 0;
UPDATE api_keys SET version = numbered.version
    FROM (SELECT id, row_number() OVER (ORDER BY id) AS version FROM api_keys) AS numbered
    WHERE numbered.id = api_keys.id;
CREATE UNIQUE INDEX api_keys_by_version ON api_keys (version);

-- One row. Every creation and revocation locks it first, so that versions become visible in their order.
CREATE TABLE api_keys_state (
    id      integer PRIMARY KEY CHECK (id = 1),
    version bigint NOT NULL,
    keys    bigint NOT NULL
);
INSERT INTO api_keys_state (id, version, keys) SELECT 1, count(*), count(*) FROM api_keys;

-- The latest revocations, for gateways that hold a copy of the keys.
CREATE TABLE revoked_keys (
    version bigint PRIMARY KEY,
    hash    bytea NOT NULL
);

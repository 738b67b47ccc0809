-- API keys that gateways ask for.
ALTER TABLE api_keys ADD COLUMN expires_at INTEGER;
-- The key's own rate limits. NULL: those of the configuration.
ALTER TABLE api_keys ADD COLUMN requests_per_second INTEGER;
ALTER TABLE api_keys ADD COLUMN burst INTEGER;
-- To the minute.
ALTER TABLE api_keys ADD COLUMN last_used_at INTEGER;
-- The version of the keys that the creation of this one made: gateways read those above the one that they have seen.
ALTER TABLE api_keys ADD COLUMN version INTEGER NOT NULL DEFAULT 0;
UPDATE api_keys SET version = numbered.version
    FROM (SELECT id, row_number() OVER (ORDER BY id) AS version FROM api_keys) AS numbered
    WHERE numbered.id = api_keys.id;
CREATE UNIQUE INDEX api_keys_by_version ON api_keys (version);

-- One row, raised by every creation and revocation.
CREATE TABLE api_keys_state (
    id      INTEGER PRIMARY KEY CHECK (id = 1),
    version INTEGER NOT NULL,
    keys    INTEGER NOT NULL
);
INSERT INTO api_keys_state (id, version, keys) SELECT 1, count(*), count(*) FROM api_keys;

-- The latest revocations, for a gateway that holds a copy of the keys.
CREATE TABLE revoked_keys (
    version INTEGER PRIMARY KEY,
    hash    BLOB NOT NULL
);

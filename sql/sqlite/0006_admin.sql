-- Tokens of the admin API. Only the SHA-256 of a token is kept.
CREATE TABLE admin_tokens (
    id           BLOB PRIMARY KEY,
    name         TEXT NOT NULL UNIQUE,
    role         TEXT NOT NULL,
    hash         BLOB NOT NULL UNIQUE,
    -- NULL: never.
    expires_at   INTEGER,
    -- To the minute.
    last_used_at INTEGER,
    created_at   INTEGER NOT NULL
) WITHOUT ROWID;

-- What was changed through the admin API, and by whom.
CREATE TABLE audit (
    seq      INTEGER PRIMARY KEY AUTOINCREMENT,
    at       INTEGER NOT NULL,
    actor    TEXT NOT NULL,
    actor_id BLOB,
    kind     TEXT NOT NULL,
    document TEXT NOT NULL
);
CREATE INDEX audit_by_time ON audit (at);
CREATE INDEX audit_by_actor ON audit (actor, seq);
CREATE INDEX audit_by_kind ON audit (kind, seq);

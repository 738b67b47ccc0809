-- Tokens of the admin API. Only the SHA-256 of a token is kept.
CREATE TABLE admin_tokens (
    id           uuid PRIMARY KEY,
    name         text NOT NULL UNIQUE,
    role         text NOT NULL,
    hash         bytea NOT NULL UNIQUE,
    -- NULL: never.
    expires_at   bigint,
    -- To the minute.
    last_used_at bigint,
    created_at   bigint NOT NULL
);

-- What was changed through the admin API, and by whom.
CREATE TABLE audit (
    seq      bigint GENERATED ALWAYS AS IDENTITY PRIMARY KEY,
    at       bigint NOT NULL,
    actor    text NOT NULL,
    actor_id uuid,
    kind     text NOT NULL,
    document text NOT NULL
);
CREATE INDEX audit_by_time ON audit (at);
CREATE INDEX audit_by_actor ON audit (actor, seq);
CREATE INDEX audit_by_kind ON audit (kind, seq);

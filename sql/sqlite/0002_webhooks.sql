-- What of a webhook's address and headers gives access is sealed; the columns in clear show it masked. Rows of older
-- versions are sealed when the store is opened.

-- Sealed with AES-256-GCM: the whole URL and the headers that give access. NULL when there is nothing to hide.
ALTER TABLE webhooks ADD COLUMN hidden BLOB;
ALTER TABLE webhooks ADD COLUMN int64_as_string INTEGER NOT NULL DEFAULT 0;
-- Deliveries that were given up since it was last disabled.
ALTER TABLE webhooks ADD COLUMN deliveries_given_up INTEGER NOT NULL DEFAULT 0;

-- A value sealed with the secrets key: another key is told at the start, not when a secret is needed.
CREATE TABLE secrets_check (
    id     INTEGER PRIMARY KEY CHECK (id = 1),
    sealed BLOB NOT NULL
);

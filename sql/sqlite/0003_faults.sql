-- Events that a rule or an anomaly config could not judge, since its document was last changed.
CREATE TABLE faults (
    document_id BLOB PRIMARY KEY,
    count       INTEGER NOT NULL,
    last_at     INTEGER,
    -- What of the document failed; never a value of an event.
    last_error  TEXT
) WITHOUT ROWID;

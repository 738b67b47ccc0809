-- Events that a rule or an anomaly config could not judge, since its document was last changed.
CREATE TABLE faults (
    document_id uuid PRIMARY KEY,
    count       bigint NOT NULL,
    last_at     bigint,
    -- What of the document failed; never a value of an event.
    last_error  text
);

-- A sequence alone does not name a message: a stream that loses its last messages gives their sequences to others. When
-- the bus stored the message tells them apart; -1 stands for any time, in what an earlier version recorded.
ALTER TABLE consumed RENAME TO consumed_before;
CREATE TABLE consumed (
    consumer        TEXT NOT NULL,
    sequence        INTEGER NOT NULL,
    published_at_ms INTEGER NOT NULL,
    PRIMARY KEY (consumer, sequence, published_at_ms)
) WITHOUT ROWID;
INSERT INTO consumed SELECT consumer, sequence, -1 FROM consumed_before;
DROP TABLE consumed_before;

-- Every message up to this sequence that the bus stored no later than this is consumed. There is more than one entry of
-- a consumer only where sequences or the clock went back; what `consumer_floors` says is of an earlier version.
CREATE TABLE consumed_up_to (
    consumer        TEXT NOT NULL,
    sequence        INTEGER NOT NULL,
    published_at_ms INTEGER NOT NULL,
    PRIMARY KEY (consumer, sequence)
) WITHOUT ROWID;

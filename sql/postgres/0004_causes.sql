-- A sequence alone does not name a message: a stream that loses its last messages gives their sequences to others. When
-- the bus stored the message tells them apart; -1 stands for any time, in what an earlier version recorded.
ALTER TABLE consumed ADD COLUMN published_at_ms bigint NOT NULL DEFAULT -1;
ALTER TABLE consumed DROP CONSTRAINT consumed_pkey;
ALTER TABLE consumed ADD PRIMARY KEY (consumer, sequence, published_at_ms);
CREATE INDEX consumed_at_any_time ON consumed (consumer, sequence) WHERE published_at_ms = -1;

-- Every message up to this sequence that the bus stored no later than this is consumed. There is more than one entry of
-- a consumer only where sequences or the clock went back. What `consumer_floors` says is of an earlier version; its rows
-- are what those lock who consume and those who forget.
CREATE TABLE consumed_up_to (
    consumer        text NOT NULL,
    sequence        bigint NOT NULL,
    published_at_ms bigint NOT NULL,
    PRIMARY KEY (consumer, sequence)
);

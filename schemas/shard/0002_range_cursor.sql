-- How far this shard has applied the log, per range of customers and partition of `events`.

-- Which ranges are this shard's. A shard that no longer owns a range answers `moved`.
CREATE TABLE range_owner (
    range_id int8 PRIMARY KEY,
    attempt  int8 NOT NULL DEFAULT 0,
    state    text NOT NULL CHECK (state IN ('owned', 'loading', 'moved')),
    keys     int8range NOT NULL
);

-- The sink locks these rows, in the order of the primary key, in the transaction that writes the rows; the bounds
-- it applies come from the locked row, never from a cached map. So the cursor is the fence: zombies, repeats and
-- rebalances are harmless.
CREATE TABLE range_cursor (
    partition       int4 NOT NULL,
    range_id        int8 NOT NULL,
    keys            int8range NOT NULL,
    topic_id        text NOT NULL,               -- incarnation of `events`; another one is refused
    applied_to      int8 NOT NULL DEFAULT 0,     -- next offset in `events` that is not in the rows
    resume_at       int8 NOT NULL DEFAULT 0,     -- offset in `aggregates` to read on from
    fold_version    text NOT NULL DEFAULT '',    -- '' until the first frame
    watermark_us    int8 NOT NULL DEFAULT 0,
    receive_us      int8 NOT NULL DEFAULT 0,     -- receipt of the newest applied record
    prev_receive_us int8 NOT NULL DEFAULT 0,     -- the same before the last frame
    -- all that Kafka had acknowledged by then is in the rows, though the newest record may be older: the sink's clock,
    -- moved on while it is level with the end of `events`; 0: never was
    complete_us     int8 NOT NULL DEFAULT 0,
    hold            boolean NOT NULL DEFAULT false,
    updated_at      timestamptz NOT NULL DEFAULT now(),
    PRIMARY KEY (partition, range_id)
) WITH (fillfactor = 50);                        -- rewritten with each frame: room for HOT updates

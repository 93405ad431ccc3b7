-- The rollup rows of the customers of this shard.
--
-- A value is absolute and exact to the source offset `ver`; a write replaces only what is older, so repeated and
-- reordered writes change nothing. `part` is the partition of `events` that the row was folded from; `ver`s of
-- different partitions do not compare, which is why it is part of the key.
--
-- grain: 0 minute, 1 hour, 2 day. rollup: codes of schemas/rollups.py. Times: epoch seconds, UTC.
-- generation = window_start for rows in time, else the window in which the late event arrived.
-- open: not yet added to its coarser row; a query sums coarse rows and open finer ones.

CREATE TABLE rollup_rows (
    customer_id  int8    NOT NULL,
    window_start int8    NOT NULL,
    generation   int8    NOT NULL,
    ver          int8    NOT NULL,
    events       int8    NOT NULL,
    value_e6     int8    NOT NULL,
    value_count  int8    NOT NULL,
    rollup       int2    NOT NULL,
    grain        int2    NOT NULL,
    part         int2    NOT NULL,
    open         boolean NOT NULL,
    dims         text    NOT NULL COLLATE "C",
    users        bytea   NOT NULL,           -- HyperLogLog, schemas/sketches.py
    value_hist   bytea   NOT NULL,           -- histogram of value_e6, schemas/sketches.py
    PRIMARY KEY (customer_id, rollup, grain, window_start, dims, generation, part)
) PARTITION BY LIST (grain);

CREATE TABLE rollup_rows_minute PARTITION OF rollup_rows FOR VALUES IN (0) PARTITION BY RANGE (generation);
CREATE TABLE rollup_rows_hour   PARTITION OF rollup_rows FOR VALUES IN (1) PARTITION BY RANGE (generation);
CREATE TABLE rollup_rows_day    PARTITION OF rollup_rows FOR VALUES IN (2) PARTITION BY RANGE (generation);

-- Finds the few finer rows that a long question has to add to its coarse ones. Day rows are always open and are
-- found by the key, so they do without. No other index: a covering one ends HOT updates.
CREATE INDEX rollup_rows_minute_open ON rollup_rows_minute (customer_id, rollup, window_start) WHERE open;
CREATE INDEX rollup_rows_hour_open   ON rollup_rows_hour   (customer_id, rollup, window_start) WHERE open;

-- Rows of an older generation than this are no longer kept once they are added to their coarser row: sinks do not make
-- a partition for them. Open rows are counted nowhere else and are always kept.
CREATE TABLE retention_cut (
    grain          int2 PRIMARY KEY CHECK (grain BETWEEN 0 AND 2),
    generation_min int8 NOT NULL
);

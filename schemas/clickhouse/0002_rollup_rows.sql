-- The same rows as in the Postgres shards (schemas/shard/0001_rollup_rows.sql says what the columns mean), for
-- questions over all shards and for rebuilding a lost one. The newest `ver` of a key counts: read with FINAL.
-- Partitioned by the month of the generation, so that a finer row and the coarser one it was added to lie in one
-- partition and become visible in one block.

CREATE TABLE IF NOT EXISTS rollup_rows (
    customer_id  Int64,
    rollup       UInt8,
    grain        UInt8,
    window_start Int64 CODEC(Delta, ZSTD(1)),
    dims         String,
    generation   Int64 CODEC(Delta, ZSTD(1)),
    part         UInt16,
    ver          UInt64,
    open         Bool,
    events       Int64,
    users        String CODEC(ZSTD(1)),
    value_e6     Int64,
    value_count  Int64,
    value_hist   String CODEC(ZSTD(1))
)
ENGINE = ReplacingMergeTree(ver)
PARTITION BY toYYYYMM(toDateTime(generation, 'UTC'))
ORDER BY (customer_id, rollup, grain, window_start, dims, generation, part);

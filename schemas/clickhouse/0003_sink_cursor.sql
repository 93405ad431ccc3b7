-- How far each sink has inserted each partition of the log. A row is written after the acknowledged insert that it
-- speaks of, so it may lag behind the data (a repeat collapses) and never runs ahead. The greatest position counts.

CREATE TABLE IF NOT EXISTS sink_cursor (
    sink            LowCardinality(String),     -- 'events' or 'rollups'
    topic_id        String,                     -- incarnation of the topic `events`
    log_partition   UInt16,
    next_offset     UInt64,                     -- next offset in `events` that is not inserted
    resume_at       UInt64,                     -- offset in `aggregates` to read on from
    fold_version    String,
    watermark_us    Int64,
    receive_us      Int64,
    prev_receive_us Int64,
    complete_us     Int64,                      -- all that Kafka had acknowledged by then is in; 0: never was
    updated_at      DateTime64(3, 'UTC') DEFAULT now64(3)
)
ENGINE = ReplacingMergeTree(next_offset)
ORDER BY (sink, topic_id, log_partition);

-- Raw events, each once. A row is keyed by its position in the log, so that a batch that is inserted twice
-- collapses exactly; second arrivals of a message id are left out by the sink, as the fold decided.
-- Absent text is the empty string. Read with FINAL (or LIMIT 1 BY log_partition, log_offset).

CREATE TABLE IF NOT EXISTS events (
    customer_id     Int64,
    timestamp       DateTime64(6, 'UTC') CODEC(Delta, ZSTD(1)),   -- clamped as the fold clamps it
    name            LowCardinality(String),
    type            LowCardinality(String),
    message_id      String,
    user_id         String,
    anonymous_id    String,
    -- the user that HyperLogLog counts: xxh64 of user_id, else of anonymous_id; 0: none
    user_hash       UInt64 DEFAULT if(user_id != '', xxHash64(user_id), if(anonymous_id != '', xxHash64(anonymous_id), 0)),
    group_id        String,
    previous_id     String,
    session_id      String,
    path            LowCardinality(String),
    referrer_domain LowCardinality(String),
    utm_source      LowCardinality(String),
    utm_medium      LowCardinality(String),
    utm_campaign    LowCardinality(String),
    country         LowCardinality(String),
    browser         LowCardinality(String),
    os              LowCardinality(String),
    device          LowCardinality(String),
    value_e6        Nullable(Int64),
    currency        LowCardinality(String),
    properties      String CODEC(ZSTD(1)),
    context         String CODEC(ZSTD(1)),
    protocol        LowCardinality(String),
    library         LowCardinality(String),
    attempt         Int32,
    received_at     DateTime64(6, 'UTC') CODEC(Delta, ZSTD(1)),   -- the gateway's clock
    original_timestamp Nullable(DateTime64(6, 'UTC')),
    sent_at         Nullable(DateTime64(6, 'UTC')),
    stored_at       DateTime64(6, 'UTC') CODEC(Delta, ZSTD(1)),   -- the broker's clock, at the append
    log_partition   UInt16,
    log_offset      UInt64 CODEC(Delta, ZSTD(1))
)
ENGINE = ReplacingMergeTree
PARTITION BY toYYYYMM(timestamp)
ORDER BY (customer_id, toDate(timestamp), name, log_partition, log_offset);

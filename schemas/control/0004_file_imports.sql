-- Files that `headrace backfill` has loaded or is loading: the same content for the same customer is refused a
-- second time, and an interrupted import goes on where it was acknowledged.

CREATE TABLE file_imports (
    import_id    int8 GENERATED ALWAYS AS IDENTITY PRIMARY KEY,
    customer_id  int8 NOT NULL REFERENCES customers ON DELETE CASCADE,
    file_hash    text NOT NULL,                  -- SHA-256 of the file's bytes, hex
    mapping_hash text NOT NULL DEFAULT '',       -- the mapping it was read by
    run          int4 NOT NULL DEFAULT 1,        -- grows with each `--again`
    file_name    text NOT NULL,
    next_row     int8 NOT NULL DEFAULT 0,        -- rows before this one are acknowledged by Kafka
    rows_rejected int8 NOT NULL DEFAULT 0,
    state        text NOT NULL DEFAULT 'running' CHECK (state IN ('running', 'complete')),
    started_at   timestamptz NOT NULL DEFAULT now(),
    updated_at   timestamptz NOT NULL DEFAULT now(),
    UNIQUE (customer_id, file_hash, run)
);

-- Which shard holds which customers. The address of a shard stands here and nowhere else; its credentials never do.

CREATE TABLE shards (
    shard_id   text PRIMARY KEY CHECK (shard_id ~ '^[a-z0-9][a-z0-9_-]{0,62}$'),
    address    text NOT NULL UNIQUE,    -- host:port/dbname
    created_at timestamptz NOT NULL DEFAULT now()
);

-- The ranges cover all of int8 and never overlap. They arise by the first deal and after that only by split.
-- Each change is a compare-and-set on `epoch`, which grows over the whole map.
CREATE TABLE shard_map (
    range_id int8 PRIMARY KEY,
    keys     int8range NOT NULL CHECK (NOT isempty(keys)),
    shard_id text NOT NULL REFERENCES shards,
    epoch    int8 NOT NULL,
    EXCLUDE USING gist (keys WITH &&)
);

CREATE FUNCTION notify_shard_map() RETURNS trigger LANGUAGE plpgsql AS $$
BEGIN
    PERFORM pg_notify('headrace_shard_map', '');
    RETURN NULL;
END $$;
CREATE TRIGGER shard_map_changed AFTER INSERT OR UPDATE OR DELETE ON shard_map
    FOR EACH STATEMENT EXECUTE FUNCTION notify_shard_map();
CREATE TRIGGER shards_changed AFTER UPDATE ON shards
    FOR EACH STATEMENT EXECUTE FUNCTION notify_shard_map();

-- Customers (the tenants) and their write keys.

CREATE TABLE customers (
    customer_id int8 PRIMARY KEY CHECK (customer_id > 0),
    name        text NOT NULL CHECK (length(name) BETWEEN 1 AND 200),
    -- whether the gateway keeps the sender's full address in the event's context
    keep_ip     boolean NOT NULL DEFAULT true,
    created_at  timestamptz NOT NULL DEFAULT now()
);

-- Whose turn it is among the ranges of the shard map: ids are dealt round-robin, so that the newest customers do
-- not all land on one shard. One row; its lock also serialises the creation of customers.
CREATE TABLE customer_deal (
    singleton boolean PRIMARY KEY DEFAULT true CHECK (singleton),
    turn int8 NOT NULL DEFAULT 0
);
INSERT INTO customer_deal DEFAULT VALUES;

-- A write key only ingests. Its secret is shown once, at its creation; kept is the SHA-256 of it (the secret has
-- 192 random bits, so a plain hash cannot be searched back).
CREATE TABLE write_keys (
    key_hash    bytea PRIMARY KEY CHECK (octet_length(key_hash) = 32),
    -- what is shown of the secret afterwards, to tell keys apart
    hint        text NOT NULL,
    customer_id int8 NOT NULL REFERENCES customers ON DELETE CASCADE,
    label       text NOT NULL DEFAULT '' CHECK (length(label) <= 200),
    created_at  timestamptz NOT NULL DEFAULT now(),
    revoked_at  timestamptz
);
CREATE INDEX write_keys_customer ON write_keys (customer_id);

-- Gateways may LISTEN to hear of a revocation before their cache runs out. Payload: the key's hash in hex.
CREATE FUNCTION notify_write_key() RETURNS trigger LANGUAGE plpgsql AS $$
BEGIN
    PERFORM pg_notify('headrace_write_keys', encode(OLD.key_hash, 'hex'));
    RETURN NULL;
END $$;
CREATE TRIGGER write_keys_changed AFTER UPDATE OR DELETE ON write_keys
    FOR EACH ROW EXECUTE FUNCTION notify_write_key();

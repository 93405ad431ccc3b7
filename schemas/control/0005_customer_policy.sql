-- What a customer has decided about its data, and what the operator grants it: see headrace/shards/policy.py for the
-- document's fields. Gateways read it together with the write key and trust it as long.
ALTER TABLE customers ADD COLUMN policy jsonb NOT NULL DEFAULT '{}' CHECK (jsonb_typeof(policy) = 'object');
UPDATE customers SET policy = '{"address": "drop"}' WHERE NOT keep_ip;
ALTER TABLE customers DROP COLUMN keep_ip;

-- The events that a customer means to send: JSON Schema by event name (see producers/gateway/plan.py). `version` grows
-- with each change, so that what was compiled from an older one is recognised.
CREATE TABLE tracking_plans (
    customer_id int8 PRIMARY KEY REFERENCES customers ON DELETE CASCADE,
    version     int8 NOT NULL DEFAULT 1 CHECK (version > 0),
    plan        jsonb NOT NULL CHECK (jsonb_typeof(plan) = 'object'),
    updated_at  timestamptz NOT NULL DEFAULT now()
);

-- The API reads as `headrace_reader`, a role that row-level security binds to one customer per transaction:
--     SET LOCAL headrace.customer_id = '42';
-- Without it nothing is visible. Grants are on the parent alone: a partition cannot be read around the policy.

ALTER TABLE rollup_rows ENABLE ROW LEVEL SECURITY;
CREATE POLICY rollup_rows_of_one_customer ON rollup_rows FOR SELECT TO headrace_reader
    USING (customer_id = nullif(current_setting('headrace.customer_id', true), '')::int8);

GRANT USAGE ON SCHEMA public TO headrace_reader;
GRANT SELECT ON rollup_rows TO headrace_reader;
-- positions and retention: they say how complete an answer is and hold nothing of any customer
GRANT SELECT ON range_cursor, range_owner, retention_cut TO headrace_reader;

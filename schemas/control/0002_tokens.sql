-- API tokens and the keys that sign them. The tokens themselves are never stored: the signature proves them, and
-- this table says whether a token was issued by us and is not revoked.

CREATE TABLE signing_keys (
    kid        text PRIMARY KEY,
    public_pem text NOT NULL,
    created_at timestamptz NOT NULL DEFAULT now(),
    -- signs nothing new from then on; still verifies what it signed
    retired_at timestamptz
);

CREATE TABLE api_tokens (
    jti         text PRIMARY KEY,
    -- NULL: an administrator's token, which belongs to no customer
    customer_id int8 REFERENCES customers ON DELETE CASCADE,
    scope       text NOT NULL CHECK (scope IN ('read', 'admin')),
    issued_at   timestamptz NOT NULL DEFAULT now(),
    expires_at  timestamptz NOT NULL,
    revoked_at  timestamptz,
    CHECK ((scope = 'admin') = (customer_id IS NULL))
);
CREATE INDEX api_tokens_expiry ON api_tokens (expires_at);

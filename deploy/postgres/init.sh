#!/bin/bash
# Roles of a Headrace database, made when its volume is empty. Neither role is a superuser and neither may bypass
# row-level security: the API reads shards as headrace_reader and sees one customer at a time.
set -euo pipefail
psql -v ON_ERROR_STOP=1 --username "$POSTGRES_USER" --dbname "$POSTGRES_DB" \
    -v owner_password="$HEADRACE_PASSWORD" -v reader_password="$HEADRACE_READER_PASSWORD" -v database="$POSTGRES_DB" <<'SQL'
CREATE ROLE headrace LOGIN NOSUPERUSER NOBYPASSRLS NOCREATEROLE NOCREATEDB PASSWORD :'owner_password';
CREATE ROLE headrace_reader LOGIN NOSUPERUSER NOBYPASSRLS NOCREATEROLE NOCREATEDB PASSWORD :'reader_password';
ALTER DATABASE :"database" OWNER TO headrace;
REVOKE ALL ON DATABASE :"database" FROM PUBLIC;
GRANT CONNECT ON DATABASE :"database" TO headrace_reader;
ALTER SCHEMA public OWNER TO headrace;
GRANT USAGE ON SCHEMA public TO headrace_reader;
SQL

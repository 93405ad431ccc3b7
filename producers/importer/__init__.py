"""The file importer: CSV, NDJSON and access logs into `events`, resumable, without doubling."""

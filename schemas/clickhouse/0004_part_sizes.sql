-- What an insert every second or two costs: at 14,000 events/s these settings took ClickHouse from 20 to 14 µs of
-- processor time an event, and from growing to level (docs/decisions/0008-where-the-pipeline-spends-its-time.md).
--
-- A part below 256 MiB keeps all columns in one file. With ClickHouse's own limit of 10 MiB every insert of a few ten
-- thousand events made some 150 files, and each merge of such parts again. Parts that were merged a few times are
-- wide as ever, which is what reads them fast.
--
-- Ten parts are merged at a time, not two or three: a row is written again once where it was two or three times. A
-- month has up to some twenty small parts then, which FINAL reads together.

ALTER TABLE events MODIFY SETTING min_bytes_for_wide_part = 268435456, min_parts_to_merge_at_once = 10;

ALTER TABLE rollup_rows MODIFY SETTING min_bytes_for_wide_part = 268435456, min_parts_to_merge_at_once = 10;

-- A part below 256 MiB keeps all columns in one file. With ClickHouse's own limit of 10 MiB every insert of a few ten
-- thousand events made some 150 files, and each merge of such parts again: a third of ClickHouse's processor time went
-- into the file system. Parts that have been merged a few times are wide as ever, which is what reads them fast.

ALTER TABLE events MODIFY SETTING min_bytes_for_wide_part = 268435456;

ALTER TABLE rollup_rows MODIFY SETTING min_bytes_for_wide_part = 268435456;

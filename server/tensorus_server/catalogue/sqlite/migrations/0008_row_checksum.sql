-- A checksum over all columns of a row, not only over those that locate a payload; see row_checksum.py. `steps.py` gives
-- the rows that are there theirs, after this. The new name also keeps out processes of older versions that have the file
-- open still: what they commit would be without one.

ALTER TABLE tensor RENAME COLUMN row_crc TO row_checksum;
ALTER TABLE dataset ADD COLUMN row_checksum INTEGER NOT NULL DEFAULT -1; -- -1 is there for ALTER TABLE alone, and no checksum
ALTER TABLE upload ADD COLUMN row_checksum INTEGER NOT NULL DEFAULT -1;

-- Adds a checksum over all columns of a row, not only over those that locate a payload; see `row_checksum.py`. Afterwards,
-- `migration_steps.py` computes the checksums of existing rows. A process of an older version that still has the file open
-- does not know the new column's name, so its commits, which would lack the checksum, fail.

ALTER TABLE tensor RENAME COLUMN row_crc TO row_checksum;
ALTER TABLE dataset ADD COLUMN row_checksum INTEGER NOT NULL DEFAULT -1; -- only ALTER TABLE needs the default; -1 is no checksum
ALTER TABLE upload ADD COLUMN row_checksum INTEGER NOT NULL DEFAULT -1;

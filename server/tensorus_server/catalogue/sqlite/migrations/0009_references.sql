-- A tensor that was changed shares payloads with its earlier generations, so one payload may serve several rows. The row itself
-- has the key of its newest payload.

CREATE TABLE reference (
  key TEXT NOT NULL, -- of a payload that the tensor needs beside its own
  seq INTEGER NOT NULL, -- the tensor's generation
  PRIMARY KEY (key, seq)
) STRICT, WITHOUT ROWID;

CREATE INDEX reference_seq ON reference (seq);

-- A process of an older version may have the file open still, and does not know of references: no payload that one needs is
-- marked for deletion, whoever tries.
CREATE TRIGGER tombstone_unreferenced BEFORE INSERT ON tombstone
WHEN EXISTS (SELECT 1 FROM reference JOIN tensor USING (seq) WHERE reference.key = new.key)
BEGIN
  SELECT raise(IGNORE);
END;

-- Chunk details of the same chunks as `entries`, and their CRC32C before them; NULL: saved by an older version.
ALTER TABLE upload_chunks ADD COLUMN details BLOB;

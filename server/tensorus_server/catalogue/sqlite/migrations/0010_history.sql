-- Rows of tensors that were replaced or deleted stay readable while a snapshot or the dataset's retention needs them; several rows
-- may refer to one payload, also of different tensors; and a payload may need another one to be decoded.

ALTER TABLE dataset ADD COLUMN retention_us INTEGER NOT NULL DEFAULT 0; -- how long replaced and deleted tensors stay readable

CREATE TABLE snapshot (
  ds INTEGER NOT NULL REFERENCES dataset (ds),
  name TEXT NOT NULL,
  generation INTEGER NOT NULL, -- the tensors of the snapshot have smaller ones; no tensor has this one
  created_us INTEGER NOT NULL,
  row_checksum INTEGER NOT NULL,
  PRIMARY KEY (ds, name)
) STRICT, WITHOUT ROWID;

CREATE INDEX snapshot_generation ON snapshot (ds, generation);

-- For each dataset that has lost a state: the first generation since when every state can be read.
CREATE TABLE history (
  ds INTEGER PRIMARY KEY,
  complete_from INTEGER NOT NULL,
  complete_us INTEGER, -- when that generation was assigned; NULL: not known, because a state was lost since
  prune INTEGER NOT NULL DEFAULT 0 -- 1: past rows may no longer be needed, because a snapshot was dropped or the retention
                                   -- changed; 2: they are being looked through
) STRICT;

-- Rows that were in the table tensor, and are visible up to, but not including, the generation at the end. Without constraints, so
-- that a damaged row can be moved as it is.
CREATE TABLE past_tensor (
  seq INTEGER PRIMARY KEY,
  ds INTEGER, id TEXT, dtype TEXT, dtype_number INTEGER, element_bytes INTEGER, shape TEXT, rank INTEGER, nbytes INTEGER,
  quantized_bytes INTEGER, stored_bytes INTEGER, relative_error REAL, max_absolute_error REAL, lossy INTEGER, encodings TEXT,
  fallback_reason TEXT, chunk_bytes INTEGER, created_us INTEGER, "min" REAL, "max" REAL, mean REAL, standard_deviation REAL,
  l2_norm REAL, zero_count INTEGER, nan_count INTEGER, infinity_count INTEGER, policy TEXT, source_algorithm TEXT,
  source_checksum BLOB, source_crc INTEGER, value_algorithm TEXT, value_checksum BLOB, inline INTEGER, key TEXT, offset INTEGER,
  length INTEGER, index_length INTEGER, index_crc INTEGER, row_checksum INTEGER, metadata TEXT, ordinal INTEGER,
  until_generation INTEGER NOT NULL,
  until_us INTEGER NOT NULL -- when it was replaced or deleted
);

CREATE INDEX past_tensor_id ON past_tensor (ds, id, seq);
CREATE INDEX past_tensor_created ON past_tensor (ds, seq);
CREATE INDEX past_tensor_until ON past_tensor (ds, until_generation);
CREATE INDEX past_tensor_key ON past_tensor (key) WHERE inline = 0;

CREATE TABLE past_payload (
  seq INTEGER PRIMARY KEY REFERENCES past_tensor (seq) ON DELETE CASCADE,
  bytes BLOB NOT NULL
) STRICT;

CREATE TABLE past_attr (
  seq INTEGER NOT NULL REFERENCES past_tensor (seq) ON DELETE CASCADE,
  key TEXT NOT NULL,
  ordinal INTEGER NOT NULL,
  ds INTEGER NOT NULL,
  num REAL,
  txt TEXT,
  PRIMARY KEY (seq, key, ordinal)
) STRICT, WITHOUT ROWID;

CREATE INDEX past_attr_num ON past_attr (ds, key, num, seq);
CREATE INDEX past_attr_txt ON past_attr (ds, key, txt, seq) WHERE txt IS NOT NULL;

-- Which tensors have the same bytes, dtype, shape and policy. Only tensors with a payload in the chunk store are listed.
CREATE TABLE content (
  digest BLOB NOT NULL, -- of all four
  seq INTEGER NOT NULL,
  PRIMARY KEY (digest, seq)
) STRICT, WITHOUT ROWID;

CREATE INDEX content_seq ON content (seq);

-- Payloads with chunks that are stored as differences to chunks of other payloads.
CREATE TABLE payload_base (
  base TEXT NOT NULL, -- the key of a payload that must not be deleted before the other one
  key TEXT NOT NULL,
  PRIMARY KEY (base, key)
) STRICT, WITHOUT ROWID;

CREATE INDEX payload_base_key ON payload_base (key);

-- Triggers, so that a process of an older version that has the file open keeps these promises, too.

CREATE TRIGGER tensor_kept BEFORE DELETE ON tensor
WHEN EXISTS (SELECT 1 FROM dataset WHERE ds = old.ds AND retention_us > 0 AND deleted_us IS NULL)
  OR EXISTS (SELECT 1 FROM snapshot WHERE ds = old.ds AND generation > old.seq)
BEGIN
  -- A generation of its own, so that the states before and after are told apart.
  UPDATE sqlite_sequence SET seq = seq + 1 WHERE name = 'tensor';
  INSERT INTO past_tensor
  SELECT
    seq, ds, id, dtype, dtype_number, element_bytes, shape, rank, nbytes, quantized_bytes, stored_bytes, relative_error,
    max_absolute_error, lossy, encodings, fallback_reason, chunk_bytes, created_us, "min", "max", mean, standard_deviation,
    l2_norm, zero_count, nan_count, infinity_count, policy, source_algorithm, source_checksum, source_crc, value_algorithm,
    value_checksum, inline, key, offset, length, index_length, index_crc, row_checksum, metadata, ordinal,
    -- SQLite's clock has milliseconds. The end of one is meant: at the exact time of a snapshot or an insert that came before in
    -- the same millisecond, the tensor was still there.
    (SELECT seq FROM sqlite_sequence WHERE name = 'tensor'), CAST(round(unixepoch('subsec') * 1000) AS INTEGER) * 1000 + 999
  FROM tensor WHERE seq = old.seq;
  INSERT INTO past_payload SELECT seq, bytes FROM payload WHERE seq = old.seq;
  INSERT INTO past_attr SELECT seq, key, ordinal, ds, num, txt FROM attr WHERE seq = old.seq;
END;

-- A tensor that replaces another one is visible from its own generation, which was assigned before that of the deletion.
CREATE TRIGGER tensor_replaced AFTER INSERT ON tensor
WHEN EXISTS (SELECT 1 FROM past_tensor WHERE ds = new.ds AND id = new.id AND until_generation > new.seq)
BEGIN
  UPDATE past_tensor SET until_generation = new.seq, until_us = new.created_us
  WHERE ds = new.ds AND id = new.id AND until_generation > new.seq;
END;

CREATE TRIGGER tensor_forgotten AFTER DELETE ON tensor
WHEN old.seq NOT IN (SELECT seq FROM past_tensor)
  AND NOT EXISTS (
    SELECT 1 FROM history
    WHERE ds = old.ds AND complete_from > (SELECT seq FROM sqlite_sequence WHERE name = 'tensor')
  )
BEGIN
  INSERT INTO history (ds, complete_from) VALUES (old.ds, (SELECT seq + 1 FROM sqlite_sequence WHERE name = 'tensor'))
  ON CONFLICT (ds) DO UPDATE SET complete_from = excluded.complete_from, complete_us = NULL;
END;

CREATE TRIGGER content_forgotten AFTER DELETE ON tensor
WHEN old.inline = 0 AND old.seq NOT IN (SELECT seq FROM past_tensor)
BEGIN
  DELETE FROM content WHERE seq = old.seq;
END;

CREATE TRIGGER past_tensor_forgotten AFTER DELETE ON past_tensor
BEGIN
  DELETE FROM content WHERE seq = old.seq;
  INSERT INTO history (ds, complete_from, complete_us)
  SELECT old.ds, old.until_generation, old.until_us WHERE typeof(old.ds) = 'integer'
  ON CONFLICT (ds) DO UPDATE SET
    complete_us = CASE WHEN excluded.complete_from > complete_from THEN excluded.complete_us ELSE complete_us END,
    complete_from = max(complete_from, excluded.complete_from);
END;

CREATE TRIGGER reference_kept BEFORE DELETE ON reference
WHEN EXISTS (SELECT 1 FROM past_tensor WHERE seq = old.seq)
BEGIN
  SELECT raise(IGNORE);
END;

DROP TRIGGER tombstone_unreferenced;

CREATE TRIGGER tombstone_unreferenced BEFORE INSERT ON tombstone
WHEN EXISTS (SELECT 1 FROM reference JOIN tensor USING (seq) WHERE reference.key = new.key)
  OR EXISTS (SELECT 1 FROM reference JOIN past_tensor USING (seq) WHERE reference.key = new.key)
  OR EXISTS (SELECT 1 FROM past_tensor WHERE key = new.key AND inline = 0)
  OR EXISTS (SELECT 1 FROM payload_base WHERE base = new.key)
BEGIN
  SELECT raise(IGNORE);
END;

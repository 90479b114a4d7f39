-- Adds ordinals: each tensor's number within its dataset, from 1 in commit order, never reused. Existing tensors are numbered
-- in the order of their commits. Tensors that were deleted before left no trace, so there are no gaps.

ALTER TABLE dataset ADD COLUMN last_ordinal INTEGER NOT NULL DEFAULT 0; -- of the newest tensor ever committed to the dataset
ALTER TABLE tensor ADD COLUMN ordinal INTEGER NOT NULL DEFAULT 0; -- only ALTER TABLE needs the default

UPDATE tensor SET ordinal = numbered.ordinal
FROM (SELECT seq, row_number() OVER (PARTITION BY ds ORDER BY seq) AS ordinal FROM tensor) AS numbered
WHERE tensor.seq = numbered.seq;

UPDATE dataset SET last_ordinal = (SELECT coalesce(max(ordinal), 0) FROM tensor WHERE tensor.ds = dataset.ds);

-- A process of an older version may still have the file open. Its commits have no ordinals, so they fail.
CREATE TRIGGER tensor_numbered BEFORE INSERT ON tensor WHEN new.ordinal < 1
BEGIN
  SELECT raise(ABORT, 'a tensor without an ordinal: an older version of Tensorus has the catalogue open');
END;

-- Every tensor's number within its dataset, from 1 in the order of commit, never reused. Those that are there are
-- numbered as they were committed; what was deleted before has left no trace, so that there are no gaps.

ALTER TABLE dataset ADD COLUMN last_ordinal INTEGER NOT NULL DEFAULT 0; -- of the newest tensor ever committed into it
ALTER TABLE tensor ADD COLUMN ordinal INTEGER NOT NULL DEFAULT 0; -- 0 is there for ALTER TABLE alone

UPDATE tensor SET ordinal = numbered.ordinal
FROM (SELECT seq, row_number() OVER (PARTITION BY ds ORDER BY seq) AS ordinal FROM tensor) AS numbered
WHERE tensor.seq = numbered.seq;

UPDATE dataset SET last_ordinal = (SELECT coalesce(max(ordinal), 0) FROM tensor WHERE tensor.ds = dataset.ds);

-- A process of an older version may have the file open still: without numbers, its commits fail.
CREATE TRIGGER tensor_numbered BEFORE INSERT ON tensor WHEN new.ordinal < 1
BEGIN
  SELECT raise(ABORT, 'a tensor without an ordinal: an older version of Tensorus has the catalogue open');
END;

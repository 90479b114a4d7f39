-- What the first announcement of an upload said, which every later stream of the request is held to, and what its insert did.
-- NULL: begun, or ended, by an older version of Tensorus.

ALTER TABLE upload ADD COLUMN announced TEXT; -- JSON: metadata, policy, source checksum, and what may be replaced
ALTER TABLE upload ADD COLUMN outcome TEXT; -- NULL: on its way, too

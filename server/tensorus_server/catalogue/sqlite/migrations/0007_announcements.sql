-- Adds the first announcement of an upload, which applies to every later stream of the request, and the outcome of its insert.
-- NULL: an older version of Tensorus began or completed the upload.

ALTER TABLE upload ADD COLUMN announced TEXT; -- JSON: metadata, policy, source checksum, and which tensor may be replaced
ALTER TABLE upload ADD COLUMN outcome TEXT; -- NULL also means: not complete

-- Which store this is, and how new this copy of it is: the chunk store carries the same beside the payloads.

CREATE TABLE store (
  only INTEGER PRIMARY KEY CHECK (only = 1),
  id TEXT NOT NULL, -- 128 random bits
  epoch INTEGER NOT NULL, -- raised as catalogue/sqlite/epoch.py says
  listed_us INTEGER NOT NULL -- when the chunk store was last listed for payloads that nothing knows
) STRICT;

-- Payloads that nothing knows were swept every minute until now: there is time for the first listing.
INSERT INTO store VALUES (1, lower(hex(randomblob(16))), 1, unixepoch() * 1000000);

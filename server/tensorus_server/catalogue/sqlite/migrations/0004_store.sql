-- Adds the store's identity: its id, and an epoch that shows how new this copy is. The chunk store has both next to the payloads.

CREATE TABLE store (
  only INTEGER PRIMARY KEY CHECK (only = 1),
  id TEXT NOT NULL, -- 128 random bits
  epoch INTEGER NOT NULL, -- raised as catalogue/sqlite/epoch.py says
  listed_us INTEGER NOT NULL -- when the chunk store was last listed for payloads that nothing knows
) STRICT;

-- Until now, unknown payloads were swept every minute, so the first listing can wait.
INSERT INTO store VALUES (1, lower(hex(randomblob(16))), 1, unixepoch() * 1000000);

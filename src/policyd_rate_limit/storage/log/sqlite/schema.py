"""The tables of an SQLite file."""

from __future__ import annotations

SCHEMA = (
    """CREATE TABLE IF NOT EXISTS policyd_batch (
    seq INTEGER PRIMARY KEY,  -- the order of the batches
    date INTEGER NOT NULL,    -- Unix second
    writer INTEGER NOT NULL,  -- the run of a daemon that decided the batch
    number INTEGER NOT NULL,  -- grows with each batch of a writer
    size INTEGER NOT NULL,    -- how many entries
    entries TEXT NOT NULL     -- JSON: [[counter, amount, date (0: that of the row), mail, part], ...]
)""",
    """CREATE VIEW IF NOT EXISTS policyd_entry AS
SELECT json_extract(value, '$[0]') AS counter,
       json_extract(value, '$[1]') AS amount,
       coalesce(nullif(json_extract(value, '$[2]'), 0), batch.date) AS date
  FROM policyd_batch AS batch, json_each(batch.entries)""",
    """CREATE TABLE IF NOT EXISTS policyd_override (
    id TEXT PRIMARY KEY,      -- a digest of the counter
    counter TEXT NOT NULL,    -- JSON
    limits TEXT NOT NULL,     -- JSON: [[mails, seconds], ...]
    expires INTEGER NOT NULL, -- Unix second
    note TEXT NOT NULL,       -- JSON
    stamp INTEGER NOT NULL    -- random, new with each change
)""",
    """CREATE TABLE IF NOT EXISTS policyd_hit (
    id TEXT,                  -- a digest of the counter
    seconds INTEGER,          -- the window
    counter TEXT NOT NULL,    -- JSON
    hits INTEGER NOT NULL,
    last INTEGER NOT NULL,    -- Unix second
    PRIMARY KEY (id, seconds)
)""",
    """CREATE TABLE IF NOT EXISTS policyd_window (
    id TEXT PRIMARY KEY,      -- a run of a daemon, at random
    seconds INTEGER NOT NULL, -- the longest window that it judges by
    expires INTEGER NOT NULL  -- Unix second
)""",
    """CREATE TABLE IF NOT EXISTS policyd_installation (
    id INTEGER PRIMARY KEY CHECK (id = 1),
    identity TEXT NOT NULL    -- random, made once; stays when the file is copied or made anew
)""",
)

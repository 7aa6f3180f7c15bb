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
    """CREATE TABLE IF NOT EXISTS policyd_hit_history (
    hour INTEGER,             -- Unix second in which it began
    origin INTEGER,           -- 0, or the number by which copies know where it was brought from
    id TEXT,                  -- a digest of the counter
    seconds INTEGER,          -- of the limit
    maximum INTEGER,          -- likewise
    kind TEXT,                -- refused, marked, would-refuse, blocked, would-block
    counter TEXT NOT NULL,    -- JSON
    hits INTEGER NOT NULL,
    first INTEGER NOT NULL,   -- Unix second
    last INTEGER NOT NULL,    -- likewise
    queue_id TEXT NOT NULL,   -- JSON, of the last one
    details TEXT NOT NULL,    -- JSON: [queue_id, client_address, sender, recipient, instance]
    PRIMARY KEY (hour, origin, id, seconds, maximum, kind)
)""",
    "CREATE INDEX IF NOT EXISTS policyd_hit_history_id ON policyd_hit_history (id, hour)",
    """CREATE TABLE IF NOT EXISTS policyd_audit (
    number INTEGER PRIMARY KEY AUTOINCREMENT,
    date INTEGER NOT NULL,    -- Unix second
    who TEXT NOT NULL,        -- JSON
    from_where TEXT NOT NULL, -- JSON
    action TEXT NOT NULL,
    subject TEXT NOT NULL,    -- JSON: a counter, or what else was changed
    detail TEXT NOT NULL,     -- JSON
    note TEXT NOT NULL,       -- JSON
    origin INTEGER NOT NULL,  -- 0, or the number by which copies know where it was brought from
    original INTEGER,         -- the number that it had there
    UNIQUE (origin, original)
)""",
    """CREATE TABLE IF NOT EXISTS policyd_daemon (
    id TEXT PRIMARY KEY,      -- a run of a daemon, at random
    place TEXT NOT NULL,      -- a digest of its host and its socket
    heard INTEGER NOT NULL,   -- Unix second in which it said so last
    words TEXT NOT NULL       -- JSON: [host, socket, version, process, Unix second of its start, batches that wait]
)""",
    """CREATE TABLE IF NOT EXISTS policyd_installation (
    id INTEGER PRIMARY KEY CHECK (id = 1),
    identity TEXT NOT NULL    -- random, made once; stays when the file is copied or made anew
)""",
)

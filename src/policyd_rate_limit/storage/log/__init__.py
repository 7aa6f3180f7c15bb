"""The store that decides in memory, and appends to a batch table in SQLite, PostgreSQL or MySQL."""

"""The batch table in an SQLite file, shared by all daemons of one machine."""

"""The store over a log in a database, SQLite, PostgreSQL or MySQL: decided in memory, kept as rows."""

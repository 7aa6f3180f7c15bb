"""The names of the database back ends that existing ``.conf`` files import."""

SQLITE_DB = 0
MYSQL_DB = 1
PGSQL_DB = 2

"""What rules look up by id: the limits that a query finds in a database."""

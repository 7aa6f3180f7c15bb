"""The store in Redis or Valkey, which decides on the server."""

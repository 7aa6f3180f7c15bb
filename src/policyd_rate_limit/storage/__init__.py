"""Keeping what was decided: durable, shared between daemons, and while the database is away."""

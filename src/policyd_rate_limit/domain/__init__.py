"""Deciding, without touching the world: no I/O, no clock, no logging."""

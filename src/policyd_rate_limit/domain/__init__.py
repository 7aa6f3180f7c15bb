"""What the program knows without touching the world: no I/O, no clock, no logging."""

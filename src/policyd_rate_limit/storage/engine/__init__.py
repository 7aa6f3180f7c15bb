"""What keeps a store in use: the thread it lives in, its batches, its liveness, and what waits while it is away."""

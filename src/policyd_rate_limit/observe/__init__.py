"""What an administrator sees of the daemon's work: the lines about decisions, and the metrics."""

"""What is reported of who ran into a limit, how it reads, and how it is sent."""

"""What the daemon asks of the operating system: accounts, directories, the pidfile, sockets, the log."""

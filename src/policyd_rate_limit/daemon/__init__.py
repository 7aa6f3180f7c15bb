"""The daemon: how it starts, of which parts it is made, how it reloads its configuration, how it ends."""

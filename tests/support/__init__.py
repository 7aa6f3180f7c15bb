"""What several test modules share: starting the daemon and talking to it as Postfix does."""

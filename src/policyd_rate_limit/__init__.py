"""A Postfix policy server that limits how many mails each user, sender or client address sends."""

__version__ = "2.0.0.dev0"

"""The command ``policyd-rate-limit``."""

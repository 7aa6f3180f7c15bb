"""The Postfix policy delegation protocol."""

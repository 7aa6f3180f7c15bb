"""Mails of ours: how they are written, and how a server gets them."""

"""Rehearsing: what limits would have done with the mails of the past, before they are in force."""

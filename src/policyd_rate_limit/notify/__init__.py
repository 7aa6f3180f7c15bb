"""Alerts, sent as soon as somebody runs into a limit: by mail, to a program, to a URL."""

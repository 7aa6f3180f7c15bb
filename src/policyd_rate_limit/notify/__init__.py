"""Alerts: that somebody has just run into a limit, told at once by mail, to a program, to a URL."""

"""Plots as SVG, from figures alone: no script, no colour that a reader must tell apart, and all text escaped."""

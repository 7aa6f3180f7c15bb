"""Fuzzing of whatever reads bytes that others have written; `make fuzz` runs it, see CONTRIBUTING.md."""

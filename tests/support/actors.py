"""Who asks for changes in the tests."""

from __future__ import annotations

from policyd_rate_limit.storage.administration import Actor

TESTER = Actor("tester", "shell on test")

"""Counting what code does, where a stopwatch would tell of the machine instead."""

from __future__ import annotations

import gc
import socket
import sqlite3
import sys
from collections.abc import Callable
from types import FrameType
from typing import Any

import pytest

from support.tcp_proxy import TcpProxy


def instructions(call: Callable[[], object]) -> int:
    """How many instructions of Python's own the interpreter carries out in ``call``, in this thread.

    Without those of the garbage collector, whose callbacks (Hypothesis has one) run whenever it pleases. From Python
    3.12 on a function that is counted for the first time in a process may come out too small: whoever compares two
    counts lets the same code be counted once before.
    """
    counted = 0

    def count(_frame: FrameType, event: str, _arg: object) -> Any:
        nonlocal counted
        if event == "opcode":
            counted += 1
        return count

    def enter(frame: FrameType, _event: str, _arg: object) -> Any:
        frame.f_trace_opcodes = True
        frame.f_trace_lines = False
        return count

    before = sys.gettrace()  # of whoever measures coverage
    collects = gc.isenabled()
    gc.disable()
    sys.settrace(enter)
    try:
        call()
    finally:
        sys.settrace(before)
        if collects:
            gc.enable()
    return counted


def statements_of_sqlite(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """The statements of all connections to SQLite that are opened from here on; they grow while one looks."""
    statements: list[str] = []
    connect = sqlite3.connect

    def connect_and_listen(*arguments: Any, **options: Any) -> sqlite3.Connection:
        connection: sqlite3.Connection = connect(*arguments, **options)
        connection.set_trace_callback(statements.append)
        return connection

    monkeypatch.setattr(sqlite3, "connect", connect_and_listen)
    return statements


class CountingProxy(TcpProxy):
    """Counts the bytes of requests, and how often somebody asked and then waited for the answer."""

    def __init__(self, target: tuple[str, int]) -> None:
        self.bytes = 0
        self.trips = 0
        self._answered = True
        super().__init__(target)

    def reset(self) -> None:
        """Count from zero."""
        self.bytes = self.trips = 0
        self._answered = True

    def _request(self, piece: bytes) -> bytes | None:
        self.bytes += len(piece)
        self.trips += self._answered
        self._answered = False
        return super()._request(piece)

    def _answer(self, server: socket.socket, piece: bytes) -> bytes | None:
        self._answered = True
        return super()._answer(server, piece)

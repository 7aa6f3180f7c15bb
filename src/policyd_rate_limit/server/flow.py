"""Flow control of one connection: what may go in each direction."""

from __future__ import annotations

from typing import TYPE_CHECKING, Final

if TYPE_CHECKING:
    import asyncio

MAX_UNREAD: Final = 4_096  # bytes of answers that a client has not read, besides what the kernel keeps of them


class FlowControl:
    """Reading is paused by us, where more has come than may be asked; writing by a client that reads no answers."""

    def __init__(self) -> None:
        self.writing_paused = False
        self._reading_paused = False
        self._transport: asyncio.Transport | None = None

    def attach(self, transport: asyncio.Transport) -> None:
        """The connection is there."""
        transport.set_write_buffer_limits(high=MAX_UNREAD)
        self._transport = transport

    def detach(self) -> None:
        """The connection is gone."""
        self._transport = None

    def pause_reading(self) -> None:
        """Read nothing more for now."""
        if not self._reading_paused and self._transport is not None:
            self._reading_paused = True
            self._transport.pause_reading()

    def resume_reading(self) -> None:
        """Read on."""
        if self._reading_paused and self._transport is not None:
            self._reading_paused = False
            self._transport.resume_reading()

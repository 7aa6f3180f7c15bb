"""The connections to all servers in use: to one, or to the masters of a Cluster.

Here is known which of them is asked what, and what helps after one has refused.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from policyd_rate_limit.storage.redis.node import Address, NodeError, Remedy, slot_of, wait_for

if TYPE_CHECKING:
    from collections.abc import Iterable, Sequence

    from policyd_rate_limit.storage.redis.node import Command, Node


class Session:
    """Connections to all servers in use; ``slots`` are the addresses of a Cluster's masters, by slot.

    ``warnings``: what the operator should know of the servers. ``descriptors``: of all sockets.
    """

    def __init__(self, nodes: Sequence[Node], slots: list[Address] | None, warnings: Sequence[str]) -> None:
        self.warnings = warnings
        self.descriptors = [node.descriptor for node in nodes]
        self._nodes = {node.address: node for node in nodes}
        self._first = nodes[0]
        self._slots = slots
        self._is_stale = False

    @property
    def nodes(self) -> list[Node]:
        """The connections to all masters."""
        return list(self._nodes.values())

    @property
    def is_broken(self) -> bool:
        """Whether it is of no more use."""
        return self._is_stale or any(node.broken for node in self._nodes.values())

    @property
    def is_sending(self) -> bool:
        """Whether something is still to be sent, which :meth:`receive` does."""
        return any(node.is_sending for node in self._nodes.values())

    def exchange(self, commands: Sequence[Command], end: float) -> NodeError | None:
        """:meth:`send` and :meth:`receive`."""
        self.send(commands)
        return self.receive(commands, end)

    def send(self, commands: Sequence[Command]) -> None:
        """Send ``commands``, each to where it belongs, without waiting."""
        for node, share in self._shares(commands):
            try:
                node.send(share)
            except NodeError as failure:
                for command in share:
                    command.failure = failure

    def take(self) -> None:
        """Take what the servers have said by now."""
        for node in self._nodes.values():
            if not node.broken:
                node.take()

    def receive(self, commands: Sequence[Command], end: float) -> NodeError | None:
        """Take the replies to ``commands``, which were sent, until ``end`` (of the monotonic clock).

        :returns: the worst of what went wrong; None when all have a reply.
        """
        # No node waits for another one's answers.
        while nodes := {
            command.node
            for command in commands
            if command.reply is None and command.failure is None and command.node is not None
        }:
            ready = wait_for(nodes, end)
            if not ready:
                for node in nodes:
                    node.give_up()
            for node in ready:
                node.go_on()
        failures: list[NodeError] = []
        for command in commands:
            if command.failure is not None:
                self._judge(command, command.failure)
                if not command.is_refused:
                    failures.append(command.failure)
        for node in {c.node for c in commands if c.node and c.failure and c.failure.code == "NOSCRIPT"}:
            try:
                node.load_script()
            except NodeError as failure:
                self._is_stale = True
                failures.append(failure)
        return max(failures, key=lambda failure: failure.remedy, default=None)

    def close(self) -> None:
        """Close all connections. Never raises."""
        for node in self._nodes.values():
            node.close()

    def _shares(self, commands: Sequence[Command]) -> Iterable[tuple[Node, Sequence[Command]]]:
        """``commands`` by node; those for a server that there is no connection to have failed."""
        if self._slots is None:
            return [(self._first, commands)]
        shares: dict[Address, list[Command]] = {}
        for command in commands:
            address = command.asks
            if address is None:
                address = self._first.address if command.key is None else self._slots[slot_of(command.key)]
            shares.setdefault(address, []).append(command)
        for address in shares.keys() - self._nodes.keys():
            self._is_stale = True
            for command in shares.pop(address):
                command.asks = None
                command.failure = NodeError(f"Redis {address}: no connection", Remedy.RECONNECT)
        return [(self._nodes[address], share) for address, share in shares.items()]

    def _judge(self, command: Command, failure: NodeError) -> None:
        """Say what helps after a node has refused ``command``."""
        if command.node is None or not failure.code:
            return
        if failure.code in ("MOVED", "ASK") and self._slots is not None:
            slot, where = failure.rest.split()
            host, port = where.rsplit(":", 1)
            address = Address(host or command.node.address.host, int(port))
            failure.remedy = Remedy.REPEAT
            if failure.code == "ASK":
                command.asks = address
            else:
                self._slots[int(slot)] = address
        elif failure.code in ("NOSCRIPT", "BUSY", "LOADING", "TRYAGAIN", "CLUSTERDOWN"):
            failure.remedy = Remedy.REPEAT
        # In a script, older servers put it behind words of their own.
        elif failure.code in ("READONLY", "MASTERDOWN") or "-READONLY " in failure.rest:
            failure.remedy = Remedy.RECONNECT
            self._is_stale = True

"""Sockets for hand-packed rtnetlink batches, and the errors that come back through them.

Messages come from `datapath.rtnl`. Nothing is read here but acknowledgements; reading is `datapath.netlink`'s.
"""

from __future__ import annotations

import errno
import os
import socket
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field

from datapath import rtnl

_SOL_NETLINK, _NETLINK_CAP_ACK, _NETLINK_EXT_ACK = 270, 10, 11
_RECEIVE_BYTES = 65536
_MOST_POOLED = 8
_LAST_SEQUENCE = 0xFFFFFFFF


class NetlinkError(Exception):
    """The kernel refused a step; `errno` is its number (0: the refusal is ours), `text` says why and what to do."""

    def __init__(self, step: str, number: int, text: str = "") -> None:
        self.step, self.errno, self.text = step, number, text
        super().__init__(f"{step}: {text or os.strerror(number)}" + (f" ({errno.errorcode[number]})" if number else ""))


class LinkExists(NetlinkError):
    """The pod's netns already has a link of that name or number."""


class AddressInUse(NetlinkError):
    """Another slave of the uplink holds the address (EADDRINUSE)."""


class NetnsGone(NetlinkError):
    """The descriptor leads to no network namespace."""


class UplinkUnusable(NetlinkError):
    """The uplink is absent, down, or belongs to a bridge, a bond or slaves of another kind."""


@dataclass(frozen=True, slots=True)
class Step:
    """One message, named for its error.

    Errnos in `tolerated` count as done (idempotence); those in `named` have an error class of their own.
    """

    name: str
    message: bytes
    tolerated: frozenset[int] = frozenset()
    named: Mapping[int, type[NetlinkError]] = field(default_factory=dict)


class RouteSocket:
    """An rtnetlink socket; it stays in the netns of the thread that opened it."""

    def __init__(self) -> None:
        self._socket = socket.socket(socket.AF_NETLINK, socket.SOCK_RAW | socket.SOCK_CLOEXEC, socket.NETLINK_ROUTE)
        try:
            self._socket.setsockopt(_SOL_NETLINK, _NETLINK_EXT_ACK, 1)
            self._socket.setsockopt(_SOL_NETLINK, _NETLINK_CAP_ACK, 1)
        except OSError:
            self._socket.close()
            raise
        self._next = 1

    def close(self) -> None:
        """Close; a second time does nothing."""
        self._socket.close()

    def __enter__(self) -> RouteSocket:
        return self

    def __exit__(self, *_exception: object) -> None:
        self.close()

    def exchange(self, messages: Sequence[bytes]) -> list[rtnl.Ack]:
        """One sendmsg for all of them; the failures, in order ([] = all done). Raises OSError.

        The kernel has handled the whole batch when sendmsg returns, so receiving does not wait.
        """
        if self._next + len(messages) > _LAST_SEQUENCE:
            self._next = 1
        first, last = self._next, self._next + len(messages) - 1
        self._next = last + 1
        self._socket.send(rtnl.batch(messages, first))
        failures = []
        while True:
            for ack in rtnl.acks(self._socket.recv(_RECEIVE_BYTES)):
                # A number from before `first` answers an exchange that was broken off.
                if ack.errno and ack.sequence >= first:
                    failures.append(rtnl.Ack(ack.sequence - first, ack.errno, ack.text))
                if ack.sequence == last:
                    return failures


def run(channel: RouteSocket, steps: Sequence[Step]) -> None:
    """Send the steps as one batch. Raises NetlinkError (or what the step names) for the first one that failed.

    The kernel goes on after a failed message: on an error any of the other steps may have been done.
    """
    if not steps:
        return
    for failure in channel.exchange([step.message for step in steps]):
        step = steps[failure.sequence]
        if failure.errno not in step.tolerated:
            raise step.named.get(failure.errno, NetlinkError)(step.name, failure.errno, failure.text)


class SocketPool:
    """Open rtnetlink sockets of the node's netns, shared by threads (list.pop and list.append are atomic)."""

    def __init__(self) -> None:
        self._idle: list[RouteSocket] = []

    @contextmanager
    def lease(self) -> Iterator[RouteSocket]:
        """A socket of the node's netns: take it *before* the thread enters a pod's netns."""
        try:
            channel = self._idle.pop()
        except IndexError:
            channel = RouteSocket()
        try:
            yield channel
        except BaseException:
            channel.close()
            raise
        if len(self._idle) < _MOST_POOLED:
            self._idle.append(channel)
        else:
            channel.close()

    def close(self) -> None:
        """Close the idle sockets."""
        while self._idle:
            self._idle.pop().close()

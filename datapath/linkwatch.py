"""News of the node's uplinks and addresses, as an event: what changed is read again afterwards.

The kernel sends many messages that say nothing new (every slave that is made on a NIC makes one about the NIC), so the
messages are looked into: an address of global scope that comes or goes is news, and a link in which a fact that pods
depend on differs from the last message about it.
"""

from __future__ import annotations

import asyncio
import socket
import struct
from collections.abc import Iterator

# Multicast groups of rtnetlink, as the bits of a socket address; message and attribute numbers (linux/rtnetlink.h,
# linux/if_link.h, linux/if_addr.h).
_RTMGRP_LINK, _RTMGRP_IPV4_IFADDR, _RTMGRP_IPV6_IFADDR = 0x1, 0x10, 0x100
_RTM_NEWLINK, _RTM_DELLINK, _RTM_NEWADDR, _RTM_DELADDR = 16, 17, 20, 21
_IFLA_ADDRESS, _IFLA_IFNAME, _IFLA_MTU, _IFLA_MASTER = 1, 3, 4, 10
_FACTS = frozenset({_IFLA_ADDRESS, _IFLA_IFNAME, _IFLA_MTU, _IFLA_MASTER})
_IFF_UP, _SCOPE_UNIVERSE = 0x1, 0

_HEADER = struct.Struct("=IHHII")
_IFINFO = struct.Struct("=BxHiII")
_IFADDR = struct.Struct("=BBBBI")
_ATTRIBUTE = struct.Struct("=HH")

LinkFacts = tuple[bool, tuple[tuple[int, bytes], ...]]


class LinkWatch:
    """An rtnetlink socket that hears of links and addresses in the netns where it is made. Loop thread only."""

    def __init__(self) -> None:
        flags = socket.SOCK_RAW | socket.SOCK_CLOEXEC | socket.SOCK_NONBLOCK
        self._socket = socket.socket(socket.AF_NETLINK, flags, socket.NETLINK_ROUTE)
        self._seen: dict[int, LinkFacts] = {}
        try:
            self._socket.bind((0, _RTMGRP_LINK | _RTMGRP_IPV4_IFADDR | _RTMGRP_IPV6_IFADDR))
        except OSError:
            self._socket.close()
            raise

    def __enter__(self) -> LinkWatch:
        return self

    def __exit__(self, *_exception: object) -> None:
        self._socket.close()

    async def changed(self, uplinks: set[int]) -> None:
        """Wait for news about one of these links (by ifindex; the set may change meanwhile) or about an address."""
        loop = asyncio.get_running_loop()
        news = asyncio.Event()

        def readable() -> None:
            if self.drain(uplinks):
                news.set()

        loop.add_reader(self._socket, readable)
        try:
            await news.wait()
        finally:
            loop.remove_reader(self._socket)

    def drain(self, uplinks: set[int]) -> bool:
        """Read what has come; whether it is news. Messages lost to a full buffer (ENOBUFS) count as news."""
        news = False
        while True:
            try:
                datagram = self._socket.recv(65536)
            except BlockingIOError:
                return news
            except OSError:
                news = True
            else:
                news = is_news(datagram, uplinks, self._seen) or news


def is_news(datagram: bytes, uplinks: set[int], seen: dict[int, LinkFacts]) -> bool:
    """Whether a datagram of rtnetlink messages tells something new; `seen` is kept up to date by it."""
    news = False
    for kind, body in _messages(datagram):
        if kind in (_RTM_NEWADDR, _RTM_DELADDR):
            news = news or _IFADDR.unpack_from(body)[3] == _SCOPE_UNIVERSE
        elif kind in (_RTM_NEWLINK, _RTM_DELLINK):
            family, _, ifindex, flags, _ = _IFINFO.unpack_from(body)
            if family != socket.AF_UNSPEC or ifindex not in uplinks:
                continue  # another family: a bridge's word on its port
            facts = (bool(flags & _IFF_UP) and kind == _RTM_NEWLINK, tuple(_attributes(body[_IFINFO.size :])))
            news = news or seen.get(ifindex) != facts
            seen[ifindex] = facts
    return news


def _messages(datagram: bytes) -> Iterator[tuple[int, bytes]]:
    offset = 0
    while offset + _HEADER.size <= len(datagram):
        length, kind, *_ = _HEADER.unpack_from(datagram, offset)
        if length < _HEADER.size:
            return
        yield kind, datagram[offset + _HEADER.size : offset + length]
        offset += length + 3 & ~3


def _attributes(body: bytes) -> Iterator[tuple[int, bytes]]:
    """The attributes that pods depend on."""
    offset = 0
    while offset + _ATTRIBUTE.size <= len(body):
        length, kind = _ATTRIBUTE.unpack_from(body, offset)
        if length < _ATTRIBUTE.size:
            return
        if kind in _FACTS:
            yield kind, body[offset + _ATTRIBUTE.size : offset + length]
        offset += length + 3 & ~3

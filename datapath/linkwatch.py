"""News of the node's links and addresses, as an event: what changed is read again afterwards, not from the messages."""

from __future__ import annotations

import asyncio
import socket

# Multicast groups of rtnetlink, as the bits of a socket address (linux/rtnetlink.h).
_RTMGRP_LINK, _RTMGRP_IPV4_IFADDR, _RTMGRP_IPV6_IFADDR = 0x1, 0x10, 0x100


class LinkWatch:
    """An rtnetlink socket that hears of changed links and addresses in the netns where it is made."""

    def __init__(self) -> None:
        flags = socket.SOCK_RAW | socket.SOCK_CLOEXEC | socket.SOCK_NONBLOCK
        self._socket = socket.socket(socket.AF_NETLINK, flags, socket.NETLINK_ROUTE)
        try:
            self._socket.bind((0, _RTMGRP_LINK | _RTMGRP_IPV4_IFADDR | _RTMGRP_IPV6_IFADDR))
        except OSError:
            self._socket.close()
            raise

    def __enter__(self) -> LinkWatch:
        return self

    def __exit__(self, *_exception: object) -> None:
        self._socket.close()

    async def changed(self, loop: asyncio.AbstractEventLoop) -> None:
        """Wait for news."""
        news = asyncio.Event()
        loop.add_reader(self._socket, news.set)
        try:
            await news.wait()
        finally:
            loop.remove_reader(self._socket)

    def drain(self) -> None:
        """Throw away what has come. A full buffer (ENOBUFS) is news too, and is over once it is read."""
        while True:
            try:
                self._socket.recv(65536)
            except BlockingIOError:
                return
            except OSError:
                continue

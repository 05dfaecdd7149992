"""Socket load balancing: whether it is on, whose sockets are balanced, and what becomes of those whose backend is gone.

A backend that is gone takes its sockets along: a connected socket is bound to it for good, so it is closed (TCP and
UDP; UDP already when the backend drains, as datagrams have no end to wait for). Unconnected UDP sockets move with their
next datagram by themselves. Everything here is extra: where it is off or fails, packets are balanced in tc.
"""

from __future__ import annotations

import asyncio
import logging
import os
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path

from agent import threads
from agent.config import Config
from agent.node import Node
from agent.pod_del import open_netns
from allocator.attachments import Attachment
from datapath import bpfcall, cgroup, loader, netns
from datapath.abi import U32
from datapath.flows import SocketKey, SocketPeer
from datapath.entries import pack_ip
from datapath.kernel import Datapath, ProgramFds
from datapath.loader import ProgramSpec
from datapath.programmed import GoneBackend
from datapath.rtsocket import NetlinkError, NetnsGone
from datapath.sockdiag import DiagSocket
from datapath.table import Cookie, Number

log = logging.getLogger(__name__)

"""A packet capture on a node's uplink (AF_PACKET), its pcap file, and the little parsing the checks need."""

import ipaddress
import os
import socket
import struct
import threading
import time
from dataclasses import dataclass
from pathlib import Path
from types import TracebackType

from tests.testbed import netns

_ETH_P_ALL = 0x0003
_PACKET_OUTGOING = 4
_SOL_PACKET, _PACKET_IGNORE_OUTGOING = 263, 23
_LINKTYPE_ETHERNET = 1
_SNAPLEN = 262144
_POLL_S = 0.2


@dataclass(frozen=True, slots=True)
class Segment:
    """A captured TCP over IPv4 segment; `outgoing`: it left by this NIC."""

    outgoing: bool
    source_mac: str
    source: str
    target: str
    source_port: int
    target_port: int
    flags: int

    @property
    def syn(self) -> bool:
        """Whether it opens a connection (SYN, with or without ACK)."""
        return bool(self.flags & 0x02)


@dataclass(frozen=True, slots=True)
class Frame:
    """One frame as it passed the NIC."""

    when: float
    outgoing: bool
    content: bytes

    @property
    def source_mac(self) -> str:
        """The Ethernet source."""
        return ":".join(f"{byte:02x}" for byte in self.content[6:12])

    def ip_addresses(self) -> tuple[str, ...]:
        """The IPv4 source and destination, or ARP's sender and target; () for anything else."""
        ethertype = struct.unpack("!H", self.content[12:14])[0]
        if ethertype == 0x0800 and len(self.content) >= 34:
            fields = self.content[26:30], self.content[30:34]
        elif ethertype == 0x0806 and len(self.content) >= 42:
            fields = self.content[28:32], self.content[38:42]
        else:
            return ()
        return tuple(str(ipaddress.IPv4Address(item)) for item in fields)

    def segment(self) -> Segment | None:
        """The TCP segment inside, if it is one."""
        content = self.content
        if content[12:14] != b"\x08\x00" or len(content) < 34 or content[23] != socket.IPPROTO_TCP:
            return None
        start = 14 + (content[14] & 0x0F) * 4
        source_port, target_port = struct.unpack("!HH", content[start : start + 4])
        source, target = self.ip_addresses()
        flags = content[start + 13]
        return Segment(self.outgoing, self.source_mac, source, target, source_port, target_port, flags)


class Capture:
    """Captures every frame of a NIC from entering the context to leaving it; then `frames` is complete."""

    def __init__(self, node_netns: str, nic: str) -> None:
        self._netns = node_netns
        self._nic = nic
        self._stop = threading.Event()
        self._thread = threading.Thread(target=self._read, name=f"capture {nic}")
        self.frames: list[Frame] = []

    def __enter__(self) -> "Capture":
        def open_socket() -> socket.socket:
            raw = socket.socket(socket.AF_PACKET, socket.SOCK_RAW, 0)
            raw.setsockopt(_SOL_PACKET, _PACKET_IGNORE_OUTGOING, 0)
            raw.bind((self._nic, _ETH_P_ALL))
            raw.settimeout(_POLL_S)
            return raw

        self._socket = netns.enter(self._netns, open_socket)
        self._thread.start()
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, tb: TracebackType | None) -> None:
        self._stop.set()
        self._thread.join()
        self._socket.close()

    def _read(self) -> None:
        # What was queued before the end still counts: only an empty socket ends the loop.
        while True:
            try:
                content, address = self._socket.recvfrom(_SNAPLEN)
            except TimeoutError:
                if self._stop.is_set():
                    return
                continue
            self.frames.append(Frame(time.time(), address[2] == _PACKET_OUTGOING, content))

    def write(self, path: Path) -> None:
        """Write the frames as a pcap file (Ethernet), for Wireshark and tcpdump -r."""
        with path.open("wb") as out:
            out.write(struct.pack("<IHHiIII", 0xA1B2C3D4, 2, 4, 0, 0, _SNAPLEN, _LINKTYPE_ETHERNET))
            for frame in self.frames:
                seconds = int(frame.when)
                length = len(frame.content)
                out.write(struct.pack("<IIII", seconds, int((frame.when - seconds) * 1e6), length, length))
                out.write(frame.content)
            out.flush()
            os.fsync(out.fileno())

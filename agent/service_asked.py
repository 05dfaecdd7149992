"""How people name a Service: "ns/name", "name" or an address, then perhaps ":PORT" and "/PROTOCOL". Pure.

The command line checks it before it asks the agent, so nothing heavy is imported here.
"""

from __future__ import annotations

import ipaddress
from dataclasses import dataclass

PROTOCOLS = ("TCP", "UDP", "SCTP")


@dataclass(frozen=True, slots=True)
class Asked:
    """What was typed: `port` is 0 and `protocol` "" where nothing was said."""

    name: str
    port: int = 0
    protocol: str = ""

    @property
    def is_address(self) -> bool:
        """Whether the name is an address."""
        return _address(self.name) != ""


def parse(text: str) -> Asked:
    """Read "SERVICE[:PORT][/PROTOCOL]". Raises ValueError saying what is wrong.

    "a/tcp" is the Service tcp of namespace a; in lower case a protocol must follow a port.
    """
    rest, protocol = text, ""
    head, slash, tail = text.rpartition("/")
    if slash and tail.upper() in PROTOCOLS and (tail.isupper() or _split_port(head)[1]):
        rest, protocol = head, tail.upper()
    name, port = _split_port(rest)
    if name.count("/") > 1 or not all(name.split("/")):
        raise ValueError(f"{text!r} is not SERVICE[:PORT][/PROTOCOL], such as default/web:80 or 10.96.0.10:53/UDP")
    if not port:
        return Asked(_address(name) or name, 0, protocol)
    if not port.isascii() or not port.isdigit() or not 1 <= int(port) <= 65535:
        raise ValueError(f"{port!r} is not a port from 1 to 65535")
    return Asked(_address(name) or name, int(port), protocol)


def _split_port(text: str) -> tuple[str, str]:
    """ "a:80" -> ("a", "80"); "[fd00::1]:80" -> ("fd00::1", "80"); a bare IPv6 address has no port."""
    if text.startswith("["):
        address, _, rest = text[1:].partition("]")
        return address, rest.removeprefix(":")
    if text.count(":") > 1:
        return text, ""
    name, _, port = text.partition(":")
    return name, port


def _address(text: str) -> str:
    """The address in the maps' spelling, "" when the text is none."""
    try:
        return str(ipaddress.ip_address(text))
    except ValueError:
        return ""

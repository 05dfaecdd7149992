"""Flows in words: states as conntrack(8) has them, durations as kubectl has them. Pure."""

from __future__ import annotations

from datapath.abi import CT_ANSWERED, CT_CLOSING, CT_PEER_FIN, CT_POD_FIN, CT_RESET
from datapath.flow_pairs import Pair

APART = "Sockets that chose their backend in connect() or sendmsg() are not among these flows"
"""Where socket load balancing is on, most flows are never translated per packet."""

_UNITS = ((86400, "d"), (3600, "h"), (60, "m"))


def state_of(pair: Pair) -> str:
    """The state of a flow: of a connection about as TCP calls it, else whether it was answered."""
    if pair.lost == "reverse":
        return "LOST"
    if pair.client.protocol == "UDP":
        return "REPLIED" if pair.flags & CT_ANSWERED else "UNREPLIED"
    if pair.flags & CT_RESET:
        return "RESET"
    if pair.flags & CT_POD_FIN and pair.flags & CT_PEER_FIN:
        return "CLOSING"
    if pair.flags & CT_CLOSING:
        return "FIN_WAIT" if pair.flags & CT_POD_FIN else "CLOSE_WAIT"
    return "ESTABLISHED" if pair.flags & CT_ANSWERED else "SYN_SENT"


def apart(socket_lb: str) -> list[str]:
    """The line that says what is not shown, if socket load balancing ("on, ..." or "off: ...") is on."""
    return [APART] if socket_lb.startswith("on") else []


def duration(seconds: float) -> str:
    """ "5s", "2m5s", "3h", "4d2h": two units at most."""
    left = max(0, int(seconds))
    parts: list[str] = []
    for size, unit in _UNITS:
        if left >= size:
            parts.append(f"{left // size}{unit}")
            left %= size
    if left or not parts:
        parts.append(f"{left}s")
    return "".join(parts[:2])

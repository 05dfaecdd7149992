"""The kernel switches under /proc/sys/net that wiring may have to turn, or looks at.

/proc/sys/net shows the network namespace of the thread that opens a file in it.
"""

from __future__ import annotations

import errno
from pathlib import Path

from datapath.rtsocket import NetlinkError, UplinkUnusable

_CONF = Path("/proc/sys/net")
STRICT, LOOSE = 1, 2
_NO_ADDRESS_OF_ITS_OWN = "1"  # IN6_ADDR_GEN_MODE_NONE


def loosen_rp_filter(uplink: str) -> bool:
    """Make the uplink's reverse-path filter loose where it is strict; whether it had to be changed.

    The kernel takes the larger of conf/all and conf/<link>, so "strict" is a maximum of 1; 0 (off) and 2 (loose) stay.
    Nothing is remembered: the old value does not come back with the last pod. Raises
    UplinkUnusable where the uplink is gone, OSError.
    """
    own = _CONF / "ipv4/conf" / uplink / "rp_filter"
    everywhere = _CONF / "ipv4/conf/all/rp_filter"
    try:
        current = max(int(own.read_text()), int(everywhere.read_text()))
    except FileNotFoundError as error:
        raise UplinkUnusable("loosen rp_filter", errno.ENODEV, f"the uplink {uplink} is gone") from error
    if current != STRICT:
        return False
    own.write_text(f"{LOOSE}\n")
    return True


def enable_ipv6(ifname: str) -> bool:
    """Switch IPv6 on for a link of the thread's netns where it is off; whether it had to be changed.

    Raises NetlinkError where the kernel or the netns has no IPv6 at all.
    """
    switch = _CONF / "ipv6/conf" / ifname / "disable_ipv6"
    try:
        if switch.read_text().strip() == "0":
            return False
        switch.write_text("0\n")
    except FileNotFoundError as error:
        text = "an IPv6 address is asked for and this kernel has no IPv6 (ipv6.disable=1, or no module)"
        raise NetlinkError("enable IPv6", errno.EAFNOSUPPORT, text) from error
    return True


def keep_ipv6_quiet(link: str) -> None:
    """Keep a link of the thread's netns without IPv6 addresses that nobody gave it: neither link-local nor by a router.

    Nothing to do where the kernel has no IPv6. Raises OSError.
    """
    folder = _CONF / "ipv6/conf" / link
    if folder.exists():
        (folder / "addr_gen_mode").write_text(f"{_NO_ADDRESS_OF_ITS_OWN}\n")
        (folder / "accept_ra").write_text("0\n")


def refuse_redirects(ifname: str) -> None:
    """Have the thread's netns (a pod's) ignore ICMP redirects that come in by a link.

    A node that passes a pod's packet on by the link where it came from, since kube-proxy does not know the Service yet,
    says "go there directly": for minutes, the pod's next packets would go past kube-proxy. Raises OSError.
    """
    for conf in ("all", ifname):  # either of them is enough to accept one
        (_CONF / "ipv4/conf" / conf / "accept_redirects").write_text("0\n")
    six = _CONF / "ipv6/conf" / ifname / "accept_redirects"
    if six.exists():
        six.write_text("0\n")


def forwards(family: int) -> bool:
    """Whether the thread's netns passes packets of a family (4 or 6) on."""
    switch = _CONF / {4: "ipv4/ip_forward", 6: "ipv6/conf/all/forwarding"}[family]
    try:
        return switch.read_text().strip() != "0"
    except FileNotFoundError:
        return False

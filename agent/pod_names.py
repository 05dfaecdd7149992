"""Pods by the names people use for them. Pure: the ledger's attachments in, names out."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence

from allocator.attachments import Attachment

_SHORT_ID = 12
_EXAMPLES = 8


class UnknownName(Exception):
    """Nothing, or more than one thing, has that name; the text says what there is."""


def name_of(attachment: Attachment) -> str:
    """ "ns/name"; of a container that is no pod, its id, shortened as docker and crictl do."""
    if attachment.pod_name:
        return f"{attachment.pod_namespace}/{attachment.pod_name}"
    return attachment.container_id[:_SHORT_ID]


def by_address(attachments: Iterable[Attachment]) -> Mapping[str, str]:
    """Names by address (no prefix length)."""
    return {lease.ip: name_of(attachment) for attachment in attachments for lease in attachment.leases}


def by_slave(attachments: Iterable[Attachment]) -> Mapping[int, str]:
    """Names by the ifindex of the slave."""
    return {attachment.ifindex: name_of(attachment) for attachment in attachments}


def find(attachments: Sequence[Attachment], asked: str) -> list[Attachment]:
    """The attachments of one pod, eth0 first. `asked`: "ns/name", "name", an address, or a container id's beginning.

    A bare name is looked for in "default", then everywhere. Raises UnknownName.
    """
    for candidates in _readings(attachments, asked):
        names = sorted({name_of(one) for one in candidates})
        if len(names) > 1:
            raise UnknownName(f"{asked!r} may be {_listed(names)}: say which")
        if names:
            return sorted(candidates, key=lambda one: (one.ifname != "eth0", one.ifname))
    known = sorted({name_of(attachment) for attachment in attachments})
    raise UnknownName(f"no pod {asked!r} is attached on this node; " + (_there_are(known) if known else "none is"))


def _readings(attachments: Sequence[Attachment], asked: str) -> Iterable[list[Attachment]]:
    yield [one for one in attachments if name_of(one) in (asked, f"default/{asked}")]
    yield [one for one in attachments if one.pod_name == asked]
    yield [one for one in attachments if any(lease.ip == asked for lease in one.leases)]
    if len(asked) >= 4:
        yield [one for one in attachments if one.container_id.startswith(asked)]


def _there_are(names: Sequence[str]) -> str:
    return f"attached: {_listed(names)}"


def _listed(names: Sequence[str]) -> str:
    more = f" and {len(names) - _EXAMPLES} more" if len(names) > _EXAMPLES else ""
    return ", ".join(names[:_EXAMPLES]) + more

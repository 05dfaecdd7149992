"""What `dragline trace` is told: one throw-away thread reads the facts and ends in the pod's network namespace."""

from __future__ import annotations

import os
from collections.abc import Sequence
from functools import partial

import msgspec

from agent import control, pod_names, service_names, threads, trace
from agent.node import Node
from agent.pod_del import open_netns
from agent.pod_names import UnknownName
from agent.service_asked import Asked
from agent.service_names import Names
from agent.trace_reader import Reader
from allocator.attachments import Attachment
from datapath import netns, verdicts
from datapath.frontends import Frontend
from datapath.rtsocket import NetlinkError


class Arguments(msgspec.Struct, frozen=True):
    """`pod` and `name` as people name them (`name` a Service or an address); 0 and "" where nothing was said."""

    pod: str
    name: str
    port: int = 0
    protocol: str = ""


async def trace_answer(node: Node, arguments: bytes) -> bytes:
    """JSON: the stages of the pod's next packet, as `agent.trace.answer` gives them."""
    asked = control.arguments_of(arguments, Arguments)
    attachments, offers = node.ledger.attachments(), node.services.offers()
    try:
        mine = pod_names.find(attachments, asked.pod)
        names = await threads.run(partial(service_names.ordered, offers))
        frontend = _choose(Asked(asked.name, asked.port, asked.protocol), names, mine)
        reader = Reader(node.maps, frontend, names, pod_names.by_address(attachments), node.socket_lb)
        return await threads.run(partial(_job, reader, mine))
    except (UnknownName, NetlinkError, OSError) as error:
        raise control.refusal(str(error)) from error


def _choose(asked: Asked, names: Names, mine: Sequence[Attachment]) -> Frontend:
    families = dict.fromkeys(lease.family for attachment in mine for lease in attachment.leases)
    return service_names.choose(asked, names, mine[0].pod_namespace, sorted(families))


def _job(reader: Reader, mine: Sequence[Attachment]) -> bytes:
    facts = reader.read(mine, _enter(mine[0]))
    return control.answer(trace.answer(facts, verdicts.read()))


def _enter(attachment: Attachment) -> str:
    """Put the thread into the pod's netns; "", or why it is not there."""
    netns_fd = open_netns(attachment)
    if netns_fd < 0:
        return f"the pod's network namespace is not at {attachment.netns_path} any more"
    try:
        netns.enter(netns_fd)
    except NetlinkError as error:
        return str(error)
    finally:
        os.close(netns_fd)
    return ""

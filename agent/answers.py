"""What `dragline status` and `dragline pools` are told."""

from __future__ import annotations

import platform
from collections import Counter
from typing import Any

import msgspec

from agent import control, datapaths
from agent.node import VERSION, Node
from cluster.resources import SpiderIPPool
from datapath.loader import TC_PROGRAMS

DETACHING = "detaching"


async def status(node: Node, arguments: bytes) -> bytes:
    """JSON: what the agent holds and what is wrong."""
    del arguments
    states = Counter(str(node.ledger.state(attachment.key)) for attachment in node.ledger.attachments())
    problems = [{"source": problem.source, "message": problem.message} for problem in node.store.problems()]
    problems += [{"source": "journal", "message": text} for text in node.journal.problems]
    problems += [{"source": f"SpiderIPPool {name}", "message": text} for name, text in node.pool_problems]
    problems += [{"source": f"Service {key}", "message": text} for key, text in node.services.problems()]
    wrong = datapaths.problems(node.datapath, node.config.service_cidr)
    problems += [{"source": "datapath", "message": text} for text in wrong]
    problems += [{"source": "programs", "message": text} for text in _missing_programs(node)]
    if node.services.problem:
        problems.append({"source": "services", "message": node.services.problem})
    problems += [{"source": "conntrack", "message": text} for text in node.ageing.problems()]
    return _json(
        {
            "ready": not node.not_ready(),
            "not_ready": node.not_ready(),
            "node": node.config.node_name,
            "version": VERSION,
            "kernel": platform.release(),
            "store": f"dir:{node.config.store}",
            "datapath": node.datapath.name,
            "datapath_reason": node.datapath.reason,
            "missing": node.datapath.missing,
            "programs": node.programs,
            "socket_lb": node.socket_lb,
            "uplinks": node.uplinks.names,
            "attachments": dict(sorted(states.items())),
            "frontends": node.services.frontends,
            "backends": node.services.backends,
            "conntrack": {"entries": node.ageing.figures.entries, "capacity": node.ageing.figures.capacity},
            "journal": f"{node.config.journal} ({node.journal.size} bytes)",
            "problems": problems,
        }
    )


def _missing_programs(node: Node) -> list[str]:
    """Pods' packets pass unchecked and untranslated where the holders find no program (a pin was removed by hand)."""
    if node.pinned is None:
        return []
    slots = node.pinned.empty_calls(spec.call_slot for spec in TC_PROGRAMS if spec.call_slot is not None)
    return [f"slot {slot} of the map calls is empty: pods are unchecked; restart the agent" for slot in slots]


async def pools(node: Node, arguments: bytes) -> bytes:
    """JSON: a row a pool; of other nodes' pools, what their agents have published."""
    del arguments
    return _json([_row(node, pool) for pool in node.store.list(SpiderIPPool)])


async def no_maps(node: Node, arguments: bytes) -> bytes:
    """The answer to what only the maps of the eBPF datapath know. Raises CniError."""
    del arguments
    raise control.refusal(f"the {node.datapath.name} datapath has no maps to look into: ask this node's kube-proxy")


def _row(node: Node, pool: SpiderIPPool) -> dict[str, Any]:
    if pool.spec.node_name == (node.config.node_name,):
        allocated, total = node.ledger.pool_status(pool.metadata.name)
        counts = len(allocated), total
    else:
        counts = pool.status.allocated_ip_count, pool.status.total_ip_count
    return {
        "name": pool.metadata.name,
        "version": pool.family,
        "subnet": pool.spec.subnet,
        "allocated": counts[0],
        "total": counts[1],
        "default": pool.spec.default,
    }


def _json(value: Any) -> bytes:
    return msgspec.json.encode(value)

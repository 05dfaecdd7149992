"""What pods may leave behind on a node: its kernel state as comparable lines, and the entries of the agent's maps."""

import json
from pathlib import Path
from typing import Any

from datapath.abi import ADDRESS_NODE
from datapath.maps import Maps
from tests.testbed.netns import nsenter, run


def node_state(node_netns: str) -> frozenset[str]:
    """Links, policy rules, routes of all tables, permanent neighbours and netfilter rules of a node, one line each.

    Neighbours that the kernel learnt come and go by themselves, so only permanent ones count.
    """
    lines = [
        f"link {item['ifname']} {item.get('linkinfo', {}).get('info_kind', '')}" for item in _ip(node_netns, "link")
    ]
    for family in ("-4", "-6"):
        lines += [f"rule {family} {_fields(item)}" for item in _ip(node_netns, "rule", family)]
        for item in _ip(node_netns, "route show table all", family):
            if not item["dst"].startswith(("fe80:", "ff00:", "multicast")):
                kept = {key: item.get(key) for key in ("type", "dst", "gateway", "dev", "table", "prefsrc", "src")}
                lines.append(f"route {family} {_fields(kept)}")
        for item in _ip(node_netns, "neigh show nud permanent", family):
            lines.append(f"neighbour {family} {_fields(item)}")
    rules = run(nsenter(node_netns, ["nft", "list", "ruleset"]))
    lines += [f"nft {line.strip()}" for line in rules.splitlines() if line.strip()]
    return frozenset(lines)


def map_entries(bpf_root: Path) -> list[str]:
    """Every entry of the agent's maps that exists because of a pod or a service, one line each; [] without maps."""
    if not bpf_root.exists():  # the netlink datapath
        return []
    with Maps(bpf_root) as maps:
        lines = [f"pods {ifindex}: {entry}" for ifindex, entry in maps.pods().items()]
        local = maps.locals().items()
        lines += [f"addresses {key}: {entry}" for key, entry in local if entry.kind != ADDRESS_NODE]
        lines += [f"services {key}: {entry}" for key, entry in maps.services.items()]
        lines += [f"backends {key.number}: {entry}" for key, entry in maps.backends.items()]
        lines += [f"conntrack {key}: {entry}" for key, entry in maps.conntrack.items()]
        lines += [f"netns_pods {key.number}: {value.number}" for key, value in maps.netns_pods.items()]
    return lines


def _ip(node_netns: str, what: str, family: str = "") -> list[dict[str, Any]]:
    command = ["ip", "-n", node_netns, "-j", "-d", *([family] if family else []), *what.split()]
    text = run(command).strip()
    found: list[dict[str, Any]] = [item for item in json.loads(text or "[]") if item]
    return found


def _fields(item: dict[str, Any]) -> str:
    return " ".join(f"{key}={value}" for key, value in item.items() if value not in (None, [], ""))

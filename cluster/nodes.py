"""What Services need to know of nodes: every node's addresses, for NodePorts, and this node's zone, for hints. Pure."""

from __future__ import annotations

from typing import Final

from cluster.addresses import callable_address
from cluster.endpoints import Here
from cluster.resources import Node

ZONE_LABEL: Final = "topology.kubernetes.io/zone"

_CALLED: Final = frozenset({"InternalIP", "ExternalIP"})


class NodeBook:
    """Kept current node by node."""

    def __init__(self, node_name: str) -> None:
        self.here = Here(node_name)
        self._addresses_of: dict[str, frozenset[str]] = {}
        self._all: frozenset[str] | None = None

    def addresses(self) -> frozenset[str]:
        """The internal and external addresses of all nodes, both families, in the maps' spelling."""
        if self._all is None:
            self._all = frozenset[str]().union(*self._addresses_of.values())
        return self._all

    def put(self, name: str, node: Node | None) -> bool:
        """Take a Node as it now is (None: gone); says whether `here` changed."""
        given = node.status.addresses if node is not None else ()
        found = {callable_address(one.address) for one in given if one.type in _CALLED}
        addresses = frozenset(found - {""})
        if addresses != self._addresses_of.get(name, frozenset()):  # nodes are rewritten often, and mean the same
            self._all = None
            self._addresses_of[name] = addresses
        if not addresses:
            self._addresses_of.pop(name, None)
        if name != self.here.node:
            return False
        zone = node.metadata.labels.get(ZONE_LABEL, "") if node is not None else ""
        before, self.here = self.here, self.here._replace(zone=zone)
        return before != self.here

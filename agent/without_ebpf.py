"""What stands for the load balancer's tasks where kube-proxy does the work: nothing is programmed, nothing ages."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Sequence

from agent.conntrack_ageing import Figures
from cluster.services import Frontend, Offer
from datapath.programmed import GoneBackend


class KubeProxy:
    """In the place of `ServiceSync`: Services are kube-proxy's business."""

    synced = True
    problem = ""
    frontends = 0
    backends = 0

    def __init__(self) -> None:
        self.on_gone: Callable[[Sequence[GoneBackend]], None] | None = None
        """Never called: no socket is bound to a backend by us."""

    def offers(self) -> dict[Frontend, Offer]:
        """None."""
        return {}

    def problems(self) -> list[tuple[str, str]]:
        """None that we would know."""
        return []

    async def run(self) -> None:
        """Nothing to do, for ever."""
        await asyncio.Event().wait()


class NoFlows:
    """In the place of `ConntrackAgeing`: the flows are in the node's own conntrack."""

    figures = Figures(0, 0, {})

    def problems(self) -> list[str]:
        """None that we would know."""
        return []

    async def run(self) -> None:
        """Nothing to do, for ever."""
        await asyncio.Event().wait()

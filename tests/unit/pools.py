"""Pools for the allocator's tests."""

from __future__ import annotations

from typing import Any

from cluster.resources import ObjectMeta, PoolSpec, SpiderIPPool


def pool(name: str, *ips: str, subnet: str = "10.0.0.0/24", **spec: Any) -> SpiderIPPool:
    """A default pool of node "worker"; `spec` overrides fields of PoolSpec."""
    fields: dict[str, Any] = {"node_name": ("worker",), "default": True, **spec}
    return SpiderIPPool(metadata=ObjectMeta(name=name), spec=PoolSpec(subnet=subnet, ips=ips, **fields))

"""Which pools an attachment may take an address from, in order, and why the others may not. Pure.

Sources, the first that exists is used exclusively: pool names (from the pod's annotation or the CNI configuration: the
caller decides which), else every pool with `default: true`, by name. Filters, in order: being deleted, disabled,
family, nodeName, multusName, limits this version cannot judge, ownership. A family asked for by name must keep a
candidate; of the default pools, a family without any candidate is not asked for.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field

from cluster.resources import SpiderIPPool

AGENT_NAMESPACE = "kube-system"  # what a bare name in multusName means
FAMILIES = (4, 6)


class NoPool(Exception):
    """No pool may be used; the message names every pool and why not."""


@dataclass(frozen=True, slots=True)
class Want:
    """What an attachment asks for.

    `network` is the "ns/name" of its SpiderMultusConfig, "" if unknown. `pool_names` gives names by family (empty
    lists count as none); None = the default pools. `families` are those the node serves.
    """

    node: str
    network: str = ""
    pool_names: Mapping[int, Sequence[str]] | None = None
    families: tuple[int, ...] = FAMILIES


@dataclass(frozen=True, slots=True)
class Selection:
    """Candidates by family, best first; only families that are asked for. `rejected` is (pool, reason)."""

    candidates: dict[int, list[str]] = field(default_factory=dict)
    rejected: list[tuple[str, str]] = field(default_factory=list)


def select(pools: Iterable[SpiderIPPool], want: Want) -> Selection:
    """Choose from all `pools`. Raises NoPool if a family asked for by name, or every family, has no candidate."""
    by_name = {pool.metadata.name: pool for pool in pools}
    named = {family: names for family, names in (want.pool_names or {}).items() if names}
    selection = Selection()
    for family in want.families:
        if named:
            names: Iterable[str] = dict.fromkeys(named.get(family, ()))  # a name given twice counts once
        else:
            names = sorted(name for name, pool in by_name.items() if pool.spec.default and pool.family == family)
        reasons = [(name, reason_against(by_name.get(name), family, want)) for name in names]
        accepted = [name for name, reason in reasons if not reason]
        selection.rejected.extend((name, reason) for name, reason in reasons if reason)
        if accepted:
            selection.candidates[family] = accepted
        elif named.get(family):
            raise NoPool(f"no IPv{family} pool can be used on node {want.node}: {_explain(reasons)}")
    if not selection.candidates:
        raise NoPool(f"no pool can be used on node {want.node}: {_nothing_left(selection, named, want)}")
    return selection


def reason_against(pool: SpiderIPPool | None, family: int, want: Want) -> str:
    """Why `pool` cannot be used, for the user; "" if it can."""
    if pool is None:
        return "there is no such pool"
    if pool.metadata.deletion_timestamp:
        return "it is being deleted"
    if pool.spec.disable:
        return "it is disabled"
    if pool.family != family:
        return f"it is an IPv{pool.family} pool"
    return _node_mismatch(pool, want) or _network_mismatch(pool, want) or _unjudged(pool) or _unowned(pool, want)


def _node_mismatch(pool: SpiderIPPool, want: Want) -> str:
    nodes = pool.spec.node_name
    return f"its nodeName is {', '.join(nodes)}" if nodes and want.node not in nodes else ""


def _network_mismatch(pool: SpiderIPPool, want: Want) -> str:
    networks = [name if "/" in name else f"{AGENT_NAMESPACE}/{name}" for name in pool.spec.multus_name]
    if not networks or want.network in networks:
        return ""
    return f"its multusName is {', '.join(networks)}, the attachment's is {want.network or 'not known'}"


def _unjudged(pool: SpiderIPPool) -> str:
    # A limit that is not understood must keep pods out: ignoring it would hand the address to the wrong ones.
    limits = {
        "namespaceName": pool.spec.namespace_name,
        "namespaceAffinity": pool.spec.namespace_affinity,
        "podAffinity": pool.spec.pod_affinity,
        "nodeAffinity": None if pool.spec.node_name else pool.spec.node_affinity,  # nodeName goes before it
    }
    present = [name for name, limit in limits.items() if limit]
    return f"it is limited by {', '.join(present)}, which this version does not judge yet" if present else ""


def _unowned(pool: SpiderIPPool, want: Want) -> str:
    return "" if set(pool.spec.node_name) == {want.node} else "shared by several nodes: not claimed by this node"


def _nothing_left(selection: Selection, named: Mapping[int, Sequence[str]], want: Want) -> str:
    if selection.rejected:
        return _explain(selection.rejected)
    served = " and ".join(f"IPv{family}" for family in want.families) or "no family"
    return f"pools are named for other families than {served}" if named else "there is no default pool"


def _explain(reasons: Iterable[tuple[str, str]]) -> str:
    return "; ".join(f"{name}: {reason}" for name, reason in reasons)

"""Selection: rows of pools and what is wanted; every reason a user can read."""

from __future__ import annotations

from dataclasses import replace

import msgspec
import pytest

from allocator.selection import NoPool, Want, select
from cluster.resources import ObjectMeta, SpiderIPPool
from tests.unit.pools import pool

ETH0, ETH1 = "kube-system/ipvlan-eth0", "kube-system/ipvlan-eth1"
WANT = Want(node="worker", network=ETH0)
V6 = "fd00::/64"
MINE = pool("mine", "10.0.0.1")


def test_default_pools_go_by_name_and_others_stay_out() -> None:
    pools = [pool("b", "10.0.0.2"), pool("a", "10.0.0.1"), pool("c", "10.0.0.3", default=False)]
    selection = select(pools, WANT)
    assert selection.candidates == {4: ["a", "b"]}
    assert selection.rejected == []


def test_both_families_of_default_pools() -> None:
    pools = [pool("four", "10.0.0.1"), pool("six", "fd00::1", subnet=V6)]
    assert select(pools, WANT).candidates == {4: ["four"], 6: ["six"]}
    assert select(pools, replace(WANT, families=(6,))).candidates == {6: ["six"]}


def test_named_pools_keep_the_users_order_and_exclude_the_defaults() -> None:
    pools = [MINE, pool("a", "10.0.0.2", default=False), pool("z", "10.0.0.3"), pool("six", "fd00::1", subnet=V6)]
    want = replace(WANT, pool_names={4: ["z", "a", "z"]})
    assert select(pools, want).candidates == {4: ["z", "a"]}


@pytest.mark.parametrize("names", [None, {}, {4: []}, {4: (), 6: ()}])
def test_no_names_mean_the_default_pools(names: dict[int, list[str]] | None) -> None:
    assert select([MINE], replace(WANT, pool_names=names)).candidates == {4: ["mine"]}


def deleted(kept: SpiderIPPool) -> SpiderIPPool:
    meta = ObjectMeta(name=kept.metadata.name, deletion_timestamp="2026-01-01T00:00:00Z")
    return msgspec.structs.replace(kept, metadata=meta)


REJECTIONS = [
    (deleted(pool("p", "10.0.0.9")), "it is being deleted"),
    (pool("p", "10.0.0.9", disable=True), "it is disabled"),
    (pool("p", "10.0.0.9", node_name=("master",)), "its nodeName is master"),
    (pool("p", "10.0.0.9", node_name=("master", "worker")), "shared by several nodes: not claimed by this node"),
    (pool("p", "10.0.0.9", node_name=()), "shared by several nodes: not claimed by this node"),
    (pool("p", "10.0.0.9", multus_name=(ETH1,)), f"its multusName is {ETH1}, the attachment's is {ETH0}"),
    (pool("p", "10.0.0.9", multus_name=("ipvlan-eth1",)), f"its multusName is {ETH1}, the attachment's is {ETH0}"),
    (pool("p", "10.0.0.9", pod_affinity={"matchLabels": {"a": "b"}}), "it is limited by podAffinity, which this"),
    (pool("p", "10.0.0.9", namespace_name=("shop",)), "it is limited by namespaceName, which this version"),
    (pool("p", "10.0.0.9", namespace_affinity={"matchLabels": {"a": "b"}}), "it is limited by namespaceAffinity"),
    (pool("p", "10.0.0.9", node_name=(), node_affinity={"matchLabels": {}}), "it is limited by nodeAffinity"),
]


@pytest.mark.parametrize(("bad", "reason"), REJECTIONS)
def test_a_rejected_pool_is_named_with_its_reason(bad: SpiderIPPool, reason: str) -> None:
    selection = select([MINE, bad], WANT)
    assert selection.candidates == {4: ["mine"]}
    assert [name for name, _ in selection.rejected] == ["p"]
    assert selection.rejected[0][1].startswith(reason)
    with pytest.raises(NoPool, match="p: ") as caught:
        select([bad], WANT)
    assert reason in str(caught.value)


ACCEPTED = [
    pool("p", "10.0.0.9", multus_name=(ETH1, ETH0)),
    pool("p", "10.0.0.9", multus_name=("ipvlan-eth0",)),
    pool("p", "10.0.0.9", node_name=("worker", "worker")),
    pool("p", "10.0.0.9", node_affinity={"matchLabels": {"a": "b"}}),
]


@pytest.mark.parametrize("good", ACCEPTED)
def test_accepted(good: SpiderIPPool) -> None:
    assert select([good], WANT).candidates == {4: ["p"]}


def test_an_unknown_network_fits_only_pools_without_limit() -> None:
    with pytest.raises(NoPool, match=r"the attachment's is not known"):
        select([pool("p", "10.0.0.9", multus_name=(ETH0,))], replace(WANT, network=""))
    assert select([MINE], replace(WANT, network="")).candidates == {4: ["mine"]}


def test_a_family_asked_for_by_name_must_keep_a_candidate() -> None:
    pools = [MINE, pool("six", "fd00::1", subnet=V6, disable=True)]
    want = replace(WANT, pool_names={4: ["mine"], 6: ["six", "none", "mine"]})
    with pytest.raises(NoPool) as caught:
        select(pools, want)
    assert str(caught.value) == (
        "no IPv6 pool can be used on node worker: "
        "six: it is disabled; none: there is no such pool; mine: it is an IPv4 pool"
    )


def test_a_default_family_without_candidates_is_not_asked_for() -> None:
    pools = [MINE, pool("six", "fd00::1", subnet=V6, node_name=("master",))]
    selection = select(pools, WANT)
    assert selection.candidates == {4: ["mine"]}
    assert selection.rejected == [("six", "its nodeName is master")]


@pytest.mark.parametrize(
    ("pools", "want", "text"),
    [
        ([], WANT, "there is no default pool"),
        ([pool("p", "10.0.0.1", default=False)], WANT, "there is no default pool"),
        ([MINE], replace(WANT, pool_names={6: ["mine"]}, families=(4,)), "named for other families than IPv4"),
    ],
)
def test_nothing_at_all(pools: list[SpiderIPPool], want: Want, text: str) -> None:
    with pytest.raises(NoPool, match=text):
        select(pools, want)

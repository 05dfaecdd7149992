"""Pinned maps are untrusted input: whatever stands in them, the agent starts, repairs what it owns, and goes on."""

from __future__ import annotations

import random
from collections.abc import Iterator

import pytest

from datapath import bpfcall
from datapath.abi import MAPS, MapSpec
from datapath.flows import SocketKey, SocketPeer
from datapath.maps import Maps
from tests.netns.agent_rig import AgentRig

HASHES = [spec for spec in MAPS if spec.name not in ("counters", "workspaces", "calls")]


@pytest.fixture
def rig() -> Iterator[AgentRig]:
    """A node of its own: what nobody owns (flows, say) stays in the maps until it has aged."""
    with AgentRig() as built:
        yield built


def serve(rig: AgentRig) -> None:
    """A Service of both families with two endpoints each, and the API server's."""
    for name, addresses in (("web", ("10.96.0.9", "fd00:96::9")), ("kubernetes", ("10.96.0.1",))):
        meta = {"name": name, "namespace": "default"}
        spec = {"clusterIPs": list(addresses), "clusterIP": addresses[0], "ports": [{"port": 80, "targetPort": 8080}]}
        rig.folder.apply({"apiVersion": "v1", "kind": "Service", "metadata": meta, "spec": spec})
        for family, ends in (("IPv4", ("10.9.0.1", "10.9.0.2")), ("IPv6", ("fd09::1", "fd09::2"))):
            rig.folder.apply(
                {
                    "apiVersion": "discovery.k8s.io/v1",
                    "kind": "EndpointSlice",
                    "addressType": family,
                    "metadata": meta
                    | {"name": f"{name}-{family.lower()}"}
                    | {"labels": {"kubernetes.io/service-name": name}},
                    "endpoints": [{"addresses": [end]} for end in ends],
                    "ports": [{"port": 8080}],
                }
            )


def offered(rig: AgentRig) -> set[tuple[str, int, int]]:
    return {(row["frontend"], row["backends"], row["draining"]) for row in rig.agent.ask("services")["frontends"]}


def spoil(maps: Maps, spec: MapSpec, chance: random.Random) -> None:
    """Bytes of any sort: noise, the ends of every range, and what is there with some of its bytes changed."""
    fd, sizes = maps.fd(spec.name), (spec.key_size, spec.value_size)
    there = list(bpfcall.items(fd, *sizes))
    for _ in range(300):
        bpfcall.update(fd, *(chance.randbytes(size) for size in sizes))
    for fill in (b"\0", b"\xff"):
        bpfcall.update(fd, *(fill * size for size in sizes))
    for key, value in there:
        for _ in range(20):
            changed = [bytearray(key), bytearray(value)]
            for part in changed[chance.randrange(2) :]:
                part[chance.randrange(len(part))] = chance.randrange(256)
            bpfcall.update(fd, *map(bytes, changed))


@pytest.mark.parametrize("seed", [1, 2])
def test_the_next_start_repairs(rig: AgentRig, seed: int):
    container, answer = rig.add()
    serve(rig)
    rig.eventually(lambda: len(offered(rig)) == 3, lambda: str(offered(rig)))
    rig.agent.kill()
    chance = random.Random(seed)
    with Maps(rig.config.bpf_root) as maps:
        before = maps.pods(), maps.locals(), offers(maps), netns(maps)
        for spec in HASHES:
            spoil(maps, spec, chance)
        (slave,) = before[0]
        peer = SocketPeer("10.96.0.9", 80, 1, 2**31, slave)  # of a backend that is gone, in a protocol without sockets
        maps.socket_frontends.put(SocketKey(1, "10.9.0.1", 80, "1"), peer)
    rig.restart()
    rig.eventually(lambda: rig.agent.ask("status")["ready"], lambda: str(rig.agent.ask("status")))
    assert [one for one in rig.agent.ask("status")["problems"] if one["source"] != "conntrack"] == []
    with Maps(rig.config.bpf_root) as maps:
        assert (maps.pods(), maps.locals(), offers(maps), netns(maps)) == before
    assert "stay open" not in rig.agent.log_tail()
    for verb in (
        ["services"],
        ["conntrack"],
        ["drops", "--all"],
        ["status"],
        ["trace", container.id, "default/web:80"],
    ):
        done = rig.dragline(*verb)
        assert done.returncode == 0, (verb, done.stdout, done.stderr)
    assert container.configured(prevResult=answer.body).call("CHECK").exit_code == 0


def offers(maps: Maps) -> dict[tuple[str, int], set[tuple[str, int]]]:
    """What every frontend leads to, whatever the ids are."""
    entries = {number.number: entry for number, entry in maps.backends.items()}
    found: dict[tuple[str, int], set[tuple[str, int]]] = {}
    for key, entry in maps.services.items():
        ends = found.setdefault((key.address, key.port), set())
        if key.slot:
            ends.add((entries[entry.backend_id].address, entries[entry.backend_id].port))
    return found


def netns(maps: Maps) -> dict[int, int]:
    return {cookie.number: slave.number for cookie, slave in maps.netns_pods.items()}

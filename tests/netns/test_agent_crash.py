"""SIGKILL in the middle of ADDs and DELs, at chosen and at random moments; then everything must agree again.

What is compared: the links in the namespaces (what pods really have), the agent's own book, and the pinned maps.
"""

from __future__ import annotations

import random
import socket
import subprocess
import threading
import time
from collections.abc import Callable
from contextlib import suppress

import pytest

from datapath.abi import ADDRESS_POD
from datapath.maps import Maps
from tests.netns.agent_rig import AgentRig
from tests.netns.cni_calls import Container
from tests.testbed import netns

SHIM_MS = {"DRAGLINE_CONNECT_MS": "50"}
ADDS, DELS = 6, 3
PATIENCE_S = 1.0


def when_the_journal_has_grown(times: int) -> Callable[[AgentRig, list[Container]], None]:
    """Wait until that many writes were seen to reach the journal."""

    def wait(rig: AgentRig, containers: list[Container]) -> None:
        del containers
        size, seen, deadline = rig.config.journal.stat().st_size, 0, time.monotonic() + PATIENCE_S
        while seen < times and time.monotonic() < deadline:
            now = rig.config.journal.stat().st_size
            size, seen = now, seen + (now != size)

    return wait


def when_a_link_appears(number: int) -> Callable[[AgentRig, list[Container]], None]:
    """Wait until the namespace of the container of that number has its eth0."""

    def wait(rig: AgentRig, containers: list[Container]) -> None:
        del rig
        deadline = time.monotonic() + PATIENCE_S

        def watch() -> None:
            while time.monotonic() < deadline:
                with suppress(OSError):
                    socket.if_nametoindex("eth0")
                    return

        netns.enter(containers[number].netns, watch)

    return wait


def when_the_pods_change(times: int) -> Callable[[AgentRig, list[Container]], None]:
    """Wait until the map `pods` was seen to change so often (ADDs write it early, DELs first of all)."""

    def wait(rig: AgentRig, containers: list[Container]) -> None:
        del containers
        deadline = time.monotonic() + PATIENCE_S
        with Maps(rig.config.bpf_root) as maps:
            before, seen = set(maps.pods()), 0
            while seen < times and time.monotonic() < deadline:
                now = set(maps.pods())
                before, seen = now, seen + (now != before)

    return wait


def after(seconds: float) -> Callable[[AgentRig, list[Container]], None]:
    """Wait so long."""
    return lambda rig, containers: time.sleep(seconds)


RANDOMLY = random.Random(20)
MOMENTS = {
    **{f"journal {times}": when_the_journal_has_grown(times) for times in (1, 2, 4, 7)},
    **{f"link {number}": when_a_link_appears(number) for number in (0, 3)},
    **{f"pods {times}": when_the_pods_change(times) for times in (1, 3)},
    **{f"{s * 1e3:.1f} ms": after(s) for s in sorted(RANDOMLY.uniform(0.002, 0.03) for _ in range(4))},
}


@pytest.mark.parametrize("moment", MOMENTS)
def test_killed(rig: AgentRig, moment: str):
    """Six ADDs and three DELs run when the agent dies. Afterwards book, maps and kernel tell the same story."""
    old = [rig.add()[0] for _ in range(DELS + 1)]
    kept, doomed = old[0], old[1:]
    kept_address = kept.addresses()
    new = [rig.new() for _ in range(ADDS)]
    shims: list[subprocess.Popen[bytes]] = []
    starter = threading.Thread(target=lambda: shims.extend(_start(new, doomed)))
    starter.start()
    MOMENTS[moment](rig, new)
    rig.agent.kill()
    starter.join()
    acknowledged = [shim.communicate(timeout=30) and shim.returncode == 0 for shim in shims]
    assert all(acknowledged[ADDS:]), "a DEL failed for want of an agent"
    told = {one.id: one.addresses() for one, done in zip(new, acknowledged, strict=False) if done}

    rig.restart()
    rig.eventually(lambda: rig.attachments().keys() <= {"ready"}, rig.attachments)
    assert kept.addresses() == kept_address
    assert [one.links() for one in doomed] == [[]] * DELS
    assert {one.id: one.addresses() for one in new if one.id in told} == told
    _agree(rig, [kept, *new])

    again = [one.call("ADD") for one in new]  # as the runtime does after "try again"
    assert [answer.stdout for answer in again if answer.exit_code] == []
    assert {one.id: answer.addresses for one, answer in zip(new, again, strict=True) if one.id in told} == told
    for one, answer in zip(new, again, strict=True):
        assert one.configured(prevResult=answer.body).call("CHECK").exit_code == 0
    _agree(rig, [kept, *new])


def test_killed_again_while_it_recovers(rig: AgentRig):
    """A start that is killed too, several times: the work is only ever done again."""
    containers = [rig.add()[0] for _ in range(4)]
    rig.agent.kill()
    for one in containers[:2]:
        assert one.call("DEL", **SHIM_MS).exit_code == 0
    for delay in (0.3, 0.45, 0.6, 0.75):
        rig.agent.start()
        time.sleep(delay)
        rig.agent.kill()
    rig.restart()
    rig.eventually(lambda: rig.attachments() == {"ready": 2}, rig.attachments)
    assert [one.links() for one in containers] == [[], [], ["eth0"], ["eth0"]]
    _agree(rig, containers)


def _start(new: list[Container], doomed: list[Container]) -> list[subprocess.Popen[bytes]]:
    adds = [one.spawn("ADD", **SHIM_MS) for one in new[: ADDS // 2]]
    dels = [one.spawn("DEL", **SHIM_MS) for one in doomed]
    return [*adds, *(one.spawn("ADD", **SHIM_MS) for one in new[ADDS // 2 :]), *dels]


def _agree(rig: AgentRig, containers: list[Container]) -> None:
    """Every link has one address of its own, is `ready` in the book, and is what the maps have; nothing else is."""
    links = [one.link() for one in containers]
    present = [(one, link) for one, link in zip(containers, links, strict=True) if link]
    addresses = [one.addresses() for one, _ in present]
    flat = [address.split("/")[0] for found in addresses for address in found]
    assert all(len(found) == 1 for found in addresses), addresses
    assert len(set(flat)) == len(flat), f"an address is held twice: {flat}"
    assert rig.attachments().get("ready", 0) == len(present) == rig.pools()["main"][0]
    with Maps(rig.config.bpf_root) as maps:
        assert set(maps.pods()) == {link["ifindex"] for _, link in present}
        local = {key.address: entry for key, entry in maps.locals().items() if entry.kind == ADDRESS_POD}
    assert set(local) == set(flat)
    assert netns.run(["ip", "-n", rig.prefix, "neigh", "show", "nud", "permanent"]) == ""
    rig.eventually(lambda: set(rig.published("main")["allocatedIPs"]) == set(flat), lambda: rig.published("main"))

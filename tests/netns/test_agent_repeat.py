"""The same verbs again, late, out of order and all at once: one attachment a key, and nothing for a dead container."""

from __future__ import annotations

import random
import signal
import time
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor

import pytest

from cni import errors
from tests.netns.agent_rig import AgentRig
from tests.netns.cni_calls import Answer, Container
from tests.testbed import netns

PARALLEL = 20


def test_the_same_add_twice_gives_the_same_answer(rig: AgentRig):
    """A runtime that did not hear the answer asks again."""
    container, first = rig.add()
    again = container.call("ADD")
    assert (again.exit_code, again.stdout) == (0, first.stdout)
    assert rig.pools()["main"][0] == 1


def test_the_same_key_in_another_namespace_is_refused(rig: AgentRig):
    """And the attachment that exists is not touched."""
    container, first = rig.add()
    elsewhere = rig.new()
    answer = container.call("ADD", CNI_NETNS=elsewhere.path)
    assert answer.code == errors.LINK_EXISTS
    assert "another namespace" in answer.text and "DEL" in answer.text
    assert elsewhere.links() == []
    assert container.configured(prevResult=first.body).call("CHECK").exit_code == 0


def test_an_add_that_is_not_whole_any_more_asks_for_a_del(rig: AgentRig):
    """It is not repaired in silence, and not answered as if it were whole."""
    container, _ = rig.add()
    netns.ip_batch(["link del eth0"], container.netns)
    answer = container.call("ADD")
    assert answer.code == errors.LINK_EXISTS
    assert "DEL" in answer.text
    rig.discard([container])


def test_a_foreign_link_of_that_name_is_left_alone(rig: AgentRig):
    """Error 105, the link as it was, and no address held."""
    container = rig.new()
    netns.ip_batch(["link add eth0 type veth peer name other", "addr add 192.0.2.1/32 dev eth0"], container.netns)
    before = container.link()
    answer = container.call("ADD")
    assert answer.code == errors.LINK_EXISTS
    assert "eth0" in answer.text
    assert container.link() == before
    status, pools = rig.dragline("status", "-o", "json"), rig.dragline("pools", "-o", "json")
    assert (status.returncode, '"attachments": {}' in status.stdout) == (0, True), status.stdout
    assert '"allocated": 0' in pools.stdout and '"allocated": 1' not in pools.stdout
    assert container.call("DEL").exit_code == 0
    assert container.link() == before
    netns.ip_batch(["link del eth0"], container.netns)


@pytest.mark.parametrize("earlier_ns", [0, 1, 10**9])
def test_a_late_add_is_refused(rig: AgentRig, earlier_ns: int):
    """An ADD that began before (or with) the DEL of its container, and comes after it."""
    container = rig.new()
    began = time.monotonic_ns()
    assert container.call_as_of(began, "DEL").exit_code == 0
    answer = container.call_as_of(began - earlier_ns, "ADD")
    assert answer.code == errors.REFUSED_TOMBSTONE
    assert "DEL" in answer.text
    assert rig.leftovers() == []


def test_a_late_add_after_the_del_of_a_running_pod_is_refused(rig: AgentRig):
    """The same, where the DEL still has its slow half to do."""
    container = rig.new()
    began = time.monotonic_ns()
    assert container.call("ADD").exit_code == 0
    assert container.call("DEL").exit_code == 0
    assert container.call_as_of(began, "ADD").code == errors.REFUSED_TOMBSTONE
    rig.empty()


def test_a_late_add_is_refused_after_a_restart(rig: AgentRig):
    """Tombstones are in the journal."""
    container = rig.new()
    began = time.monotonic_ns()
    assert container.call("DEL").exit_code == 0
    rig.agent.kill()
    rig.restart()
    assert container.call_as_of(began, "ADD").code == errors.REFUSED_TOMBSTONE


def test_a_tombstone_is_for_its_container_only(rig: AgentRig):
    """Another container's older ADD is served."""
    dead, alive = rig.new(), rig.new()
    began = time.monotonic_ns()
    assert dead.call("DEL").exit_code == 0
    assert alive.call_as_of(began, "ADD").exit_code == 0


def test_a_newer_add_of_the_same_container_works(rig: AgentRig):
    """`cnitool add`, `del`, `add` with one container id, also right behind each other."""
    container, first = rig.add()
    for _ in range(5):
        assert container.call("DEL").exit_code == 0
        answer = container.call("ADD")
        assert answer.exit_code == 0, answer.stdout
        assert container.addresses() == answer.addresses
    assert first.body["interfaces"] == answer.body["interfaces"]
    assert rig.pools()["main"][0] == 1


def test_del_succeeds_whatever_is_missing(rig: AgentRig):
    """Unknown, twice, without the namespace, without CNI_NETNS, with a configuration that lost its plugin keys."""
    unknown = rig.new()
    assert unknown.call("DEL").exit_code == 0
    twice, _ = rig.add()
    assert [twice.call("DEL").exit_code for _ in range(3)] == [0, 0, 0]
    gone, _ = rig.add()
    netns.remove([gone.netns])
    assert gone.call("DEL").exit_code == 0
    unset, _ = rig.add()
    assert unset.call("DEL", CNI_NETNS="").exit_code == 0
    bare, _ = rig.add()
    keys = {name: bare.config[name] for name in ("cniVersion", "name", "type", "socket")}
    assert Container(bare.id, bare.netns, {**keys, "ippools": 7}).call("DEL").exit_code == 0
    rig.empty()  # no DEL was forgiven by doing nothing
    rig.containers.pop(gone.netns)


def test_del_without_netns_path_takes_the_link_too(rig: AgentRig):
    """The path of the ADD is known: the link does not stay until somebody removes the namespace."""
    container, _ = rig.add()
    assert container.call("DEL", CNI_NETNS="").exit_code == 0
    rig.eventually(lambda: container.links() == [], "the link stays")


def test_two_links_of_one_container(rig: AgentRig):
    """The key has the ifname in it: a DEL of one leaves the other."""
    container, _ = rig.add()
    second = Container(container.id, container.netns, {**container.config, "defaultRoute": False}, ifname="net1")
    assert second.call("ADD").exit_code == 0
    assert sorted(container.links()) == ["eth0", "net1"]
    assert container.addresses() != second.addresses()
    assert container.call("DEL").exit_code == 0
    rig.eventually(lambda: container.links() == ["net1"], container.links)
    rig.eventually(lambda: rig.attachments() == {"ready": 1}, rig.attachments)
    assert second.call("DEL").exit_code == 0


def test_a_shim_that_was_killed(rig: AgentRig):
    """SIGKILL of the shim at any moment of an ADD; the DEL that the runtime sends then leaves nothing."""
    randomly = random.Random(7)
    for _ in range(12):
        container = rig.new()
        shim = container.spawn("ADD")
        time.sleep(randomly.uniform(0, 0.006))
        shim.send_signal(signal.SIGKILL)
        shim.communicate()
        assert container.call("DEL").exit_code == 0
    rig.empty()


def test_bursts_for_different_containers(rig: AgentRig):
    """20 at once: 20 addresses, 20 MACs; then ADDs and DELs of two halves at once; then nothing."""
    containers = [rig.new() for _ in range(PARALLEL)]
    with ThreadPoolExecutor(PARALLEL) as pool:
        added = list(pool.map(lambda one: one.call("ADD"), containers))
        assert len({answer.addresses[0] for answer in added}) == PARALLEL
        assert len({answer.body["interfaces"][0]["mac"] for answer in added}) == PARALLEL
        assert rig.pools()["main"][0] == PARALLEL
        more = [rig.new() for _ in range(PARALLEL)]
        pairs = [pair for both in zip(containers, more, strict=True) for pair in zip(("DEL", "ADD"), both, strict=True)]
        mixed = list(pool.map(lambda pair: pair[1].call(pair[0]), pairs))
        _all_worked(mixed)
        rig.eventually(lambda: rig.attachments() == {"ready": PARALLEL}, rig.attachments)
        held = [one.addresses()[0] for one in more]
        assert len(set(held)) == PARALLEL
        assert held == [answer.addresses[0] for answer in mixed[1::2]]
        _all_worked(list(pool.map(lambda one: one.call("DEL"), more)))
    rig.empty()


def test_bursts_for_the_same_container(rig: AgentRig):
    """ADDs and DELs of one container in any order: each is answered, and after a last DEL nothing is left."""
    container = rig.new()
    with ThreadPoolExecutor(PARALLEL) as pool:
        answers = list(pool.map(container.call, ["ADD", "DEL"] * (PARALLEL // 2)))
    assert {answer.code for answer in answers} <= {0, errors.REFUSED_TOMBSTONE}
    assert {answer.code for answer in answers[1::2]} == {0}
    assert container.call("DEL").exit_code == 0
    rig.empty()


def test_equal_adds_at_once_share_one_answer(rig: AgentRig):
    """20 times the same ADD: one attachment, twenty equal results."""
    container = rig.new()
    with ThreadPoolExecutor(PARALLEL) as pool:
        answers = list(pool.map(container.call, ["ADD"] * PARALLEL))
    assert {(answer.exit_code, answer.stdout) for answer in answers} == {(0, answers[0].stdout)}
    assert rig.pools()["main"][0] == 1


def _all_worked(answers: Sequence[Answer]) -> None:
    assert [answer.stdout for answer in answers if answer.exit_code] == []

"""What an attacker's eyes found: uplinks that vanish and return, broken manifests over a restart, DELs that overlap."""

from __future__ import annotations

import json
import os
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from allocator.attachments import AddressLease, Attachment, Detaching, Ready, Taken
from allocator.journal import Journal
from cni import errors
from datapath.maps import Maps
from tests.netns.agent_rig import GATEWAY, AgentRig
from tests.netns.cni_calls import Raw
from tests.testbed import netns

SERVICE: Raw = {
    "apiVersion": "v1",
    "kind": "Service",
    "metadata": {"name": "s"},
    "spec": {"clusterIP": "10.96.0.10", "ports": [{"port": 80}]},
}
SLICE: Raw = {
    "apiVersion": "discovery.k8s.io/v1",
    "kind": "EndpointSlice",
    "metadata": {"name": "s1", "labels": {"kubernetes.io/service-name": "s"}},
    "addressType": "IPv4",
    "endpoints": [{"addresses": ["10.8.0.200"]}],
    "ports": [{"port": 80}],
}
BROKEN = "{broken: ["
UPLINK = ["link add eth2 type veth peer name eth2-wire", "link set eth2-wire up", "link set eth2 up"]
NEW_UPLINK = [*UPLINK, "addr add 10.8.1.1/24 dev eth2"]
BOOT_ID = Path("/proc/sys/kernel/random/boot_id")


@pytest.fixture
def files(rig: AgentRig) -> Iterator[Path]:
    """The folder of manifests; what the test wrote there is removed, and the agent has seen that."""
    before = {*rig.folder.path.iterdir(), rig.folder.path / ".status"}
    yield rig.folder.path
    for path in set(rig.folder.path.iterdir()) - before:
        path.unlink()
    rig.eventually(lambda: not problems(rig) and not programmed(rig), lambda: (problems(rig), programmed(rig)))


def problems(rig: AgentRig) -> list[Raw]:
    """What the agent says is wrong."""
    found: list[Raw] = rig.agent.ask("status")["problems"]
    return found


def programmed(rig: AgentRig) -> dict[str, list[str]]:
    """ "ClusterIP:port" -> the addresses of its backends, as the maps have them."""
    found: dict[str, list[str]] = {}
    with Maps(rig.config.bpf_root) as maps:
        backends = {key.number: entry for key, entry in maps.backends.items()}
        for key, entry in sorted(maps.services.items(), key=lambda item: item[0].slot):
            held = found.setdefault(f"{key.address}:{key.port}", [])
            if key.slot:
                held.append(backends[entry.backend_id].address)
    return found


def reach(rig: AgentRig, wanted: dict[str, list[str]]) -> None:
    """Wait until the maps hold exactly that."""
    rig.eventually(lambda: programmed(rig) == wanted, lambda: f"programmed: {programmed(rig)}")


def write(path: Path, raw: Raw, **spec: str) -> None:
    """A manifest; keys replace those of its spec."""
    path.write_text(json.dumps({**raw, "spec": {**raw["spec"], **spec}} if spec else raw))


def test_an_add_while_its_uplink_vanishes(rig: AgentRig):
    """An ADD forgets the uplink while the refresh prepares it: the refresh must not fall over that."""
    pid = rig.agent.pid
    rig.add()
    for number in range(10):
        netns.ip_batch(NEW_UPLINK, rig.prefix)
        late = rig.new(master="eth2")
        pod, _ = rig.add(master="eth2")
        netns.ip_batch(["link del eth2"], rig.prefix)
        time.sleep(0.044 + number * 0.0012)  # the refresh begins 50 ms after the last message
        assert late.call_as_of(time.monotonic_ns(), "ADD").exit_code == 1
        rig.eventually(lambda: "eth2" not in rig.agent.ask("status")["uplinks"], "eth2 is still in use")
        rig.discard([pod, late])
    assert rig.agent.pid == pid and rig.agent.ask("status")["ready"]


def test_an_uplink_made_anew_leaves_no_local_address(rig: AgentRig):
    """`addresses` of the old number go, whether its pods' DELs come before or after the new one is known."""
    try:
        netns.ip_batch(NEW_UPLINK, rig.prefix)
        rig.add(master="eth2")
        netns.ip_batch(["link del eth2", *NEW_UPLINK], rig.prefix)
        rig.eventually(lambda: rig.new(master="eth2").call("ADD").exit_code == 0, "ADD fails")
        rig.discard()
        rig.empty()
    finally:
        netns.ip_batch(["link del eth2"], rig.prefix)


def ipvlan(container_id: str, address: str, ifindex: int) -> Attachment:
    """An ipvlan attachment whose namespace is gone, as the journal has it."""
    lease = AddressLease("main", f"{address}/24", GATEWAY)
    gone = ("/run/netns/gone", 1, 2)
    return Attachment("lan", container_id, "eth0", "d", "p", "u", *gone, "ipvlan", "eth0", ifindex, "", (lease,))


def neighbours(rig: AgentRig) -> list[str]:
    """The node's permanent neighbours."""
    shown = netns.run(["ip", "-n", rig.prefix, "neigh", "show", "nud", "permanent"])
    return sorted(line.split()[0] for line in shown.splitlines())


def routes(rig: AgentRig) -> list[str]:
    """The node's own routes to single pods."""
    shown = netns.run(["ip", "-n", rig.prefix, "route", "show", "proto", "static"])
    return sorted(line.split()[0] for line in shown.splitlines())


@pytest.fixture
def two_of_ipvlan(rig: AgentRig) -> Iterator[AgentRig]:
    """A killed agent's journal with a pod at 10.9.0.10 that was being deleted and two that run, .0.11 and 10.9.0.12.

    The node's half is as it was written for the first, and lost for the others. Then the agent starts.
    """
    rig.agent.kill()
    doomed, near, far = (
        ipvlan(f"ipvlan{index}", address, 0x200000 + index)
        for index, address in enumerate(("10.9.0.10", "10.8.0.11", "10.9.0.12"))
    )
    journal, _ = Journal.open(rig.config.journal, BOOT_ID.read_text().strip())
    first = 1 << 40  # after whatever earlier tests did
    journal.commit(Taken(first, doomed), Ready(first + 1, doomed), Detaching(first + 2, doomed.key))
    for number, running in enumerate((near, far)):
        journal.commit(Taken(first + 3 + 2 * number, running), Ready(first + 4 + 2 * number, running))
    journal.close()
    mac = json.loads(netns.run(["ip", "-n", rig.prefix, "-j", "link", "show", "eth0"]))[0]["address"]
    neighbour = f"neigh replace 10.9.0.10 lladdr {mac} nud permanent dev eth0"
    netns.ip_batch([neighbour, "route add 10.9.0.10/32 dev eth0 proto static"], rig.prefix)
    rig.restart()
    yield rig
    rig.start_afresh()
    lines = ["neigh flush dev eth0 nud permanent", "route flush proto static"]
    netns.ip_batch(lines, rig.prefix)


def test_the_nodes_half_over_a_restart_and_an_uplink_that_goes_down(two_of_ipvlan: AgentRig):
    """What was half done is taken back whole; what runs is found again, also after its uplink was down."""
    rig = two_of_ipvlan
    running = ["10.8.0.11", "10.9.0.12"]

    def whole() -> bool:
        return (rig.attachments(), neighbours(rig), routes(rig)) == ({"ready": 2}, running, ["10.9.0.12"])

    rig.eventually(whole, lambda: (rig.attachments(), neighbours(rig), routes(rig)))
    netns.ip_batch(["link set eth0 down"], rig.prefix)
    assert neighbours(rig) == routes(rig) == []
    rig.eventually(lambda: "eth0" not in rig.agent.ask("status")["uplinks"], "eth0 is still in use")
    netns.ip_batch(["link set eth0 up"], rig.prefix)
    rig.eventually(whole, lambda: (rig.attachments(), neighbours(rig), routes(rig)))


@pytest.mark.parametrize("broken", ["slice.json", "service.json"])
@pytest.mark.parametrize("mended", [True, False])
def test_backends_outlive_a_manifest_broken_over_a_restart(rig: AgentRig, files: Path, broken: str, mended: bool):
    """What cannot be read may be what is programmed: it stays in force, until the file says something or goes."""
    raw = {"slice.json": SLICE, "service.json": SERVICE}
    for name, content in raw.items():
        write(files / name, content)
    reach(rig, {"10.96.0.10:80": ["10.8.0.200"]})
    rig.agent.kill()
    (files / broken).write_text(BROKEN)
    rig.restart()
    assert programmed(rig) == {"10.96.0.10:80": ["10.8.0.200"]}
    assert [problem["source"].split(":")[0] for problem in problems(rig)] == [broken]
    other = {"10.96.0.11:80": []}
    write(files / "other.json", {**SERVICE, "metadata": {"name": "other"}}, clusterIP="10.96.0.11")
    reach(rig, {"10.96.0.10:80": ["10.8.0.200"], **other})  # a change elsewhere costs it nothing
    if mended:
        write(files / broken, raw[broken])
        rig.eventually(lambda: not problems(rig), lambda: problems(rig))
    else:
        (files / broken).unlink()
    write(files / "more.json", {**SERVICE, "metadata": {"name": "more"}}, clusterIP="10.96.0.12")
    left = {"slice.json": {"10.96.0.10:80": []}, "service.json": {}}
    truth = {"10.96.0.10:80": ["10.8.0.200"]} if mended else left[broken]
    reach(rig, {**truth, **other, "10.96.0.12:80": []})


def test_a_manifest_of_deep_aliases(rig: AgentRig, files: Path):
    """Each level is one alias: shallow as text, 1500 deep as data. A named problem, and the daemon lives."""
    lines = ["apiVersion: v1", "kind: Pod", "metadata: {name: a}", "spec: {}", "x0: &x0", "- 1"]
    for level in range(1, 1500):
        lines += [f"x{level}: &x{level}", f"- *x{level - 1}"]
    pid = rig.agent.pid
    (files / "deep.yaml").write_text("\n".join(lines))
    rig.eventually(lambda: problems(rig), "the file is not noticed")
    (problem,) = problems(rig)
    name, _, line = problem["source"].partition(":")
    assert name == "deep.yaml" and int(line) > 1
    assert "nest too deeply" in problem["message"]
    assert rig.agent.pid == pid and rig.add()


def test_a_cluster_ip_in_another_spelling(rig: AgentRig, files: Path):
    """IPv4 inside IPv6 is the IPv4 address, as for kube-proxy, also at a start; Services beside it do not suffer."""
    write(files / "a.json", {**SERVICE, "metadata": {"name": "a"}}, clusterIP="::ffff:10.96.0.9")
    write(files / "b.json", SERVICE)
    reach(rig, {"10.96.0.9:80": [], "10.96.0.10:80": []})
    rig.agent.kill()
    rig.restart()
    write(files / "c.json", {**SERVICE, "metadata": {"name": "c"}}, clusterIP="10.96.0.11")
    reach(rig, {"10.96.0.9:80": [], "10.96.0.10:80": [], "10.96.0.11:80": []})
    assert problems(rig) == []


def test_a_later_del_while_the_first_is_carried_out(rig: AgentRig):
    """DEL, a later DEL, then an ADD that began between them: it is late."""
    for _ in range(5):
        container, _ = rig.add()
        first = time.monotonic_ns()
        between, last = first + 1_000_000, first + 2_000_000
        assert [container.call_as_of(at, "DEL").exit_code for at in (first, last)] == [0, 0]
        assert container.call_as_of(between, "ADD").code == errors.REFUSED_TOMBSTONE
        assert container.call("ADD").exit_code == 0


@pytest.mark.parametrize("subnet", ["10.8.0.0/255.255.255.0", "fe80::%eth0/64"])
def test_a_subnet_that_is_no_cidr_is_refused_by_name(rig: AgentRig, files: Path, subnet: str):
    """What Python's ipaddress takes and the rest of the world does not."""
    spec = {"subnet": subnet, "ips": ["10.8.0.70" if "." in subnet else "fe80::1"]}
    kind = {"apiVersion": "spiderpool.spidernet.io/v2beta1", "kind": "SpiderIPPool", "metadata": {"name": "odd"}}
    (files / "odd.json").write_text(json.dumps({**kind, "spec": spec}))
    rig.eventually(lambda: problems(rig), "the pool is taken")
    (problem,) = problems(rig)
    assert "odd.json" in problem["source"]
    assert "SpiderIPPool odd: spec.subnet" in problem["message"] and subnet in problem["message"]
    assert "odd" not in rig.pools()


def test_a_file_name_that_is_not_utf8(rig: AgentRig, files: Path):
    """It is not ours to read, and cannot be printed: `dragline status` goes on."""
    (files / os.fsdecode(b"\xff.yaml")).write_text("x: [", encoding="utf-8")
    write(files / "later.json", SERVICE)
    reach(rig, {"10.96.0.10:80": []})  # the folder's events come in order: the other one was seen
    done = rig.dragline("status")
    assert (done.returncode, done.stderr) == (0, "")
    assert problems(rig) == []

"""The folder of manifests under a running agent: bad edits are told and cost nothing, good ones reach the next pod."""

from __future__ import annotations

import json
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.netns.agent_rig import AgentRig
from tests.netns.cni_calls import Raw

POOLS = {"ipv4": ["edited"]}


@pytest.fixture
def manifest(rig: AgentRig) -> Iterator[Path]:
    """The file of the pool `edited`, 10.8.0.80 to .83; the pool is removed after the test."""
    rig.pool("edited", "10.8.0.80-10.8.0.83")
    path = rig.folder.path / "SpiderIPPool.edited.yaml"
    yield path
    rig.discard()
    rig.folder.delete("SpiderIPPool", "edited")
    rig.eventually(lambda: "edited" not in rig.pools(), rig.pools)


def problems(rig: AgentRig) -> list[Raw]:
    """What the agent says is wrong."""
    found: list[Raw] = rig.agent.ask("status")["problems"]
    return found


BAD_EDITS = {
    "not YAML": ("spec:\n  subnet: [", "SpiderIPPool.edited.yaml"),
    "a tab": ("kind: SpiderIPPool\n\tspec: {}", "SpiderIPPool.edited.yaml"),
    "ips outside the subnet": ("10.8.0.80-10.8.0.83=>10.9.0.80-10.9.0.83", "10.9.0.80"),
    "a turned range": ("10.8.0.80-10.8.0.83=>10.8.0.83-10.8.0.80", "10.8.0.83"),
    "a wrong type": ("gateway: 10.8.0.254=>gateway: [10]", "gateway"),
    "no subnet": ("subnet: 10.8.0.0/24=>supernet: 10.8.0.0/24", "subnet"),
    "subnet is no CIDR": ("10.8.0.0/24=>10.8.0.0/99", "10.8.0.0/99"),
    "a gateway elsewhere": ("10.8.0.254=>10.9.0.254", "10.9.0.254"),
}


@pytest.mark.parametrize("case", BAD_EDITS)
def test_a_bad_edit(rig: AgentRig, manifest: Path, case: str):
    """Status names file and reason, ADD goes on with the last good state, and the repair ends the problem."""
    edit, reason = BAD_EDITS[case]
    before, separator, after = edit.partition("=>")
    good = manifest.read_text()
    manifest.write_text(good.replace(before, after) if separator else edit)
    rig.eventually(lambda: problems(rig), "the bad edit is not noticed")
    (problem,) = problems(rig)
    assert manifest.name in problem["source"]
    assert reason in problem["source"] + problem["message"]
    shown = rig.dragline("status")
    assert manifest.name in shown.stdout and problem["message"] in shown.stdout
    assert shown.returncode == 0  # it is said, but ADD is served
    assert rig.add(ippools=POOLS)[1].addresses[0].startswith("10.8.0.8")
    manifest.write_text(good)
    rig.eventually(lambda: not problems(rig), lambda: problems(rig))


def test_a_bad_pool_at_the_start(rig: AgentRig, manifest: Path):
    """There is no last good state then: the pool does not exist, and everything else works."""
    good = manifest.read_text()
    rig.agent.stop()
    manifest.write_text("kind: [")
    rig.restart()
    assert [problem["source"].split(":")[0] for problem in problems(rig)] == [manifest.name]
    refused = rig.new(ippools=POOLS).call("ADD")
    assert "edited: there is no such pool" in refused.text
    rig.add()
    manifest.write_text(good)
    rig.eventually(lambda: "edited" in rig.pools(), rig.pools)
    rig.add(ippools=POOLS)


def test_an_edit_reaches_new_pods_only(rig: AgentRig, manifest: Path):
    """Other ips and another gateway: the running pod keeps what it has, and is found whole."""
    old, answer = rig.add(ippools=POOLS)
    rig.pool("edited", "10.8.0.90-10.8.0.91", gateway="10.8.0.253")
    rig.eventually(lambda: rig.pools()["edited"] == (1, 2), rig.pools)
    _, changed = rig.add(ippools=POOLS)
    assert changed.addresses == ["10.8.0.90/24"]
    assert changed.body["ips"][0]["gateway"] == "10.8.0.253"
    check = old.configured(prevResult=answer.body).call("CHECK")
    assert check.exit_code == 0, check.stdout
    again = old.call("ADD")
    assert again.stdout == answer.stdout


def test_edited_routes_reach_new_pods_only(rig: AgentRig, manifest: Path):
    """The same for the pool's routes, which are no part of the lease."""
    old, answer = rig.add(ippools=POOLS)
    rig.pool("edited", "10.8.0.80-10.8.0.84", routes=[{"dst": "10.96.0.0/12", "gw": "10.8.0.253"}])
    rig.eventually(lambda: rig.pools()["edited"] == (1, 5), rig.pools)
    new, _ = rig.add(ippools=POOLS)
    assert "10.96.0.0/12" in {route["dst"] for route in new.routes()}
    assert "10.96.0.0/12" not in {route["dst"] for route in old.routes()}
    check = old.configured(prevResult=answer.body).call("CHECK")
    assert check.exit_code == 0, check.stdout
    assert old.call("ADD").stdout == answer.stdout


def test_an_address_outside_the_new_ranges_is_never_given_again(rig: AgentRig, manifest: Path):
    """Not while its pod lives, even when the ranges come back."""
    old, answer = rig.add(ippools=POOLS)
    rig.pool("edited", "10.8.0.90")
    rig.eventually(lambda: rig.pools()["edited"] == (1, 1), rig.pools)
    rig.pool("edited", answer.addresses[0].split("/")[0], "10.8.0.91")
    rig.eventually(lambda: rig.pools()["edited"] == (1, 2), rig.pools)
    assert rig.add(ippools=POOLS)[1].addresses == ["10.8.0.91/24"]
    assert rig.new(ippools=POOLS).call("ADD").exit_code == 1
    assert old.addresses() == answer.addresses


def test_a_pool_that_is_deleted_under_its_pods(rig: AgentRig, manifest: Path):
    """CHECK and DEL of the pod work; a pool that comes back does not give its address away."""
    old, answer = rig.add(ippools=POOLS)
    text = manifest.read_text()
    manifest.unlink()
    rig.eventually(lambda: "edited" not in rig.pools(), rig.pools)
    assert rig.new(ippools=POOLS).call("ADD").exit_code == 1
    assert old.configured(prevResult=answer.body).call("CHECK").exit_code == 0
    manifest.write_text(text)
    rig.eventually(lambda: rig.pools().get("edited") == (1, 4), rig.pools)
    assert rig.add(ippools=POOLS)[1].addresses != answer.addresses


def test_published_status(rig: AgentRig, manifest: Path):
    """`allocatedIPs` is JSON text as Spiderpool writes it, and goes when the last pod goes."""
    container, answer = rig.add(ippools=POOLS)
    address = answer.addresses[0].split("/")[0]
    entry = {address: {"interface": "eth0", "pod": "/", "podUid": ""}}
    expected: Raw = {"allocatedIPCount": 1, "totalIPCount": 4, "allocatedIPs": entry}
    rig.eventually(lambda: rig.published("edited") == expected, lambda: rig.published("edited"))
    raw = rig.folder.status("SpiderIPPool", "edited")["allocatedIPs"]
    assert isinstance(raw, str) and json.loads(raw) == entry
    table = rig.dragline("pools").stdout.splitlines()
    assert table[0].split() == ["NAME", "VERSION", "SUBNET", "ALLOCATED-IP-COUNT", "TOTAL-IP-COUNT", "DEFAULT"]
    assert ["edited", "4", "10.8.0.0/24", "1", "4", "false"] in [line.split() for line in table]
    rig.discard([container])
    rig.eventually(lambda: rig.published("edited")["allocatedIPCount"] == 0, lambda: rig.published("edited"))
    assert "allocatedIPs" not in rig.folder.status("SpiderIPPool", "edited")


def test_the_status_of_a_busy_pool_is_not_late(rig: AgentRig, manifest: Path):
    """Pods that come while the status is being written do not have to wait for the pause after a failed write."""
    rig.pool("edited", "10.8.0.80-10.8.0.99")
    for rounds in range(3):
        begin = time.monotonic()
        while time.monotonic() - begin < 0.4:  # some of these fall into a write, which follows 0.1 s after the first
            container, _ = rig.add(ippools=POOLS)
            rig.discard([container])
        rig.add(ippools=POOLS)
        rig.eventually(
            lambda rounds=rounds: rig.published("edited")["allocatedIPCount"] == rounds + 1,
            lambda: rig.published("edited"),
            timeout_s=1.0,
        )


def test_the_command_line_without_an_agent(rig: AgentRig):
    """Exit code 3 and what to do."""
    rig.agent.stop()
    done = rig.dragline("status")
    assert (done.returncode, done.stdout) == (3, "")
    assert "is `dragline agent` running?" in done.stderr
    rig.restart()

"""A full disk under the journal: an ADD that cannot be remembered is not made. And one who works again, remembers."""

from __future__ import annotations

import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest

from cni import errors
from datapath.maps import Maps
from tests.netns.agent_rig import AgentRig
from tests.netns.cni_calls import Answer, Container

MOST_ADDS = 40


@pytest.fixture(scope="module")
def small_disk(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    """A tmpfs of 64 KiB."""
    folder = tmp_path_factory.mktemp("state")
    subprocess.run(["mount", "-t", "tmpfs", "-o", "size=64k", "tmpfs", folder], check=True)
    try:
        yield folder
    finally:
        subprocess.run(["umount", folder], check=True)


@pytest.fixture(scope="module")
def node_with_small_disk(small_disk: Path) -> Iterator[AgentRig]:
    """An agent whose journal is there."""
    with AgentRig(state_dir=small_disk) as built:
        yield built


@pytest.fixture
def rig(node_with_small_disk: AgentRig) -> Iterator[AgentRig]:
    """The same node, empty before and after each test."""
    yield node_with_small_disk
    print(node_with_small_disk.agent.log_tail())
    (node_with_small_disk.config.state_dir / "filler").unlink(missing_ok=True)
    node_with_small_disk.discard()
    node_with_small_disk.empty()


def fill(rig: AgentRig) -> Path:
    """Take every free page of the journal's disk; only the rest of the journal's own last page is left."""
    filler = rig.config.state_dir / "filler"
    with filler.open("wb", buffering=0) as stream, pytest.raises(OSError, match="No space"):
        while True:
            stream.write(bytes(4096))
    return filler


def add_until_it_fails(rig: AgentRig) -> tuple[list[Container], Container, Answer]:
    """The containers that were attached, and the one that was refused, with its answer."""
    attached: list[Container] = []
    for _ in range(MOST_ADDS):
        container = rig.new()
        answer = container.call("ADD")
        if answer.exit_code:
            return attached, container, answer
        attached.append(container)
    raise AssertionError("the disk is not full")


@pytest.mark.parametrize("tombstones", range(5))
def test_an_add_that_cannot_be_written(rig: AgentRig, tombstones: int):
    """Code 5 and nothing left, at whichever of an ADD's records the disk is full; the next one after it is freed works.

    Tombstones of unknown containers are smaller than an ADD's records: they move the place where the last page ends.
    """
    for _ in range(tombstones):
        assert rig.new().call("DEL").exit_code == 0
    filler = fill(rig)
    attached, refused, answer = add_until_it_fails(rig)
    assert answer.code == errors.IO_FAILURE
    assert "journal" in answer.text and "No space" in answer.text
    assert refused.links() == []
    assert rig.attachments() == ({"ready": len(attached)} if attached else {})
    assert rig.pools()["main"][0] == len(attached)
    with Maps(rig.config.bpf_root) as maps:
        assert set(maps.pods()) == {container.link()["ifindex"] for container in attached}
    filler.unlink()
    assert refused.call("ADD").exit_code == 0
    held = [address for container in (*attached, refused) for address in container.addresses()]
    assert len(set(held)) == len(attached) + 1
    rig.agent.kill()
    rig.restart()
    assert rig.attachments() == {"ready": len(attached) + 1}
    assert rig.agent.ask("status")["problems"] == []  # a failed write was cut off whole
    assert [one for container in (*attached, refused) for one in container.addresses()] == held


def test_a_del_that_cannot_be_written(rig: AgentRig):
    """Code 5, so that the runtime asks again; then it works, and what happened is remembered."""
    filler = fill(rig)
    attached, _, _ = add_until_it_fails(rig)
    attached = attached or [rig.new()]
    answer = attached[0].call("DEL")
    while answer.exit_code == 0:  # a DEL's record is small and may still find room
        answer = rig.new().call("DEL")
    assert answer.code == errors.IO_FAILURE
    filler.unlink()
    assert attached[0].call("DEL").exit_code == 0
    rig.eventually(lambda: attached[0].links() == [], attached[0].links)
    rig.eventually(lambda: rig.attachments().get("ready", 0) == len(attached) - 1, rig.attachments)
    rig.agent.kill()
    rig.restart()
    rig.eventually(lambda: rig.attachments().get("ready", 0) == len(attached) - 1, rig.attachments)


def test_the_del_of_an_attached_pod_is_asked_again(rig: AgentRig):
    """A DEL that failed for the disk: until it is repeated the pod holds its address; repeated, it ends the pod."""
    container, _ = rig.add()
    address = container.addresses()
    filler = fill(rig)
    answer = rig.new().call("DEL")
    for _ in range(200):
        if answer.exit_code:
            break
        answer = rig.new().call("DEL")
    assert container.call("DEL").code == errors.IO_FAILURE
    assert rig.pools()["main"][0] == 1
    filler.unlink()
    assert rig.add()[1].addresses != address
    assert container.call("DEL").exit_code == 0
    rig.eventually(lambda: container.links() == [], container.links)
    rig.eventually(lambda: rig.attachments() == {"ready": 1}, rig.attachments)
    rig.agent.kill()
    rig.restart()
    assert rig.attachments() == {"ready": 1}


def test_an_agent_that_cannot_open_its_journal(rig: AgentRig):
    """Exit code 1 and the reason; it does not start without a memory."""
    rig.agent.stop()
    rig.config.journal.rename(rig.config.journal.with_name("kept"))
    rig.config.journal.mkdir()
    try:
        rig.agent.start()
        rig.eventually(lambda: "cannot open the journal" in rig.agent.log_tail(), "it does not say why")
        rig.agent.stop()
    finally:
        rig.config.journal.rmdir()
        rig.config.journal.with_name("kept").rename(rig.config.journal)
    rig.restart()

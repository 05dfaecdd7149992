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
MOST_DELS = 200


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


def delete_on_a_full_disk(rig: AgentRig, container: Container) -> None:
    """Have the DEL of an attached container fail for the disk, then free the disk."""
    filler = fill(rig)
    for _ in range(MOST_DELS):  # these records are small: they use up the rest of the last page
        if rig.new().call("DEL").exit_code:
            break
    assert container.call("DEL").code == errors.IO_FAILURE
    assert container.links() == ["eth0"]
    filler.unlink()


def test_a_del_that_cannot_be_written(rig: AgentRig):
    """Code 5, so that the runtime asks again. Until then the pod holds its address; asked again, the pod ends."""
    container, answer = rig.add()
    delete_on_a_full_disk(rig, container)
    assert rig.add()[1].addresses != answer.addresses
    assert container.call("DEL").exit_code == 0
    rig.eventually(lambda: container.links() == [], container.links)
    rig.eventually(lambda: rig.attachments() == {"ready": 1}, rig.attachments)
    rig.agent.kill()
    rig.restart()
    assert rig.attachments() == {"ready": 1}


def test_a_repeated_del_is_remembered(rig: AgentRig):
    """The second DEL was acknowledged: an agent that is killed at once must not come back with the pod as `ready`."""
    container, _ = rig.add()
    delete_on_a_full_disk(rig, container)
    assert container.call("DEL").exit_code == 0
    rig.agent.kill()  # before the slow half is noted
    rig.restart()
    rig.eventually(lambda: rig.attachments() == {}, rig.attachments)
    assert container.links() == []


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

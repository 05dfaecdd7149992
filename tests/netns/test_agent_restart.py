"""An agent that ends and comes back: pods keep what they have, nobody gets it twice, nothing asked for is forgotten."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from dataclasses import replace
from pathlib import Path

from agent.config import Config, argument_list
from cni import errors
from tests.netns.agent_rig import NODE, AgentRig
from tests.netns.cni_calls import Container
from tests.testbed import netns

FAST = {"DRAGLINE_CONNECT_MS": "50"}


def agent_command(rig: AgentRig, config: Config) -> list[str]:
    """The command line of an agent on the rig's node."""
    return netns.nsenter(rig.prefix, [str(Path(sys.executable).with_name("dragline")), "agent", *argument_list(config)])


def test_killed_with_pods_attached(rig: AgentRig):
    """Same pods, same addresses, CHECK passes, the same ADD has the same answer, and a new pod gets another address."""
    running = [rig.add() for _ in range(4)]
    rig.discard([running.pop(1)[0]])
    rig.eventually(lambda: rig.attachments() == {"ready": 3}, rig.attachments)
    before = {container.id: container.addresses() for container, _ in running}
    rig.agent.kill()
    assert {container.id: container.addresses() for container, _ in running} == before
    rig.restart()
    assert rig.attachments() == {"ready": 3}
    assert "adopted" in rig.agent.ask("status")["programs"]
    for container, answer in running:
        assert container.configured(prevResult=answer.body).call("CHECK").exit_code == 0
        assert container.call("ADD").stdout == answer.stdout
    held = {address for addresses in before.values() for address in addresses}
    new = [rig.add()[1].addresses[0] for _ in range(5)]
    assert len(held | set(new)) == 8


def test_maps_that_somebody_emptied_are_written_again(rig: AgentRig):
    """Pinned maps are untrusted: a missing entry comes back at the start, a foreign one goes."""
    from datapath.abi import ADDRESS_POD
    from datapath.maps import Maps

    container, answer = rig.add()
    rig.agent.kill()
    with Maps(rig.config.bpf_root) as maps:
        ((ifindex, entry),) = maps.pods().items()
        before = maps.locals()
        maps.delete_pod(ifindex)
        maps.delete_local(container.addresses()[0].split("/")[0], entry.uplink_ifindex)
        maps.put_pod(0x1FFFFF, entry)
        maps.put_local("10.8.0.99", entry.uplink_ifindex, ADDRESS_POD, 0x1FFFFF)
        maps.put_local("10.8.0.98", entry.uplink_ifindex, ADDRESS_POD, ifindex)  # it could send with that one
        maps.put_local("10.8.0.97", 0, ADDRESS_POD, ifindex)
    rig.restart()
    with Maps(rig.config.bpf_root) as maps:
        assert maps.pods() == {ifindex: entry}
        assert maps.locals() == before
    assert container.configured(prevResult=answer.body).call("CHECK").exit_code == 0


def test_dels_while_it_is_away_are_spooled(rig: AgentRig):
    """They succeed at once, and are carried out at the start; a namespace that is gone by then is fine."""
    stays, with_netns, without = (rig.add()[0] for _ in range(3))
    rig.agent.kill()
    for container in (with_netns, without):
        done = container.call("DEL", **FAST)
        assert (done.exit_code, done.stdout) == (0, b"")
    assert len(list(rig.config.spool.glob("*.del"))) == 2
    netns.remove([without.netns])
    rig.restart()
    rig.eventually(lambda: rig.attachments() == {"ready": 1}, rig.attachments)
    assert (stays.links(), with_netns.links()) == (["eth0"], [])
    assert list(rig.config.spool.iterdir()) == []
    rig.containers.pop(without.netns)


def test_an_add_while_it_is_away_is_told_to_try_again(rig: AgentRig):
    """Code 11; and one that waits long enough meets the new agent."""
    rig.agent.kill()
    container = rig.new()
    answer = container.call("ADD", **FAST)
    assert (answer.code, "away" in answer.text) == (errors.TRY_AGAIN, True)
    patient = container.spawn("ADD", DRAGLINE_CONNECT_MS="60000")
    rig.restart()
    stdout, _ = patient.communicate(timeout=30)
    assert patient.returncode == 0, stdout


def test_a_spooled_del_beats_an_add_that_began_before_it(rig: AgentRig):
    """The tombstone is the shim's time, not the drain's."""
    container = rig.new()
    rig.agent.kill()
    began = time.monotonic_ns()
    assert container.call("DEL", **FAST).exit_code == 0
    rig.restart()
    assert container.call_as_of(began, "ADD").code == errors.REFUSED_TOMBSTONE
    assert container.call("ADD").exit_code == 0


def test_a_spool_file_that_is_none(rig: AgentRig):
    """It is set aside, and keeps nobody from starting."""
    container, _ = rig.add()
    rig.agent.kill()
    assert container.call("DEL", **FAST).exit_code == 0
    (rig.config.spool / "aaa-eth0.del").write_bytes(b"DRG1 nonsense")
    rig.restart()
    rig.eventually(lambda: rig.attachments() == {}, rig.attachments)
    assert [path.name for path in rig.config.spool.iterdir()] == ["aaa-eth0.del.bad"]
    (rig.config.spool / "aaa-eth0.del.bad").unlink()


def test_sigterm_waits_for_running_verbs(rig: AgentRig):
    """An ADD that waits for its pod's object gets its answer, then the process ends with 0."""
    rig.agent.stop()
    with (rig.home / "agent.log").open("ab") as log:
        process = subprocess.Popen(agent_command(rig, rig.config), stdout=log, stderr=log)
    try:
        rig.eventually(rig.config.socket.exists, "no socket")
        rig.eventually(lambda: rig.agent.ask("status")["ready"], "not ready")
        empty = rig.new()
        container = Container(
            empty.id, empty.netns, empty.config, args="K8S_POD_NAMESPACE=default;K8S_POD_NAME=slow;K8S_POD_UID=u"
        )
        shim = container.spawn("ADD")
        time.sleep(0.3)
        os.kill(process.pid, signal.SIGTERM)
        rig.eventually(lambda: not rig.config.socket.exists(), "the socket stays")
        assert process.poll() is None
        meta = {"name": "slow", "namespace": "default", "uid": "u"}
        rig.folder.apply({"apiVersion": "v1", "kind": "Pod", "metadata": meta, "spec": {"nodeName": NODE}})
        stdout, _ = shim.communicate(timeout=20)
        assert shim.returncode == 0, stdout
        assert process.wait(20) == 0
    finally:
        process.kill()
        process.wait()
    assert container.links() == ["eth0"]
    assert rig.published("main")["allocatedIPCount"] == 1  # written before the end
    rig.folder.delete("Pod", "default/slow")
    rig.restart()
    assert rig.attachments() == {"ready": 1}


def test_a_second_agent_is_refused(rig: AgentRig):
    """On the same state folder, even with another socket: exit code 1, and one line that says why."""
    container, answer = rig.add()
    other = replace(rig.config, socket=rig.home / "other.sock")
    done = subprocess.run(agent_command(rig, other), capture_output=True, text=True, check=False, timeout=30)
    assert done.returncode == 1
    assert "in use by another agent" in done.stderr and str(rig.config.state_dir) in done.stderr
    assert "Traceback" not in done.stderr
    assert container.configured(prevResult=answer.body).call("CHECK").exit_code == 0
    rig.add()


def test_a_namespace_that_was_replaced_while_it_was_away(rig: AgentRig):
    """Another sandbox lies at the old path: its links are not touched by the undo of the old one."""
    container, _ = rig.add()
    number = container.link()["ifindex"]
    rig.agent.kill()
    netns.remove([container.netns])
    netns.ip_batch([f"netns add {container.netns}"])
    netns.ip_batch([f"link add eth0 index {number} type veth peer name other"], container.netns)
    assert container.call("DEL", CNI_NETNS="", **FAST).exit_code == 0
    rig.restart()
    rig.eventually(lambda: rig.attachments() == {}, rig.attachments)
    assert sorted(container.links()) == ["eth0", "other"]
    netns.ip_batch(["link del eth0"], container.netns)

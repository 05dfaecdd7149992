"""`dragline services`, `conntrack`, `drops` and `trace` of a running agent, through the command line.

One node with two macvlan pods. Nobody needs to answer: what is asked about is what becomes of a pod's first packet.
"""

from __future__ import annotations

import socket
import time
from collections.abc import Callable, Iterator
from contextlib import closing, contextmanager
from dataclasses import replace

import pytest

from tests.netns.agent_rig import AgentRig
from tests.netns.commands_node import PORT, VIP, Commands, Raw
from tests.netns.named_server import connect, echo, named_server, who

REMOTE, FAR, NODE_ADDRESS = "10.8.0.200", "10.9.9.9", "10.8.0.1"
# Neighbour discovery, second passes and what answers meet; "direct" also counts what the sibling says.
NOISE = {"pass", "second-pass", "answer", "hairpin-answer", "direct"}


@pytest.fixture(scope="module")
def commands() -> Iterator[Commands]:
    """The node, whose sockets nobody balances: each packet meets the programs in tc."""
    with AgentRig(socket_lb="off") as rig:
        yield Commands(rig)
        print(rig.agent.log_tail())


def the_sibling(commands: Commands) -> str:
    return commands.address_of(commands.sibling)


def the_client(commands: Commands) -> str:
    return commands.address_of(commands.client)


PLACES: dict[str, tuple[Callable[[Commands], str], str]] = {
    "remote-on-link": (lambda _: REMOTE, "service-neigh"),
    "remote-off-link": (lambda _: FAR, "service-gateway"),
    "sibling": (the_sibling, "service-neigh"),
    "node": (lambda _: NODE_ADDRESS, "service-neigh"),
    "hairpin": (the_client, "hairpin"),
}


def check(
    commands: Commands, asked: str, address: str, port: int, verdict: str, kind: int = socket.SOCK_STREAM
) -> None:
    """What is traced is this verdict, and it is what is counted."""
    told = [one["name"] for one in commands.json("trace", "client", asked)["verdicts"]]
    assert told == [verdict], commands.text("trace", "client", asked)
    seen = commands.counted(lambda: commands.send(address, port, kind).close())
    assert verdict in seen
    assert seen - NOISE - {verdict} == set()


@pytest.mark.parametrize("place", PLACES)
def test_a_trace_tells_what_is_counted(commands: Commands, place: str) -> None:
    where, verdict = PLACES[place]
    commands.endpoints(where(commands))
    check(commands, "web:80/TCP", VIP, PORT, verdict)


def test_no_endpoints(commands: Commands) -> None:
    """Also when some only drain, and the pod hears of it at once."""
    commands.endpoints()
    check(commands, "web:80/TCP", VIP, PORT, "no-backend")
    with closing(commands.send(VIP, PORT)) as sock:
        commands.rig.eventually(lambda: sock.getsockopt(socket.SOL_SOCKET, socket.SO_ERROR), "not refused")
    assert "no-backend" in commands.text("drops")
    assert "refused-reset" in commands.text("drops")


def test_unknown_port(commands: Commands) -> None:
    commands.endpoints(FAR)
    check(commands, "web:81/TCP", VIP, 81, "unknown-port")


def test_direct(commands: Commands) -> None:
    address = the_sibling(commands)
    check(commands, f"{address}:8080", address, 8080, "direct")


def test_draining(commands: Commands) -> None:
    """A draining backend gets no new flow, keeps the connection it has and loses its datagrams."""
    sibling = the_sibling(commands)
    commands.endpoints(sibling)
    with named_server(commands.sibling.netns, "sibling", 8080), connect(commands.client.netns, VIP, PORT) as stream:
        assert who(stream) == "sibling"
        with closing(commands.send(VIP, PORT, socket.SOCK_DGRAM)) as datagrams:
            commands.endpoints(the_client(commands), draining=[sibling])
            check(commands, "web:80/TCP", VIP, PORT, "hairpin")
            lines = commands.text("trace", "client", "web:80/TCP").splitlines()
            mine = f"port {stream.getsockname()[1]} -> {sibling}:8080  ESTABLISHED"
            assert [line for line in lines if mine in line and line.endswith("its next packet goes on")]
            lines = commands.text("trace", "client", "web:80/UDP").splitlines()
            mine = f"port {datagrams.getsockname()[1]} -> {sibling}:8080  REPLIED"
            assert [line for line in lines if mine in line and "its next packet chooses another backend" in line]
            echo(stream, b"still there")
            assert "hairpin" in commands.counted(lambda: datagrams.send(b"again"))


def test_services(commands: Commands) -> None:
    """A line a frontend, with what was opened and refused; the detail of one by name, bare name or address."""
    commands.endpoints(the_sibling(commands), FAR)
    commands.endpoints(the_sibling(commands), draining=[FAR])

    def row() -> Raw:
        rows = commands.json("services")["frontends"]
        return next(one for one in rows if one["frontend"] == f"{VIP}:{PORT}/UDP")

    before = row()
    assert (before["service"], before["kind"], before["backends"], before["draining"]) == (
        "default/web",
        "ClusterIP",
        1,
        1,
    )
    commands.send(VIP, PORT, socket.SOCK_DGRAM).close()
    assert row()["opened"] == before["opened"] + 1
    texts = {commands.text("services", name) for name in ("default/web", "web", VIP)}
    assert len(texts) == 1
    (text,) = texts
    assert f"{the_sibling(commands)}:8080" in text
    assert "pod default/sibling" in text
    assert f"{FAR}:8080" in text
    assert "draining" in text


def test_refused_packets_are_counted_by_frontend(commands: Commands) -> None:
    commands.endpoints()

    def refused() -> int:
        rows = commands.json("services", f"{VIP}:{PORT}/TCP")["frontends"]
        return int(next(one["refused"] for one in rows if one["frontend"].endswith("TCP")))

    before = refused()
    commands.send(VIP, PORT).close()
    assert refused() == before + 1


def test_conntrack(commands: Commands) -> None:
    """A flow is a row with its pod, filtered by pod and Service, cut by --limit."""
    commands.endpoints(FAR)
    socks = [commands.send(VIP, PORT, socket.SOCK_DGRAM) for _ in range(3)]
    mine = [f"{the_client(commands)}:{sock.getsockname()[1]}" for sock in socks]
    rows = {row["client"]: row for row in commands.json("conntrack", "--pod", "client", "--service", "web")["flows"]}
    for client in mine:
        row = rows[client]
        assert (row["pod"], row["protocol"], row["state"]) == ("default/client", "UDP", "UNREPLIED")
        assert (row["frontend"], row["backend"], row["lost"]) == (f"{VIP}:{PORT}", f"{FAR}:8080", "")
        assert 0 <= row["idle_s"] < 60
    assert commands.json("conntrack", "--pod", "sibling")["flows"] == []
    assert commands.json("conntrack", "--service", "web:80/SCTP")["flows"] == []
    one = commands.text("conntrack", "--pod", "default/client", "--limit", "1").splitlines()
    assert len(one) == 3
    assert "flows shown (--limit 1; --limit 0 shows all)" in one[2]
    for sock in socks:
        sock.close()


@pytest.mark.parametrize(
    ("words", "told"),
    [
        (
            ["trace", "nosuch", "web:80"],
            "no pod 'nosuch' is attached on this node; attached: default/client, default/sib",
        ),
        (["trace", "client", "nosuch"], "no Service default/nosuch has a frontend"),
        (["trace", "client", "web"], "web has :80/TCP, :80/UDP: say which port"),
        (["trace", "client", "[fd96::1]:80"], "the pod has no IPv6 address"),
        (["conntrack", "--pod", "nosuch"], "no pod 'nosuch' is attached"),
        (["services", "nosuch"], "no Service default/nosuch has a frontend"),
    ],
)
def test_what_is_unknown_is_refused_in_words(commands: Commands, words: list[str], told: str) -> None:
    done = commands.rig.dragline(*words)
    if "IPv6" in told:  # to be traced all the same: nothing is sent is an answer
        assert done.returncode == 0
        assert told in done.stdout
    else:
        assert (done.returncode, done.stdout) == (1, "")
        assert told in done.stderr


def test_sockets_that_choose_their_backend(commands: Commands) -> None:
    """With socket load balancing the trace says that packets do not name the Service, and counters agree."""
    commands.endpoints(FAR)
    assert "socket load balancing is off: --socket-lb=off" in commands.text("trace", "client", "web:80/UDP")
    with with_socket_lb(commands):
        told = commands.json("trace", "client", "web:80/UDP")
        assert [one["name"] for one in told["hooked"]] == ["socket"], told["stages"][0]["decision"]
        seen = commands.counted(lambda: commands.send(VIP, PORT, socket.SOCK_DGRAM).close())
        assert seen - NOISE == {"socket"}
        commands.endpoints()
        assert commands.json("trace", "client", "web:80/UDP")["hooked"] == []
        check(commands, "web:80/UDP", VIP, PORT, "no-backend", socket.SOCK_DGRAM)


@contextmanager
def with_socket_lb(commands: Commands) -> Iterator[None]:
    """The agent restarted with socket load balancing, and then again without."""
    agent = commands.rig.agent

    def restart(socket_lb: str) -> None:
        agent.stop()
        agent.config = replace(agent.config, socket_lb=socket_lb)
        commands.rig.restart()

    restart("on")
    try:
        yield
    finally:
        restart("off")


def test_asking_does_not_stop_the_agent(commands: Commands) -> None:
    """While the whole table is read again and again, `status` is answered."""
    for _ in range(5):
        commands.json("conntrack", "--limit", "0")
        assert commands.json("status")["ready"]
    begin = time.monotonic()
    commands.text("services")
    assert time.monotonic() - begin < 30  # not a timing: an agent that hangs

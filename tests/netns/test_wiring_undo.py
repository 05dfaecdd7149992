"""What `wire` leaves after a failure at every single step: nothing, neither in the node's netns nor in the pod's."""

from __future__ import annotations

import errno
from collections.abc import Callable, Sequence

import pytest

from datapath import rtnl, rtsocket, sysctl
from datapath.netlink import NetlinkError
from datapath.wiring import PodWiring, wire
from tests.netns.node import Node, fingerprint, ip


class Breaker:
    """Lets the n-th step of a kind fail; later ones (the undo) work."""

    def __init__(self, at: int) -> None:
        self.at, self.seen = at, 0

    def now(self) -> bool:
        self.seen += 1
        return self.seen == self.at


def refuse_message(patch: pytest.MonkeyPatch, at: int) -> Breaker:
    """The n-th message of all batches is one that the kernel refuses (ENODEV); the rest of its batch is carried out."""
    breaker, real = Breaker(at), rtsocket.RouteSocket.exchange

    def exchange(self: rtsocket.RouteSocket, messages: Sequence[bytes]) -> list[rtnl.Ack]:
        return real(self, [rtnl.link_up(0x7FFFFFF0) if breaker.now() else message for message in messages])

    patch.setattr(rtsocket.RouteSocket, "exchange", exchange)
    return breaker


def lose_answer(patch: pytest.MonkeyPatch, at: int) -> Breaker:
    """The n-th batch is carried out and its answer is lost."""
    breaker, real = Breaker(at), rtsocket.RouteSocket.exchange

    def exchange(self: rtsocket.RouteSocket, messages: Sequence[bytes]) -> list[rtnl.Ack]:
        failures = real(self, messages)
        if breaker.now():
            raise OSError(errno.ENOBUFS, "injected")
        return failures

    patch.setattr(rtsocket.RouteSocket, "exchange", exchange)
    return breaker


def never_send(patch: pytest.MonkeyPatch, at: int) -> Breaker:
    """The n-th batch is not sent."""
    breaker, real = Breaker(at), rtsocket.RouteSocket.exchange

    def exchange(self: rtsocket.RouteSocket, messages: Sequence[bytes]) -> list[rtnl.Ack]:
        if breaker.now():
            raise OSError(errno.ENOMEM, "injected")
        return real(self, messages)

    patch.setattr(rtsocket.RouteSocket, "exchange", exchange)
    return breaker


def break_maps(patch: pytest.MonkeyPatch, node: Node, at: int, *, after: bool) -> Breaker:
    """The n-th write into a map fails, before or after it was done."""
    breaker = Breaker(at)

    def broken(real: Callable[..., None]) -> Callable[..., None]:
        def put(*arguments: object) -> None:
            fails = breaker.now()
            if not fails or after:
                real(*arguments)
            if fails:
                raise OSError(errno.E2BIG, "injected")

        return put

    patch.setattr(node.maps, "put_pod", broken(node.maps.put_pod))
    patch.setattr(node.maps, "put_local", broken(node.maps.put_local))
    return breaker


INJECTIONS: dict[str, Callable[[pytest.MonkeyPatch, Node, int], Breaker]] = {
    "message refused": lambda patch, _node, at: refuse_message(patch, at),
    "answer lost": lambda patch, _node, at: lose_answer(patch, at),
    "batch not sent": lambda patch, _node, at: never_send(patch, at),
    "map refuses": lambda patch, node, at: break_maps(patch, node, at, after=False),
    "map fails late": lambda patch, node, at: break_maps(patch, node, at, after=True),
}
STEPS = {
    "message refused": {"macvlan": 12, "ipvlan": 18},
    "answer lost": {"macvlan": 2, "ipvlan": 3},
    "batch not sent": {"macvlan": 2, "ipvlan": 3},
    "map refuses": {"macvlan": 3, "ipvlan": 3},
    "map fails late": {"macvlan": 3, "ipvlan": 3},
}


@pytest.mark.parametrize("injection", INJECTIONS)
def test_a_failure_at_any_step_leaves_nothing(node: Node, wired_as: PodWiring, injection: str) -> None:
    pod = node.new_pod()
    ip(pod, "ip link set lo up")
    before, steps = (fingerprint(node.netns), fingerprint(pod)), 0
    while True:
        with pytest.MonkeyPatch.context() as patch:
            breaker = INJECTIONS[injection](patch, node, steps + 1)
            try:
                node.run(lambda: wire(wired_as, pod, node.kernel))
                break
            except (NetlinkError, OSError):
                assert breaker.seen >= breaker.at
        steps += 1
        assert (fingerprint(node.netns), fingerprint(pod)) == before, f"left after a failure at step {steps}"
        assert (node.maps.pods(), node.maps.locals()) == ({}, {}), f"left after a failure at step {steps}"
    assert steps == STEPS[injection][wired_as.kind], "a step was added: is every one of them reached?"
    assert (fingerprint(node.netns), fingerprint(pod)) != before


@pytest.mark.parametrize("target", ["enable_ipv6", "loosen_rp_filter"])
def test_a_failing_sysctl_leaves_nothing(
    node: Node, wired_as: PodWiring, monkeypatch: pytest.MonkeyPatch, target: str
) -> None:
    def fail(_name: str) -> bool:
        raise OSError(errno.EROFS, "injected")

    pod = node.new_pod()
    ip(pod, "ip link set lo up")
    before = (fingerprint(node.netns), fingerprint(pod))
    monkeypatch.setattr(sysctl, target, fail)
    if target == "loosen_rp_filter" and wired_as.kind == "macvlan":
        node.run(lambda: wire(wired_as, pod, node.kernel))  # never asked for
        return
    with pytest.raises(OSError, match="injected"):
        node.run(lambda: wire(wired_as, pod, node.kernel))
    assert (fingerprint(node.netns), fingerprint(pod)) == before
    assert (node.maps.pods(), node.maps.locals()) == ({}, {})

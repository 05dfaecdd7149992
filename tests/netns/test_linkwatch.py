"""What counts as news of the node's links and addresses, on real links."""

from __future__ import annotations

import asyncio
from collections.abc import Iterator

import pytest

from datapath.linkwatch import LinkWatch
from tests.netns.node import inside, ip, new_netns

QUIET_S = 0.2


class Watched:
    """A netns with a NIC `up0`, watched."""

    def __init__(self) -> None:
        self.netns = new_netns()
        ip(self.netns, "ip link add up0 type veth peer name far0", "ip link set up0 up", "ip link set far0 up")
        self.uplinks = {int(ip(self.netns, "ip -o link show up0").split(":")[0])}
        self.watch = inside(self.netns, LinkWatch)
        # The first message about a link is news, whatever it says.
        ip(self.netns, "ip link set up0 txqueuelen 900")
        assert self.heard()

    def heard(self) -> bool:
        async def listen() -> bool:
            try:
                await asyncio.wait_for(self.watch.changed(self.uplinks), QUIET_S)
            except TimeoutError:
                return False
            return True

        return asyncio.run(listen())


@pytest.fixture
def node() -> Iterator[Watched]:
    watched = Watched()
    with watched.watch:
        yield watched


@pytest.mark.parametrize(
    "command",
    [
        "ip link set up0 mtu 1400",
        "ip link set up0 address 02:00:00:00:00:77",
        "ip link set up0 down",
        "ip link delete up0",
        "ip address add 10.1.1.1/24 dev up0",
        "ip address add 10.1.1.1/32 dev lo",
        "ip address add fd00::1/64 dev up0 nodad",
    ],
)
def test_what_pods_depend_on_is_news(node: Watched, command: str) -> None:
    ip(node.netns, command)
    assert node.heard()


@pytest.mark.parametrize(
    "commands",
    [
        ["ip link add link up0 name s0 type macvlan mode bridge"],
        ["ip link set up0 txqueuelen 800"],
        ["ip link add other0 type veth peer name other1"],
        ["ip address add 169.254.9.9/32 dev up0 scope link"],
    ],
)
def test_what_pods_do_not_depend_on_is_not(node: Watched, commands: list[str]) -> None:
    ip(node.netns, *commands)
    assert not node.heard()


def test_the_same_fact_twice_is_news_once(node: Watched) -> None:
    ip(node.netns, "ip link set up0 mtu 1400")
    assert node.heard()
    ip(node.netns, "ip link set up0 mtu 1400", "ip link set up0 txqueuelen 700")
    assert not node.heard()

"""Batches through a real socket, and the pool of sockets."""

from __future__ import annotations

import errno
import os
from collections.abc import Iterator

import pytest

from datapath import rtnl
from datapath.netlink import AddressInUse, LinkExists, NetlinkError, Step, run
from datapath.rtsocket import RouteSocket, SocketPool
from tests.netns.node import in_thread, inside, new_netns

NO_LINK = rtnl.link_up(0x7FFFFFF0)


@pytest.fixture
def netns() -> Iterator[int]:
    fd = new_netns()
    yield fd
    os.close(fd)


def test_a_batch_goes_on_after_a_failure_and_each_failure_is_placed(netns: int) -> None:
    def work() -> tuple[list[rtnl.Ack], list[rtnl.Ack]]:
        with RouteSocket() as channel:
            mixed = channel.exchange([NO_LINK, rtnl.link_up(1), NO_LINK, rtnl.new_route(1, "10.9.0.0/16", "")])
            return mixed, channel.exchange([rtnl.delete_route(1, "10.9.0.0/16"), rtnl.link_up(1)])

    mixed, after = inside(netns, work)
    assert [(ack.sequence, ack.errno) for ack in mixed] == [(0, errno.ENODEV), (2, errno.ENODEV)]
    assert after == [], "the route after the second failure was made"


def test_an_answer_to_an_exchange_that_was_broken_off_is_not_taken_for_this_ones(netns: int) -> None:
    def work() -> list[rtnl.Ack]:
        with RouteSocket() as channel:
            channel._next = 10
            channel._socket.send(rtnl.batch([NO_LINK, NO_LINK], 8))  # nobody reads the answers of 8 and 9
            return channel.exchange([rtnl.link_up(1)])

    assert inside(netns, work) == []


def test_numbers_start_again_before_they_overflow(netns: int) -> None:
    def work() -> list[rtnl.Ack]:
        with RouteSocket() as channel:
            channel._next = 0xFFFFFFFE
            return channel.exchange([NO_LINK, NO_LINK, NO_LINK])

    assert [ack.sequence for ack in inside(netns, work)] == [0, 1, 2]


def test_steps_name_their_errors_and_tolerate_what_they_say(netns: int) -> None:
    def work() -> None:
        with RouteSocket() as channel:
            run(channel, [])
            run(channel, [Step("fine", NO_LINK, frozenset({errno.ENODEV}))])
            with pytest.raises(AddressInUse) as named:
                run(channel, [Step("one", rtnl.link_up(1)), Step("two", NO_LINK, named={errno.ENODEV: AddressInUse})])
            assert (named.value.step, named.value.errno) == ("two", errno.ENODEV)
            with pytest.raises(NetlinkError, match=r"^three: No such device \(ENODEV\)$") as plain:
                run(channel, [Step("three", NO_LINK, frozenset({errno.EEXIST}), {errno.EEXIST: LinkExists})])
            assert type(plain.value) is NetlinkError

    inside(netns, work)


def test_the_kernels_own_words_are_in_the_error(netns: int) -> None:
    def work() -> None:
        with RouteSocket() as channel:
            run(channel, [Step("up", rtnl.link_up(1))])
            run(channel, [Step("route", rtnl.new_route(1, "10.9.0.0/16", "10.7.7.7"))])

    with pytest.raises(NetlinkError, match=r"route: Nexthop has invalid gateway \(ENETUNREACH\)"):
        inside(netns, work)


def test_the_pool_reuses_keeps_few_and_drops_what_failed() -> None:
    def work() -> None:
        pool = SocketPool()
        with pool.lease() as first:
            pass
        with pool.lease() as again, pool.lease() as other:
            assert again is first and other is not first
        leases = [pool.lease() for _ in range(20)]
        sockets = [lease.__enter__() for lease in leases]
        for lease in leases:
            lease.__exit__(None, None, None)
        still_open = [channel for channel in sockets if channel._socket.fileno() >= 0]
        assert len(still_open) == 8
        with pytest.raises(ZeroDivisionError), pool.lease() as broken:
            raise ZeroDivisionError
        assert broken._socket.fileno() < 0
        pool.close()
        assert all(channel._socket.fileno() < 0 for channel in sockets)

    in_thread(work)

"""Subnet arithmetic against `ipaddress`, the slow oracle."""

from __future__ import annotations

from ipaddress import IPv4Address, IPv4Network, IPv6Address, IPv6Network, ip_address, ip_interface

import pytest
from hypothesis import given
from hypothesis import strategies as st

from datapath import subnets

ADDRESSES4 = st.integers(0, 2**32 - 1).map(lambda number: str(IPv4Address(number)))
ADDRESSES6 = st.integers(0, 2**128 - 1).map(lambda number: str(IPv6Address(number)))
CIDRS = st.one_of(
    st.builds("{}/{}".format, ADDRESSES4, st.integers(0, 32)),
    st.builds("{}/{}".format, ADDRESSES6, st.integers(0, 128)),
)


@given(CIDRS)
def test_network_has_no_host_bits(cidr: str) -> None:
    address, _, length = subnets.network(cidr).partition("/")
    assert (ip_address(address), int(length)) == (
        ip_interface(cidr).network.network_address,
        ip_interface(cidr).network.prefixlen,
    )


@given(CIDRS, st.integers(0, 2**128 - 1))
def test_contains(cidr: str, seed: int) -> None:
    network = ip_interface(cidr).network
    inside = network.network_address + seed % network.num_addresses
    assert subnets.contains(cidr, str(inside))
    width = 2**network.max_prefixlen
    other = type(network.network_address)(seed % width)
    assert subnets.contains(cidr, str(other)) == (other in network)


@pytest.mark.parametrize(
    ("cidr", "address", "wanted"),
    [
        ("10.0.0.9/24", "10.0.0.255", True),
        ("10.0.0.9/24", "10.0.1.0", False),
        ("10.0.0.9", "10.0.0.9", True),
        ("10.0.0.9", "10.0.0.8", False),
        ("0.0.0.0/0", "fd00::1", False),
        ("::/0", "10.0.0.1", False),
        (subnets.IPV6_LINK_LOCAL, "fe80::1", True),
        (subnets.IPV6_LINK_LOCAL, "169.254.1.1", False),
    ],
)
def test_contains_at_the_edges(cidr: str, address: str, wanted: bool) -> None:
    assert subnets.contains(cidr, address) is wanted


@pytest.mark.parametrize("length", range(33))
def test_netmask(length: int) -> None:
    assert subnets.netmask(f"10.0.0.1/{length}") == str(IPv4Network((0, length)).netmask)


@pytest.mark.parametrize("length", range(129))
def test_netmask_of_ipv6(length: int) -> None:
    assert subnets.netmask(f"fd00::1/{length}") == str(IPv6Network((0, length)).netmask)


@pytest.mark.parametrize("address", ["10.0.0", "10.0.0.256", "fd00::g", "", "eth0"])
def test_what_is_no_address_is_refused(address: str) -> None:
    with pytest.raises(OSError):
        subnets.packed(address)

"""One spelling per address, and junk is none."""

from __future__ import annotations

import socket
from ipaddress import IPv4Address, IPv6Address

import pytest
from hypothesis import assume, given
from hypothesis import strategies as st

from cluster.addresses import callable_address, canonical, family_of


@pytest.mark.parametrize(
    "junk", ["", "x", "10.1", "1.2.3.04", " 1.2.3.4", "1.2.3.4/32", "fd00::1%eth0", "fd00:::1", "1\x00", "ü", "\ud800:"]
)
def test_junk_is_no_address(junk: str) -> None:
    assert canonical(junk) == callable_address(junk) == ""


@given(st.text(st.sampled_from("0123456789abcdefF.:%/\x00é"), max_size=20))
def test_no_text_raises_and_what_comes_out_stays(text: str) -> None:
    address = canonical(text)
    assert canonical(address) == address
    assert callable_address(text) in ("", address)


@given(st.ip_addresses(v=6))
def test_every_spelling_of_ipv6_is_the_same_key(address: IPv6Address) -> None:
    assume(address.ipv4_mapped is None)
    kernels = socket.inet_ntop(socket.AF_INET6, address.packed)
    spellings = (kernels, str(address), str(address).upper(), address.exploded)
    assert {canonical(text) for text in spellings} == {kernels}
    assert family_of(kernels) == "IPv6"


@given(st.ip_addresses(v=4))
def test_ipv4_inside_ipv6_is_ipv4(address: IPv4Address) -> None:
    assert canonical(f"::FFFF:{address}") == canonical(str(address)) == str(address)
    assert family_of(str(address)) == "IPv4"

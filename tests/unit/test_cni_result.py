"""Results and errors in every version, byte by byte."""

import msgspec
import pytest

from cni.errors import BAD_CONFIG, TRY_AGAIN, CniError
from cni.result import (
    SUPPORTED_VERSIONS,
    Interface,
    IPConfig,
    Result,
    Route,
    parse_prev_result,
    render,
    render_error,
    render_versions,
)

RESULT = Result(
    interfaces=(Interface("eth0", "02:00:00:00:00:01", "/run/netns/x", 1500),),
    ips=(IPConfig("172.31.199.5/20", "172.31.207.253"), IPConfig("fd00::5/64", "fd00::1")),
    routes=(Route("0.0.0.0/0", "172.31.207.253"), Route("10.0.0.0/8")),
)
LINK = '{"name":"eth0","mac":"02:00:00:00:00:01","sandbox":"/run/netns/x"}'
LINK_1_1 = '{"name":"eth0","mac":"02:00:00:00:00:01","mtu":1500,"sandbox":"/run/netns/x"}'
FOUR, SIX = '"address":"172.31.199.5/20","gateway":"172.31.207.253","interface":0', '"address":"fd00::5/64"'
SIX += ',"gateway":"fd00::1","interface":0'
WITH_FAMILY = f'[{{"version":"4",{FOUR}}},{{"version":"6",{SIX}}}]'
WITHOUT = f"[{{{FOUR}}},{{{SIX}}}]"
TAIL = '"routes":[{"dst":"0.0.0.0/0","gw":"172.31.207.253"},{"dst":"10.0.0.0/8"}],"dns":{}}'
EXPECTED = {
    "0.3.0": f'{{"cniVersion":"0.3.0","interfaces":[{LINK}],"ips":{WITH_FAMILY},{TAIL}',
    "0.3.1": f'{{"cniVersion":"0.3.1","interfaces":[{LINK}],"ips":{WITH_FAMILY},{TAIL}',
    "0.4.0": f'{{"cniVersion":"0.4.0","interfaces":[{LINK}],"ips":{WITH_FAMILY},{TAIL}',
    "1.0.0": f'{{"cniVersion":"1.0.0","interfaces":[{LINK}],"ips":{WITHOUT},{TAIL}',
    "1.1.0": f'{{"cniVersion":"1.1.0","interfaces":[{LINK_1_1}],"ips":{WITHOUT},{TAIL}',
}


def test_every_supported_version_is_expected_here() -> None:
    assert tuple(EXPECTED) == SUPPORTED_VERSIONS


@pytest.mark.parametrize("version", SUPPORTED_VERSIONS)
def test_a_result_is_exactly_these_bytes(version: str) -> None:
    assert render(RESULT, version) == EXPECTED[version].encode()


def test_what_is_empty_is_left_out() -> None:
    bare = Result((Interface("eth0"),), (IPConfig("10.0.0.1/32", interface=None),))
    assert render(bare, "1.1.0") == (
        b'{"cniVersion":"1.1.0","interfaces":[{"name":"eth0"}],"ips":[{"address":"10.0.0.1/32"}],"routes":[],"dns":{}}'
    )


@pytest.mark.parametrize("version", SUPPORTED_VERSIONS)
def test_an_error_is_exactly_these_bytes(version: str) -> None:
    error = CniError(TRY_AGAIN, 'say "later"', "more")
    expected = f'{{"cniVersion":"{version}","code":11,"msg":"say \\"later\\"","details":"more"}}'
    assert render_error(error, version) == expected.encode()


def test_an_error_without_details_or_version() -> None:
    assert render_error(CniError(7, "m"), "") == b'{"cniVersion":"1.1.0","code":7,"msg":"m"}'
    assert str(CniError(7, "m")) == "m (CNI error 7)"


def test_version_echoes_the_version_it_was_asked_in() -> None:
    assert render_versions("0.4.0") == (
        b'{"cniVersion":"0.4.0","supportedVersions":["0.3.0","0.3.1","0.4.0","1.0.0","1.1.0"]}'
    )


@pytest.mark.parametrize("version", SUPPORTED_VERSIONS)
def test_our_own_result_comes_back_as_prev_result(version: str) -> None:
    back = parse_prev_result(render(RESULT, version), version)
    assert (back.ips, back.routes) == (RESULT.ips, RESULT.routes)
    assert back.interfaces[0].mtu == (1500 if version == "1.1.0" else 0)
    assert (back.interfaces[0].name, back.interfaces[0].sandbox) == ("eth0", "/run/netns/x")


def test_a_foreign_prev_result_with_nulls_and_other_links() -> None:
    raw = (
        b'{"cniVersion":"1.0.0","interfaces":[{"name":"veth1"},{"name":"eth0","sandbox":"/n","x":1}],'
        b'"ips":[{"address":"10.0.0.1/24","interface":1,"gateway":null}],"routes":null,"dns":{"nameservers":["1.1.1.1"]}}'
    )
    back = parse_prev_result(msgspec.Raw(raw), "1.0.0")
    assert back.ips == (IPConfig("10.0.0.1/24", "", 1),)
    assert [link.name for link in back.interfaces] == ["veth1", "eth0"]
    assert back.routes == ()


@pytest.mark.parametrize("raw", [b"", b"null", b"[]", b"{", b'{"ips":[{}]}', b'{"ips":"x"}', b'{"interfaces":[1]}'])
def test_a_missing_or_broken_prev_result_is_a_configuration_error(raw: bytes) -> None:
    with pytest.raises(CniError) as caught:
        parse_prev_result(raw, "1.0.0")
    assert caught.value.code == BAD_CONFIG
    assert "prevResult" in caught.value.msg

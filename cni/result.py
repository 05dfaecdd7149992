"""CNI results and errors as JSON, exactly as each version of the specification has them.

0.3.0 to 0.4.0 mark every address with its family (`ips[].version`), 1.0.0 dropped that, 1.1.0 added the link's mtu.
"""

from dataclasses import dataclass
from typing import Any

import msgspec

from cni.errors import BAD_CONFIG, CniError

SUPPORTED_VERSIONS = ("0.3.0", "0.3.1", "0.4.0", "1.0.0", "1.1.0")
NEWEST_VERSION = SUPPORTED_VERSIONS[-1]
_WITH_FAMILY = frozenset({"0.3.0", "0.3.1", "0.4.0"})
_WITH_MTU = frozenset({"1.1.0"})


@dataclass(frozen=True, slots=True)
class Interface:
    """One link of a result; sandbox is the netns path ("" = on the node), mtu 0 = unknown."""

    name: str
    mac: str = ""
    sandbox: str = ""
    mtu: int = 0


@dataclass(frozen=True, slots=True)
class IPConfig:
    """One address "a.b.c.d/nn", its gateway ("" = none) and the index of its interface (None = not said)."""

    address: str
    gateway: str = ""
    interface: int | None = 0


@dataclass(frozen=True, slots=True)
class Route:
    """A route to the CIDR dst; gw "" = the specification's default gateway."""

    dst: str
    gw: str = ""


@dataclass(frozen=True, slots=True)
class Result:
    """What an ADD made, independent of the version it is rendered in."""

    interfaces: tuple[Interface, ...]
    ips: tuple[IPConfig, ...]
    routes: tuple[Route, ...] = ()


class _RawInterface(msgspec.Struct):
    name: str
    mac: str = ""
    sandbox: str = ""
    mtu: int = 0


class _RawAddress(msgspec.Struct):
    address: str
    gateway: str | None = ""
    interface: int | None = None


class _RawRoute(msgspec.Struct):
    dst: str
    gw: str | None = ""


class _RawResult(msgspec.Struct):
    # Null and absent are the same to Go's runtimes, which wrote these.
    interfaces: list[_RawInterface] | None = None
    ips: list[_RawAddress] | None = None
    routes: list[_RawRoute] | None = None


_PREV_RESULT = msgspec.json.Decoder(_RawResult)


def render(result: Result, cni_version: str) -> bytes:
    """The JSON of a successful ADD for one supported version; keys in the specification's order, empty left out."""
    return msgspec.json.encode(
        {
            "cniVersion": cni_version,
            "interfaces": [_interface(item, cni_version) for item in result.interfaces],
            "ips": [_address(item, cni_version) for item in result.ips],
            "routes": [{"dst": item.dst, "gw": item.gw} if item.gw else {"dst": item.dst} for item in result.routes],
            "dns": {},
        }
    )


def render_error(error: CniError, cni_version: str) -> bytes:
    """The JSON error object; a configuration without a readable version is answered in our newest."""
    body: dict[str, str | int] = {
        "cniVersion": cni_version or NEWEST_VERSION,
        "code": error.code,
        "msg": error.msg,
    }
    if error.details:
        body["details"] = error.details
    return msgspec.json.encode(body)


def render_versions(cni_version: str) -> bytes:
    """The answer to VERSION; cni/shim.c gives the same bytes without an agent."""
    return msgspec.json.encode(
        {"cniVersion": cni_version or NEWEST_VERSION, "supportedVersions": list(SUPPORTED_VERSIONS)}
    )


def parse_prev_result(raw: bytes | msgspec.Raw, cni_version: str) -> Result:
    """The configuration's prevResult (for CHECK); CniError BAD_CONFIG if it is absent or not a result."""
    content = bytes(raw)
    if content in (b"", b"null"):
        raise CniError(BAD_CONFIG, "prevResult is required and missing")
    try:
        parsed = _PREV_RESULT.decode(content)
    except (msgspec.DecodeError, UnicodeDecodeError) as error:
        raise CniError(BAD_CONFIG, f"prevResult: {error}") from error
    with_mtu = cni_version in _WITH_MTU
    return Result(
        tuple(Interface(i.name, i.mac, i.sandbox, i.mtu if with_mtu else 0) for i in parsed.interfaces or ()),
        tuple(IPConfig(i.address, i.gateway or "", i.interface) for i in parsed.ips or ()),
        tuple(Route(r.dst, r.gw or "") for r in parsed.routes or ()),
    )


def _interface(item: Interface, cni_version: str) -> dict[str, Any]:
    body: dict[str, Any] = {"name": item.name}
    if item.mac:
        body["mac"] = item.mac
    if item.mtu and cni_version in _WITH_MTU:
        body["mtu"] = item.mtu
    if item.sandbox:
        body["sandbox"] = item.sandbox
    return body


def _address(item: IPConfig, cni_version: str) -> dict[str, Any]:
    body: dict[str, Any] = {}
    if cni_version in _WITH_FAMILY:
        body["version"] = "6" if ":" in item.address else "4"
    body["address"] = item.address
    if item.gateway:
        body["gateway"] = item.gateway
    if item.interface is not None:
        body["interface"] = item.interface
    return body

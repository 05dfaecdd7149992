"""From the runtime's words (a Frame) to a checked Request, or to the specification's error. Pure: no I/O, no clock.

A DEL is held to less than an ADD: whatever was wrong with the configuration then made the ADD fail too, and a DEL that
fails for it would be repeated by the kubelet for ever. It needs only what finds the attachment.
"""

import re
from dataclasses import dataclass

import msgspec

from cni.errors import (
    BAD_CONFIG,
    BAD_ENVIRONMENT,
    DECODE_FAILURE,
    UNSUPPORTED_FIELD,
    VERSION_INCOMPATIBLE,
    CniError,
)
from cni.frame import Frame
from cni.result import SUPPORTED_VERSIONS

_NAME = re.compile(r"[a-zA-Z0-9][a-zA-Z0-9_.\-]*")
_BAD_IFNAME = re.compile(r"[/:\s\x00-\x1f\x7f]")
_IFNAME_MAX_BYTES = 15
_POD_NAME = re.compile(r"[a-z0-9][a-z0-9.\-]*")
_KNOWN_ARGS = frozenset(
    {"IgnoreUnknown", "K8S_POD_NAMESPACE", "K8S_POD_NAME", "K8S_POD_UID", "K8S_POD_INFRA_CONTAINER_ID"}
)
_MODES = {"ipvlan": ("l2",), "macvlan": ("bridge",)}
_MTU_MIN, _MTU_MAX = 68, 65535
_UNVERSIONED = "0.1.0"  # what the specification assumes when a configuration names no version


class IPPools(msgspec.Struct, frozen=True):
    """Pool names by family, in the user's order."""

    ipv4: tuple[str, ...] = ()
    ipv6: tuple[str, ...] = ()


class NetworkConfig(msgspec.Struct, frozen=True, rename="camel"):
    """The network configuration of type `dragline`; keys it does not know are ignored on purpose (Multus adds some)."""

    cni_version: str = _UNVERSIONED
    name: str = ""
    type: str = ""
    master: str = ""
    link_kind: str = "ipvlan"
    mode: str = ""
    mtu: int = 0
    multus_name: str = ""
    ippools: IPPools = IPPools()
    default_route: bool = True
    prev_result: msgspec.Raw = msgspec.Raw(b"")
    socket: str = ""


class _Identity(msgspec.Struct, rename="camel"):
    """The keys that even a broken configuration is asked for."""

    cni_version: str = _UNVERSIONED
    name: str = ""


@dataclass(frozen=True, slots=True)
class PodRef:
    """The pod that CNI_ARGS names; uid "" when the runtime does not tell."""

    namespace: str
    name: str
    uid: str = ""


@dataclass(frozen=True, slots=True)
class AttachmentKey:
    """What an attachment is found by; container_id and ifname are "" for verbs without a container."""

    network: str
    container_id: str
    ifname: str


@dataclass(frozen=True, slots=True)
class Request:
    """One checked call; netns_fd -1 = none came; started_ns is the shim's CLOCK_MONOTONIC."""

    command: str
    key: AttachmentKey
    netns_path: str
    netns_fd: int
    pod: PodRef | None
    config: NetworkConfig
    started_ns: int


@dataclass(frozen=True, slots=True)
class _Verb:
    since: str
    container: bool
    netns: bool


_VERBS = {
    "ADD": _Verb("0.3.0", container=True, netns=True),
    "DEL": _Verb("0.3.0", container=True, netns=False),
    "CHECK": _Verb("0.4.0", container=True, netns=True),
    "GC": _Verb("1.1.0", container=False, netns=False),
    "STATUS": _Verb("1.1.0", container=False, netns=False),
}
_CONFIG = msgspec.json.Decoder(NetworkConfig)
_IDENTITY = msgspec.json.Decoder(_Identity)
# msgspec leaves these three to the caller: syntax and types, bytes that are not UTF-8, brackets nested too deep.
_UNREADABLE = (msgspec.DecodeError, UnicodeDecodeError, RecursionError)


def parse(frame: Frame, netns_fd: int) -> Request:
    """The Request of a frame and the descriptor that came with it (-1 = none).

    Raises CniError 4 (environment, CNI_ARGS), 6 (not JSON), 1 (version), 7 (configuration), 2 (a value not offered).
    """
    verb = _VERBS.get(frame.command)
    if verb is None:
        raise CniError(BAD_ENVIRONMENT, f"unknown CNI_COMMAND {frame.command!r}")
    _check_environment(frame, verb, netns_fd)
    lenient = frame.command == "DEL"
    config = _config(frame.config, lenient)
    _check_version(config.cni_version, frame.command, verb)
    if not _NAME.fullmatch(config.name):
        raise CniError(BAD_CONFIG, f"network name {config.name!r} is missing or invalid")
    if verb.netns:
        config = _check_link(config)
    key = AttachmentKey(config.name, frame.container_id, frame.ifname) if verb.container else None
    return Request(
        command=frame.command,
        key=key or AttachmentKey(config.name, "", ""),
        netns_path=frame.netns,
        netns_fd=netns_fd,
        pod=pod_named_by(frame.args) if lenient else _pod(frame.args),
        config=config,
        started_ns=frame.started_ns,
    )


def version_of(config: bytes) -> str:
    """The cniVersion in which to answer a configuration that may be broken; "" if it cannot be read."""
    try:
        return _IDENTITY.decode(config).cni_version
    except _UNREADABLE:
        return ""


def pod_named_by(args: str) -> PodRef | None:
    """The pod of CNI_ARGS if it can be made out, else None; never raises (DEL and log lines)."""
    try:
        return _pod(args)
    except CniError:
        return None


def _check_environment(frame: Frame, verb: _Verb, netns_fd: int) -> None:
    wanted = [("CNI_CONTAINERID", frame.container_id), ("CNI_IFNAME", frame.ifname)] if verb.container else []
    if verb.netns:
        wanted.append(("CNI_NETNS", frame.netns))
    missing = [name for name, value in wanted if not value]
    if missing:
        raise CniError(BAD_ENVIRONMENT, f"required environment variables missing: {', '.join(missing)}")
    if not verb.container:
        return
    if not _NAME.fullmatch(frame.container_id):
        raise CniError(BAD_ENVIRONMENT, f"CNI_CONTAINERID {frame.container_id!r} has characters that are not allowed")
    too_long = len(frame.ifname.encode()) > _IFNAME_MAX_BYTES
    if too_long or frame.ifname in (".", "..") or _BAD_IFNAME.search(frame.ifname):
        raise CniError(BAD_ENVIRONMENT, f"CNI_IFNAME {frame.ifname!r} is not an interface name")
    if verb.netns and netns_fd < 0:
        raise CniError(BAD_ENVIRONMENT, f"CNI_NETNS {frame.netns!r}: no descriptor came with the request")


def _config(content: bytes, lenient: bool) -> NetworkConfig:
    try:
        return _CONFIG.decode(content)
    except msgspec.ValidationError as error:
        try:
            identity = _IDENTITY.decode(content)
        except msgspec.ValidationError as worse:
            raise CniError(DECODE_FAILURE, f"network configuration: {worse}") from error
        # An unknown version explains unknown types: it goes first. A DEL needs no more than the identity.
        if lenient or identity.cni_version not in SUPPORTED_VERSIONS:
            return NetworkConfig(cni_version=identity.cni_version, name=identity.name)
        raise CniError(BAD_CONFIG, f"network configuration: {error}") from error
    except _UNREADABLE as error:
        raise CniError(DECODE_FAILURE, f"network configuration is not JSON: {error}") from error


def _check_version(version: str, command: str, verb: _Verb) -> None:
    if version not in SUPPORTED_VERSIONS:
        known = ", ".join(SUPPORTED_VERSIONS)
        raise CniError(VERSION_INCOMPATIBLE, f"cniVersion {version!r} is not supported, only {known}")
    if SUPPORTED_VERSIONS.index(version) < SUPPORTED_VERSIONS.index(verb.since):
        raise CniError(
            VERSION_INCOMPATIBLE, f"{command} needs cniVersion {verb.since}, the configuration has {version}"
        )


def _check_link(config: NetworkConfig) -> NetworkConfig:
    """The configuration with its mode filled in."""
    modes = _MODES.get(config.link_kind)
    if modes is None:
        raise CniError(UNSUPPORTED_FIELD, f"linkKind {config.link_kind!r} is not supported, only ipvlan and macvlan")
    if not config.master:
        raise CniError(BAD_CONFIG, "master (the uplink's name) is missing")
    if config.mode and config.mode not in modes:
        raise CniError(
            UNSUPPORTED_FIELD, f"mode {config.mode!r} is not supported for {config.link_kind}, only {modes[0]}"
        )
    if config.mtu and not _MTU_MIN <= config.mtu <= _MTU_MAX:
        raise CniError(BAD_CONFIG, f"mtu {config.mtu} is not between {_MTU_MIN} and {_MTU_MAX}")
    return config if config.mode else msgspec.structs.replace(config, mode=modes[0])


def _pod(args: str) -> PodRef | None:
    """The pod of CNI_ARGS "K=V;K=V"; None when it names none, CniError 4 when it is malformed or names half a pod."""
    pairs = {}
    for item in filter(None, args.split(";")):
        name, equals, value = item.partition("=")
        if not equals or not name:
            raise CniError(BAD_ENVIRONMENT, f"CNI_ARGS: {item!r} is not KEY=VALUE")
        pairs[name] = value
    ignore = pairs.get("IgnoreUnknown", "0").lower()
    if ignore not in ("0", "1", "false", "true"):
        raise CniError(BAD_ENVIRONMENT, f"CNI_ARGS: IgnoreUnknown={ignore!r} is not a boolean")
    unknown = sorted(pairs.keys() - _KNOWN_ARGS)
    if unknown and ignore in ("0", "false"):
        raise CniError(BAD_ENVIRONMENT, f"CNI_ARGS: unknown {', '.join(unknown)} (and IgnoreUnknown is not set)")
    namespace, name = pairs.get("K8S_POD_NAMESPACE", ""), pairs.get("K8S_POD_NAME", "")
    if not namespace and not name:
        return None
    if not _POD_NAME.fullmatch(namespace) or not _POD_NAME.fullmatch(name):
        raise CniError(
            BAD_ENVIRONMENT, f"CNI_ARGS: K8S_POD_NAMESPACE={namespace!r}, K8S_POD_NAME={name!r} do not name a pod"
        )
    return PodRef(namespace, name, pairs.get("K8S_POD_UID", ""))

"""What the agent is told at its start: flags one to one, environment read in one place."""

from __future__ import annotations

import argparse
import ipaddress
import os
import platform
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

DEFAULT_SOCKET = Path("/run/dragline/agent.sock")
ENVIRONMENT_PREFIX = "DRAGLINE_"


class ConfigError(ValueError):
    """A flag or an environment variable cannot be used; the text names it and says what to give."""


@dataclass(frozen=True, slots=True)
class Config:
    """The agent's settings. Paths are absolute; durations are in seconds."""

    node_name: str
    """The node's name in Kubernetes: pools that name it are owned by this agent."""
    store: Path
    """Folder of manifests (`dir:PATH`)."""
    socket: Path = DEFAULT_SOCKET
    """Unix socket of the shim and of `dragline status`; root only. DELs spooled by the shim lie beside it."""
    state_dir: Path = Path("/run/dragline")
    """The journal. On a tmpfs by default: sandboxes die with a reboot, and so does it."""
    bpf_root: Path = Path("/sys/fs/bpf/dragline")
    """Folder on bpffs for pinned maps and programs, which go on forwarding while the agent is away."""
    default_network: str = ""
    """`namespace/name` of the SpiderMultusConfig of a pod's eth0 when no annotation names another."""
    cooldown_s: float = 30.0
    """How long a released address rests before it is used again (peers still have it in their ARP caches)."""
    deadline_s: float = 20.0
    """Longest time of one CNI verb; well inside kubelet's own limit of 2 to 4 minutes."""
    socket_lb: str = "on"
    """Whether pods' sockets are balanced in connect and sendmsg ("on", where the node can), or packets only ("off")."""
    log_level: str = "info"
    datapath: str = "auto"
    """`ebpf`, `netlink` (host routes and kube-proxy, for kernels below 5.10), or `auto`: by the kernel's version."""
    service_cidr: tuple[str, ...] = ()
    """The cluster's Service addresses, "a/b" of both families: what pods send to the node without eBPF."""

    @property
    def spool(self) -> Path:
        """Where the shim leaves DELs that found no agent."""
        return self.socket.parent / "spool"

    @property
    def journal(self) -> Path:
        """The journal's file."""
        return self.state_dir / "attachments.journal"


def add_flags(parser: argparse.ArgumentParser) -> None:
    """Flags of `dragline agent`; each has the environment variable DRAGLINE_<FLAG> as its fallback."""
    parser.add_argument("--node-name", help="name of this node (default: the host name)")
    parser.add_argument("--store", help="where the manifests are: dir:PATH")
    parser.add_argument("--socket", help=f"unix socket of the CNI shim (default: {DEFAULT_SOCKET})")
    parser.add_argument("--state-dir", help="folder of the journal (default: /run/dragline)")
    parser.add_argument("--bpf-root", help="folder on bpffs (default: /sys/fs/bpf/dragline)")
    parser.add_argument("--default-network", help="NAMESPACE/NAME of the network of eth0 without an annotation")
    parser.add_argument("--cooldown-s", help="seconds a released address rests (default: 30)")
    parser.add_argument("--deadline-s", help="longest seconds of one CNI verb (default: 20)")
    parser.add_argument("--socket-lb", help="on or off: balance sockets where the node can (default: on)")
    parser.add_argument("--log-level", help="debug, info, warning or error (default: info)")
    parser.add_argument("--datapath", help="auto, ebpf (Linux >= 5.10) or netlink (default: auto)")
    parser.add_argument("--service-cidr", metavar="CIDR,...", help="Service addresses; only --datapath=netlink asks")


def build(arguments: argparse.Namespace, environ: Mapping[str, str] = os.environ) -> Config:
    """A checked Config from flags, then environment, then defaults.

    Raises ConfigError naming the flag.
    """
    given = {name: _choose(name, arguments, environ) for name in Config.__dataclass_fields__}
    store = given["store"]
    if store is None:
        raise ConfigError("--store is missing: give dir:PATH, a folder of manifests")
    if not store.startswith("dir:") or len(store) == len("dir:"):
        raise ConfigError(f"--store {store!r} is not understood: give dir:PATH, a folder of manifests")
    defaults = Config(node_name=given["node_name"] or platform.node(), store=Path(store[len("dir:") :]).absolute())
    level = _one_of("--log-level", given["log_level"], defaults.log_level, ("debug", "info", "warning", "error"))
    network = given["default_network"] or defaults.default_network
    if network and network.count("/") != 1:
        raise ConfigError(f"--default-network {network!r} is not NAMESPACE/NAME")
    return Config(
        node_name=defaults.node_name,
        store=defaults.store,
        socket=_path(given["socket"], defaults.socket),
        state_dir=_path(given["state_dir"], defaults.state_dir),
        bpf_root=_path(given["bpf_root"], defaults.bpf_root),
        default_network=network,
        cooldown_s=_seconds("--cooldown-s", given["cooldown_s"], defaults.cooldown_s),
        deadline_s=_seconds("--deadline-s", given["deadline_s"], defaults.deadline_s),
        socket_lb=_one_of("--socket-lb", given["socket_lb"], defaults.socket_lb, ("on", "off")),
        log_level=level,
        datapath=_one_of("--datapath", given["datapath"], defaults.datapath, ("auto", "ebpf", "netlink")),
        service_cidr=_cidrs("--service-cidr", given["service_cidr"] or ""),
    )


def socket_path(given: str | None, environ: Mapping[str, str] = os.environ) -> Path:
    """The agent's socket for the commands that talk to it."""
    return _path(given or environ.get(ENVIRONMENT_PREFIX + "SOCKET"), DEFAULT_SOCKET)


def _choose(name: str, arguments: argparse.Namespace, environ: Mapping[str, str]) -> str | None:
    value: str | None = getattr(arguments, name)
    return value if value is not None else environ.get(ENVIRONMENT_PREFIX + name.upper())


def _one_of(flag: str, text: str | None, default: str, choices: Sequence[str]) -> str:
    value = text or default
    if value not in choices:
        raise ConfigError(f"{flag} {value!r} is not one of {', '.join(choices)}")
    return value


def _path(text: str | None, default: Path) -> Path:
    return Path(text).absolute() if text else default


def _seconds(flag: str, text: str | None, default: float) -> float:
    if text is None:
        return default
    try:
        value = float(text)
    except ValueError as error:
        raise ConfigError(f"{flag} {text!r} is not a number of seconds") from error
    if not 0 <= value <= 3600:
        raise ConfigError(f"{flag} {text} is not between 0 and 3600 seconds")
    return value


def _cidrs(flag: str, text: str) -> tuple[str, ...]:
    parts = tuple(part.strip() for part in text.split(",") if part.strip())
    try:
        return tuple(dict.fromkeys(_cidr(part) for part in parts))
    except ValueError as error:
        raise ConfigError(f"{flag} {text!r} is not a list of subnets such as 10.96.0.0/12,fd00:96::/108") from error


def _cidr(text: str) -> str:
    return str(ipaddress.ip_network(text, strict=False))


def argument_list(config: Config) -> Sequence[str]:
    """The flags that build this Config again (for tests and for restarting an agent as it was)."""
    return [
        f"--node-name={config.node_name}",
        f"--store=dir:{config.store}",
        f"--socket={config.socket}",
        f"--state-dir={config.state_dir}",
        f"--bpf-root={config.bpf_root}",
        f"--default-network={config.default_network}",
        f"--cooldown-s={config.cooldown_s}",
        f"--deadline-s={config.deadline_s}",
        f"--socket-lb={config.socket_lb}",
        f"--log-level={config.log_level}",
        f"--datapath={config.datapath}",
        f"--service-cidr={','.join(config.service_cidr)}",
    ]

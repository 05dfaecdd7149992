"""From a SpiderMultusConfig to the network configuration that the runtime hands to the `dragline` plugin.

Pure. One plugin does all (address, link, routes, programs), so the coordinator block has nothing to configure.
"""

from __future__ import annotations

from typing import Any

from cluster.resources import SpiderMultusConfig
from cluster.specs import LinkConfig

_MODES = {"ipvlan": "l2", "macvlan": "bridge"}


class NetworkError(ValueError):
    """A SpiderMultusConfig that asks for something that is not supported; the text names it, the field and why."""


def network_config(smc: SpiderMultusConfig, socket: str, cni_version: str = "1.0.0") -> dict[str, Any]:
    """The CNI network configuration (JSON-ready) of an ipvlan or macvlan SpiderMultusConfig.

    `socket` is the agent's path, "" for the default one. Raises NetworkError for other cniTypes, several masters, bonds
    and VLANs, which need an interface to be made first.
    """
    link = _link(smc)
    config: dict[str, Any] = {
        "cniVersion": cni_version,
        "name": smc.metadata.name,
        "type": "dragline",
        "linkKind": smc.spec.cni_type,
        "master": link.master[0],
        "mode": _MODES[smc.spec.cni_type],
        "multusName": smc.key,
    }
    if link.mtu:
        config["mtu"] = link.mtu
    pools = {name: list(names) for name, names in (("ipv4", link.ippools.ipv4), ("ipv6", link.ippools.ipv6)) if names}
    if pools:
        config["ippools"] = pools
    if socket:
        config["socket"] = socket
    return config


def _link(smc: SpiderMultusConfig) -> LinkConfig:
    """The block that goes with the cniType, if we can do what it says."""
    spec = smc.spec
    if spec.cni_type not in _MODES:
        raise _unsupported(smc, "cniType", f"{spec.cni_type!r} is not supported; use ipvlan or macvlan")
    wanted, other = (spec.ipvlan, "macvlan") if spec.cni_type == "ipvlan" else (spec.macvlan, "ipvlan")
    if wanted is None:
        raise _unsupported(smc, spec.cni_type, f"required with cniType {spec.cni_type}")
    if (spec.macvlan if other == "macvlan" else spec.ipvlan) is not None:
        raise _unsupported(smc, other, f"not allowed with cniType {spec.cni_type}")
    if not wanted.master or not wanted.master[0]:
        raise _unsupported(smc, f"{spec.cni_type}.master", "names no interface")
    if len(wanted.master) > 1 or wanted.bond is not None:
        raise _unsupported(smc, f"{spec.cni_type}.master", "several masters (a bond) are not supported yet")
    if wanted.vlan_id:
        raise _unsupported(smc, f"{spec.cni_type}.vlanID", f"{wanted.vlan_id}: VLANs are not supported yet")
    return wanted


def _unsupported(smc: SpiderMultusConfig, field: str, reason: str) -> NetworkError:
    return NetworkError(f"SpiderMultusConfig {smc.key}: spec.{field}: {reason}")

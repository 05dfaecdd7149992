"""What controllers, kubelet and Multus work out from objects: pods of a DaemonSet, networks. Pure.

Objects are raw manifests (dicts as YAML gives them), because that is what these stand-ins read and write.
"""

from collections.abc import Callable, Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

import yaml

Raw = dict[str, Any]

NETWORK_ANNOTATION = "v1.multus-cni.io/default-network"
SUFFIX_LETTERS = "bcdfghjklmnpqrstvwxz2456789"
"""The alphabet of Kubernetes' generated names: no vowels, so no words."""


def load(paths: Iterable[Path]) -> list[Raw]:
    """All objects of YAML files, in order."""
    return [raw for path in paths for raw in yaml.safe_load_all(path.read_text(encoding="utf-8")) if raw]


def key_of(raw: Raw) -> str:
    """ "namespace/name", or "name" for an object without a namespace."""
    meta = raw["metadata"]
    return f"{meta['namespace']}/{meta['name']}" if meta.get("namespace") else str(meta["name"])


def suffix(number: int, length: int = 5) -> str:
    """The random-looking end of a pod's name for a random number."""
    letters = []
    for _ in range(length):
        number, index = divmod(number, len(SUFFIX_LETTERS))
        letters.append(SUFFIX_LETTERS[index])
    return "".join(letters)


def expand(daemon_set: Raw, nodes: Sequence[str], draw: Callable[[], int], new_uid: Callable[[], str]) -> list[Raw]:
    """The pods of a DaemonSet, one a node, as its controller creates them (draw: a random number for the name)."""
    meta, template = daemon_set["metadata"], daemon_set["spec"]["template"]
    labels = dict(template["metadata"].get("labels", {}))
    if not matches(daemon_set["spec"]["selector"].get("matchLabels", {}), labels):
        raise ValueError(f"DaemonSet {key_of(daemon_set)}: the template's labels do not match its selector")
    owner = {"apiVersion": "apps/v1", "kind": "DaemonSet", "name": meta["name"], "controller": True}
    return [
        {
            "apiVersion": "v1",
            "kind": "Pod",
            "metadata": {
                "name": f"{meta['name']}-{suffix(draw())}",
                "namespace": meta.get("namespace", "default"),
                "uid": new_uid(),
                "labels": labels,
                "annotations": dict(template["metadata"].get("annotations", {})),
                "ownerReferences": [owner],
            },
            "spec": {**template["spec"], "nodeName": node},
            "status": {"phase": "Pending"},
        }
        for node in nodes
    ]


def matches(selector: Mapping[str, str], labels: Mapping[str, str]) -> bool:
    """Whether a Service's or DaemonSet's (equality) selector selects these labels; an empty one selects nothing."""
    return bool(selector) and all(labels.get(name) == value for name, value in selector.items())


def network_of(pod: Raw, default: str) -> str:
    """ "namespace/name" of the network of a pod's eth0: its annotation (bare name: in kube-system), or the default."""
    name = str(pod["metadata"].get("annotations", {}).get(NETWORK_ANNOTATION, "")).strip() or default
    return name if "/" in name else f"kube-system/{name}"


def cni_args(pod: Raw, container_id: str) -> str:
    """CNI_ARGS as containerd and CRI-O write it."""
    meta = pod["metadata"]
    return (
        f"IgnoreUnknown=1;K8S_POD_NAMESPACE={meta['namespace']};K8S_POD_NAME={meta['name']}"
        f";K8S_POD_INFRA_CONTAINER_ID={container_id};K8S_POD_UID={meta['uid']}"
    )


def addresses(result: Mapping[str, Any]) -> list[str]:
    """The addresses (no prefix lengths) of a CNI result."""
    return [item["address"].split("/")[0] for item in result.get("ips", ())]


def with_addresses(pod: Raw, found: Sequence[str]) -> Raw:
    """The pod as kubelet reports it once its sandbox has these addresses."""
    status = {"phase": "Running", "podIP": found[0], "podIPs": [{"ip": address} for address in found]}
    return {**pod, "status": status}

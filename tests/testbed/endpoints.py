"""What the endpoint slice controller works out: which EndpointSlices a Service with a selector has. Pure.

Objects are raw manifests. A pod is ready unless its status says otherwise, terminating once it has a deletionTimestamp
(then it still serves while it is ready), and gone when its phase is Failed or Succeeded.
"""

from collections.abc import Iterable, Iterator, Mapping

from tests.testbed.workload import Raw, matches

FAMILIES = ("IPv4", "IPv6")


def endpoint_slices(service: Raw, pods: Iterable[Raw], zones: Mapping[str, str] | None = None) -> list[Raw]:
    """The slices of a Service, by family and by the ports its pods have (named target ports may differ from pod to
    pod); zones: node -> topology zone. None for a Service without a selector or of type ExternalName."""
    meta = service["metadata"]
    if not is_synced(service):
        return []
    selected = [pod for pod in pods if _belongs(pod, service)]
    return [
        {
            "apiVersion": "discovery.k8s.io/v1",
            "kind": "EndpointSlice",
            "metadata": {
                "name": f"{meta['name']}-{family.lower()}{f'-{index}' if index else ''}",
                "namespace": meta["namespace"],
                "labels": {"kubernetes.io/service-name": meta["name"], **_foreign_labels(meta)},
            },
            "addressType": family,
            "endpoints": [
                _endpoint(pod, address, service, zones or {}) for pod in some for address in _addresses(pod, family)
            ],
            "ports": ports,
        }
        for family in families(service)
        for index, (ports, some) in enumerate(_by_ports(service, selected))
    ]


def is_synced(service: Raw) -> bool:
    """Whether the controller has a say in the slices of this Service."""
    return bool(service["spec"].get("selector")) and service["spec"].get("type") != "ExternalName"


def families(service: Raw) -> list[str]:
    """The families of a Service, in order."""
    spec = service["spec"]
    found = [family_of(address) for address in spec.get("clusterIPs", ()) if address != "None"]
    return list(spec.get("ipFamilies", found or ["IPv4"]))


def family_of(address: str) -> str:
    """ "IPv4" or "IPv6"."""
    return FAMILIES[":" in address]


def _belongs(pod: Raw, service: Raw) -> bool:
    meta = pod["metadata"]
    return (
        meta["namespace"] == service["metadata"]["namespace"]
        and matches(service["spec"]["selector"], meta.get("labels", {}))
        and pod.get("status", {}).get("phase") not in ("Failed", "Succeeded")
    )


def _foreign_labels(meta: Raw) -> Raw:
    """The controller copies a Service's labels, and marks the slices of a headless one."""
    return {name: value for name, value in meta.get("labels", {}).items() if name.startswith("service.kubernetes.io/")}


def _by_ports(service: Raw, pods: Iterable[Raw]) -> Iterator[tuple[list[Raw], list[Raw]]]:
    """(ports of the slice, its pods); one without pods when there are none."""
    groups: dict[str, tuple[list[Raw], list[Raw]]] = {}
    for pod in pods:
        ports = [port for port in (_port(one, pod) for one in service["spec"]["ports"]) if port]
        groups.setdefault(repr(ports), (ports, []))[1].append(pod)
    yield from groups.values() or [([], [])]


def _port(port: Raw, pod: Raw) -> Raw | None:
    """A Service's port as this pod serves it; None when it has no port of the target's name."""
    number = port.get("targetPort", port["port"])
    protocol = port.get("protocol", "TCP")
    if isinstance(number, str):
        declared = (p for container in pod["spec"].get("containers", ()) for p in container.get("ports", ()))
        number = next((p["containerPort"] for p in declared if p.get("name") == number), None)
    return {"name": port.get("name", ""), "protocol": protocol, "port": number} if number else None


def _addresses(pod: Raw, family: str) -> list[str]:
    return [item["ip"] for item in pod.get("status", {}).get("podIPs", ()) if family_of(item["ip"]) == family]


def _endpoint(pod: Raw, address: str, service: Raw, zones: Mapping[str, str]) -> Raw:
    meta, node = pod["metadata"], pod["spec"]["nodeName"]
    conditions = {item["type"]: item["status"] for item in pod["status"].get("conditions", ())}
    serving = conditions.get("Ready", "True") == "True" or service["spec"].get("publishNotReadyAddresses", False)
    terminating = "deletionTimestamp" in meta
    ready = serving and (not terminating or service["spec"].get("publishNotReadyAddresses", False))
    made = {
        "addresses": [address],
        "conditions": {"ready": ready, "serving": serving, "terminating": terminating},
        "nodeName": node,
        "targetRef": {"kind": "Pod", "namespace": meta["namespace"], "name": meta["name"], "uid": meta["uid"]},
    }
    if node in zones:
        made["zone"] = zones[node]
    hints = _hints(service["spec"].get("trafficDistribution"), node, zones)
    return {**made, "hints": hints} if hints else made


def _hints(distribution: str | None, node: str, zones: Mapping[str, str]) -> Raw:
    if distribution in ("PreferClose", "PreferSameZone") and node in zones:
        return {"forZones": [{"name": zones[node]}]}
    if distribution == "PreferSameNode":
        return {"forNodes": [{"name": node}]}
    return {}

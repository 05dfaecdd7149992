"""Networks with pools of both families on every node and NIC: what the article's manifests lack. Pure."""

from tests.testbed.workload import NETWORK_ANNOTATION, Raw

API = "spiderpool.spidernet.io/v2beta1"
_SUBNETS = {
    "eth0": ("172.31.192.0/20", "172.31.207.253", "fd00:172::/64", "fd00:172::253"),
    "eth1": ("192.168.0.0/24", "192.168.0.253", "fd00:192::/64", "fd00:192::253"),
}
_RANGES = {
    ("master", "eth0"): ("172.31.201.1-172.31.201.20", "fd00:172::2:1-fd00:172::2:20"),
    ("worker", "eth0"): ("172.31.202.1-172.31.202.20", "fd00:172::3:1-fd00:172::3:20"),
    ("master", "eth1"): ("192.168.0.170-192.168.0.189", "fd00:192::2:1-fd00:192::2:20"),
    ("worker", "eth1"): ("192.168.0.190-192.168.0.209", "fd00:192::3:1-fd00:192::3:20"),
}


def network_of(nic: str) -> str:
    """The network whose pods are slaves of this NIC."""
    return f"kube-system/dual-{nic}"


def manifests() -> list[Raw]:
    """Two SpiderMultusConfigs, and a SpiderIPPool per node, NIC and family."""
    return [*(_network(nic) for nic in _SUBNETS), *(pool for place in _RANGES for pool in _pools(*place))]


def pod(name: str, node: str, nic: str, labels: dict[str, str] | None = None) -> Raw:
    """A pod on a NIC of a node, as a user would create it."""
    meta = {"name": name, "namespace": "default", "uid": f"uid-of-{name}", "labels": labels or {}}
    meta["annotations"] = {NETWORK_ANNOTATION: network_of(nic)}
    return {
        "apiVersion": "v1",
        "kind": "Pod",
        "metadata": meta,
        "spec": {"nodeName": node, "containers": [{"name": "main", "image": "busybox"}]},
        "status": {"phase": "Pending"},
    }


def _network(nic: str) -> Raw:
    nodes = [node for node, of in _RANGES if of == nic]
    pools = {family: [f"{node}-{nic}-{family}" for node in nodes] for family in ("ipv4", "ipv6")}
    return {
        "apiVersion": API,
        "kind": "SpiderMultusConfig",
        "metadata": {"name": f"dual-{nic}", "namespace": "kube-system"},
        "spec": {"cniType": "ipvlan", "enableCoordinator": True, "ipvlan": {"master": [nic], "ippools": pools}},
    }


def _pools(node: str, nic: str) -> list[Raw]:
    subnet4, gateway4, subnet6, gateway6 = _SUBNETS[nic]
    range4, range6 = _RANGES[node, nic]
    facts = (("ipv4", range4, subnet4, gateway4), ("ipv6", range6, subnet6, gateway6))
    return [
        {
            "apiVersion": API,
            "kind": "SpiderIPPool",
            "metadata": {"name": f"{node}-{nic}-{family}"},
            "spec": {
                "ips": [ips],
                "subnet": subnet,
                "gateway": gateway,
                "nodeName": [node],
                "multusName": [network_of(nic)],
            },
        }
        for family, ips, subnet, gateway in facts
    ]

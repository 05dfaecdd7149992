"""The API server's stand-in: a folder with one manifest per object, as the agents' `dir:` store reads it."""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import yaml

from tests.testbed.endpoints import endpoint_slices, is_synced
from tests.testbed.workload import Raw, key_of


class StoreFolder:
    """Objects as files `<Kind>.<namespace>.<name>.yaml`, replaced atomically."""

    def __init__(self, path: Path, cluster_ips: Mapping[str, str]) -> None:
        """cluster_ips: "namespace/name" of a Service -> the ClusterIP it is given, as the API server would."""
        self.path = path
        self._cluster_ips = cluster_ips
        self._objects: dict[tuple[str, str], Raw] = {}
        self._synced: set[str] = set()

    def apply(self, raw: Raw) -> None:
        """Create or replace an object; a Service without a clusterIP gets the one set aside for it."""
        if raw["kind"] == "Service":
            meta = {"namespace": "default", **raw["metadata"]}
            raw = {**raw, "metadata": meta, "spec": dict(raw["spec"])}
            if raw["spec"].get("type") != "ExternalName":
                given = raw["spec"].get("clusterIP") or self._cluster_ips[key_of(raw)]
                raw["spec"] |= {"clusterIP": given, "clusterIPs": raw["spec"].get("clusterIPs") or [given]}
        self._objects[raw["kind"], key_of(raw)] = raw
        hidden = self.path / f".{self._file(raw).name}.new"
        hidden.write_text(yaml.safe_dump(raw, sort_keys=False), encoding="utf-8")
        hidden.rename(self._file(raw))

    def __contains__(self, named: tuple[str, str]) -> bool:
        """Whether there is an object of (kind, "namespace/name")."""
        return named in self._objects

    def delete(self, kind: str, key: str) -> None:
        """Remove an object; KeyError when it does not exist."""
        self._file(self._objects.pop((kind, key))).unlink()

    def get(self, kind: str, key: str) -> Raw:
        """The object as last applied; KeyError when it does not exist."""
        return self._objects[kind, key]

    def list(self, kind: str) -> list[Raw]:
        """All objects of a kind."""
        return [raw for (found, _), raw in self._objects.items() if found == kind]

    def sync_endpoints(self) -> None:
        """What the endpoint slice controller does: slices for all Services with a selector, over the pods as they are.

        It looks away from a Service without a selector or of type ExternalName: what such a one had stays.
        """
        zones = {key_of(node): zone for node in self.list("Node") if (zone := _zone(node))}
        pods, services = self.list("Pod"), self.list("Service")
        wanted = {key_of(made): made for service in services for made in endpoint_slices(service, pods, zones)}
        ignored = {key_of(service) for service in services if not is_synced(service)}
        for key, made in wanted.items():
            if self._objects.get(("EndpointSlice", key)) != made:
                self.apply(made)
        for key in self._synced - wanted.keys():
            gone = self._objects.get(("EndpointSlice", key))
            if gone is None or _service_of(gone) not in ignored:
                self._synced.discard(key)
            if gone is not None and key not in self._synced:
                self.delete("EndpointSlice", key)
        self._synced |= wanted.keys()

    def status(self, kind: str, name: str, namespace: str = "_") -> dict[str, Any]:
        """The status an agent wrote for an object; {} when none did."""
        path = self.path / ".status" / f"{kind}.{namespace}.{name}.yaml"
        if not path.exists():
            return {}
        written: dict[str, Any] = yaml.safe_load(path.read_text(encoding="utf-8"))["status"]
        return written

    def _file(self, raw: Raw) -> Path:
        return self.path / f"{raw['kind']}.{key_of(raw).replace('/', '.')}.yaml"


def _service_of(made: Raw) -> str:
    meta = made["metadata"]
    return f"{meta['namespace']}/{meta['labels']['kubernetes.io/service-name']}"


def _zone(node: Raw) -> str:
    return str(node["metadata"].get("labels", {}).get("topology.kubernetes.io/zone", ""))

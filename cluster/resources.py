"""The Kubernetes objects Dragline reads, as frozen structs, and the one parser for them.

Facts only: no I/O. Python names are snake_case, wire names the API's own (camelCase). Only fields that somebody in this
house uses are kept; every other field is dropped on purpose. Source of the shapes: Kubernetes API v1.20 and later,
spiderpool.spidernet.io/v2beta1 as in Spiderpool v0.6.0.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Final

import msgspec

from cluster.field_checks import FieldError, check_name, check_namespace, check_pool, check_service, check_slice
from cluster.specs import (
    Endpoint,
    EndpointPort,
    Fact,
    MultusSpec,
    NodeStatus,
    PodSpec,
    PodStatus,
    PoolSpec,
    PoolStatus,
    ServiceSpec,
    ServiceStatus,
)
from cluster.wire_form import field_and_reason, without_nulls

SPIDERPOOL: Final = "spiderpool.spidernet.io"
SERVICE_NAME_LABEL: Final = "kubernetes.io/service-name"


class ResourceError(ValueError):
    """One object that cannot be used: which kind, which key ("ns/name" or "name"), which field, and why."""

    def __init__(self, kind: str, key: str, field: str, reason: str) -> None:
        super().__init__(f"{kind} {key}: {field}: {reason}" if field else f"{kind} {key}: {reason}")
        self.kind = kind
        self.key = key
        self.field = field
        self.reason = reason


class ObjectMeta(Fact, frozen=True):
    """`namespace` is "" for cluster-scoped kinds; `deletion_timestamp` is "" while the object is not terminating."""

    name: str
    namespace: str = ""
    uid: str = ""
    labels: dict[str, str] = {}
    annotations: dict[str, str] = {}
    resource_version: str = ""
    deletion_timestamp: str = ""

    @property
    def key(self) -> str:
        """ "ns/name", or "name" for a cluster-scoped object."""
        return f"{self.namespace}/{self.name}" if self.namespace else self.name


class Resource(Fact, frozen=True):
    """What all objects share."""

    metadata: ObjectMeta

    @property
    def kind(self) -> str:
        """The API's name of the kind."""
        return type(self).__name__

    @property
    def key(self) -> str:
        """ "ns/name", or "name" for a cluster-scoped object."""
        return self.metadata.key


class SpiderIPPool(Resource, frozen=True):
    spec: PoolSpec
    status: PoolStatus = PoolStatus()

    @property
    def family(self) -> int:
        """4 or 6, from the subnet."""
        return 6 if ":" in self.spec.subnet else 4


class SpiderMultusConfig(Resource, frozen=True):
    spec: MultusSpec


class Node(Resource, frozen=True):
    status: NodeStatus = NodeStatus()


class Namespace(Resource, frozen=True):
    pass


class Pod(Resource, frozen=True):
    spec: PodSpec = PodSpec()
    status: PodStatus = PodStatus()


class Service(Resource, frozen=True):
    spec: ServiceSpec
    status: ServiceStatus = ServiceStatus()


class EndpointSlice(Resource, frozen=True):
    address_type: str
    endpoints: tuple[Endpoint, ...] = ()
    ports: tuple[EndpointPort, ...] = ()

    @property
    def service_key(self) -> str:
        """ "ns/name" of the Service it belongs to; "" without the label."""
        name = self.metadata.labels.get(SERVICE_NAME_LABEL, "")
        return f"{self.metadata.namespace}/{name}" if name else ""


Object = SpiderIPPool | SpiderMultusConfig | Node | Namespace | Pod | Service | EndpointSlice

# (API group, kind) -> (struct, namespaced, versions). The group counts: Knative has a kind "Service" too.
_KINDS: Final[Mapping[tuple[str, str], tuple[type[Resource], bool, tuple[str, ...]]]] = {
    (SPIDERPOOL, "SpiderIPPool"): (SpiderIPPool, False, ("v2beta1",)),
    (SPIDERPOOL, "SpiderMultusConfig"): (SpiderMultusConfig, True, ("v2beta1",)),
    ("", "Node"): (Node, False, ("v1",)),
    ("", "Namespace"): (Namespace, False, ("v1",)),
    ("", "Pod"): (Pod, True, ("v1",)),
    ("", "Service"): (Service, True, ("v1",)),
    ("discovery.k8s.io", "EndpointSlice"): (EndpointSlice, True, ("v1", "v1beta1")),
}


# msgspec 0.22 builds what it knows of a struct at the first use, and crashes when two threads do so at once.
for _struct, *_ in _KINDS.values():
    msgspec.json.Decoder(_struct)


def is_known(raw: Mapping[str, Any]) -> bool:
    """Whether `raw` (a decoded manifest) is of a kind that Dragline reads; a DaemonSet, for example, is not."""
    return _group_kind(raw) in _KINDS


def identify(raw: Mapping[str, Any]) -> tuple[str, str]:
    """(kind, key) of a decoded manifest as far as it can be told; "" for a part that cannot. Never raises."""
    group, kind = _group_kind(raw)
    entry = _KINDS.get((group, kind))
    metadata = raw.get("metadata")
    name = metadata.get("name") if isinstance(metadata, Mapping) else None
    if entry is None or not isinstance(name, str) or not isinstance(metadata, Mapping):
        return kind, ""
    namespace = (metadata.get("namespace") or "default") if entry[1] else ""
    return kind, f"{namespace}/{name}" if namespace else name


def parse(raw: Mapping[str, Any]) -> Object:
    """The object in a decoded manifest; a namespaced one without a namespace is in "default".

    Raises ResourceError naming the field for a wrong type or a value that makes no sense (a range outside its subnet),
    and for a kind that is not ours (ask `is_known` first).
    """
    kind, key = identify(raw)
    entry = _KINDS.get(_group_kind(raw))
    if entry is None:
        raise ResourceError(kind or "object", key or "?", "kind", "not a kind that Dragline reads")
    struct, namespaced, versions = entry
    if str(raw["apiVersion"]).rpartition("/")[2] not in versions:
        raise ResourceError(
            kind, key or "?", "apiVersion", f"{raw['apiVersion']} is not served ({', '.join(versions)})"
        )
    try:
        parsed = msgspec.convert(_placed(raw, namespaced), type=struct)
        _check(parsed)
    except msgspec.ValidationError as error:
        raise ResourceError(kind, key or "?", *field_and_reason(error)) from error
    except FieldError as error:
        raise ResourceError(kind, key or "?", error.field, error.reason) from error
    return parsed  # type: ignore[return-value]  # the table holds only members of Object


def _group_kind(raw: Mapping[str, Any]) -> tuple[str, str]:
    version, kind = raw.get("apiVersion"), raw.get("kind")
    if not isinstance(version, str) or not isinstance(kind, str):
        return "", kind if isinstance(kind, str) and isinstance(version, str) else ""
    return version.rpartition("/")[0], kind


def _placed(raw: Mapping[str, Any], namespaced: bool) -> Any:
    """`raw` without nulls (in the API null means absent) and with the namespace its scope asks for."""
    pruned = without_nulls(raw)
    if isinstance(pruned.get("metadata"), dict):
        pruned["metadata"]["namespace"] = (pruned["metadata"].get("namespace") or "default") if namespaced else ""
    return pruned


def _check(parsed: Resource) -> None:
    check_name(parsed.metadata.name)
    check_namespace(parsed.metadata.namespace)
    if isinstance(parsed, SpiderIPPool):
        check_pool(parsed.spec)
    elif isinstance(parsed, Service):
        check_service(parsed.spec)
    elif isinstance(parsed, EndpointSlice):
        check_slice(parsed)

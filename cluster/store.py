"""What the rest of the house may ask of the cluster, whoever serves it: a folder of manifests or the Kubernetes API."""

from __future__ import annotations

import asyncio
import builtins
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, Protocol, TypeVar

from cluster.resources import Resource

R = TypeVar("R", bound=Resource)
Subscriber = Callable[[str, str], None]
"""Called as (kind, key) on the event loop after that object appeared, changed (its status too) or went away."""


class StoreError(Exception):
    """The store cannot do what was asked; the text says what and why."""


class NotFound(StoreError):
    """There is no such object."""


@dataclass(frozen=True, slots=True)
class Problem:
    """Something a human has to look at. `source` is where ("pools.yaml:12"), `message` what and why."""

    source: str
    message: str


class Store(Protocol):
    """A cache of the cluster's objects that keeps itself current.

    `kind` is the struct of `cluster.resources`, `Store.get(SpiderIPPool, "", "master-172")`; the namespace of a
    cluster-scoped object is "". All methods belong to the event loop's thread.
    """

    synced: asyncio.Event
    """Set once the first complete list is in the cache."""

    async def run(self) -> None:
        """List, then watch for ever. Raises StoreError when that cannot even begin."""

    def get(self, kind: type[R], namespace: str, name: str) -> R | None:
        """The object as last seen, or None."""

    def list(self, kind: type[R]) -> builtins.list[R]:  # `list` is this method in here
        """All objects of that kind, sorted by key."""

    def subscribe(self, callback: Subscriber) -> None:
        """Call `callback` after each change, from now on."""

    async def write_status(self, kind: type[Resource], namespace: str, name: str, status: dict[str, Any]) -> None:
        """Replace the object's status (wire names). Nothing is written when it already says that.

        Raises NotFound without such an object, StoreError when it cannot be written.
        """

    async def wait_for(self, kind: type[R], namespace: str, name: str, timeout_s: float) -> R:
        """The object, as soon as it is there. Raises TimeoutError after `timeout_s` seconds."""

    def problems(self) -> builtins.list[Problem]:
        """What is wrong with the input right now, sorted by source."""

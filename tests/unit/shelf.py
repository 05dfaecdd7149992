"""A store in memory: it holds what it is told, and says so."""

from __future__ import annotations

import asyncio
from typing import Any

from cluster.resources import Resource
from cluster.store import Problem, Subscriber


class Shelf:
    """A store that is told what it holds."""

    def __init__(self, *objects: Resource) -> None:
        self.synced = asyncio.Event()
        self.synced.set()
        """A test may clear it, and set it later."""
        self.wrong: list[Problem] = []
        self._objects = {(one.kind, one.key): one for one in objects}
        self._subscribers: list[Subscriber] = []

    def put(self, *objects: Resource) -> None:
        for one in objects:
            self._objects[one.kind, one.key] = one
            self._tell(one.kind, one.key)

    def remove(self, kind: str, key: str) -> None:
        del self._objects[kind, key]
        self._tell(kind, key)

    def get(self, kind: type[Resource], namespace: str, name: str) -> Resource | None:
        return self._objects.get((kind.__name__, f"{namespace}/{name}" if namespace else name))

    def list(self, kind: type[Resource]) -> list[Any]:
        return [one for (name, _), one in sorted(self._objects.items()) if name == kind.__name__]

    def subscribe(self, callback: Subscriber) -> None:
        self._subscribers.append(callback)

    def problems(self) -> list[Problem]:  # type: ignore[valid-type]  # `list` is the method in here
        return self.wrong

    def _tell(self, kind: str, key: str) -> None:
        for callback in self._subscribers:
            callback(kind, key)

"""Many files' states merged into one view: which object counts, with which status, and what is wrong.

Thinking only: `cluster.directory` reads files and tells the catalog; the catalog answers and says what changed.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Any, Final

from cluster.manifests import Entry, FileState, ObjectId
from cluster.resources import Object, ResourceError, parse
from cluster.store import Problem

_NO_FILE: Final = FileState()


class Catalog:
    """The view over all manifest files and status files of one folder. File names are relative to it."""

    def __init__(self) -> None:
        self._files: dict[str, FileState] = {}
        self._bad_files: set[str] = set()
        self._claims: dict[ObjectId, set[str]] = {}  # which files have this object
        self._doubles: set[ObjectId] = set()  # those that more than one has
        self._statuses: dict[ObjectId, Mapping[str, Any]] = {}  # last good status file's content
        self._bad_statuses: dict[ObjectId, Problem] = {}
        self._objects: dict[str, dict[str, Object]] = {}

    def get(self, kind: str, key: str) -> Object | None:
        """The object as it counts now."""
        return self._objects.get(kind, {}).get(key)

    def list(self, kind: str) -> Iterable[Object]:
        """All objects of that kind, sorted by key."""
        return [parsed for _, parsed in sorted(self._objects.get(kind, {}).items())]

    def raw(self, object_id: ObjectId) -> Mapping[str, Any] | None:
        """The manifest that counts for an object, status file not included."""
        entry = self._entry(object_id)
        return None if entry is None else entry.raw

    def status(self, object_id: ObjectId) -> Mapping[str, Any] | None:
        """The status in force: the status file's, else the manifest's."""
        if object_id in self._statuses:
            return self._statuses[object_id]
        return (self.raw(object_id) or {}).get("status")

    def problems(self) -> set[Problem]:
        """All that is wrong now."""
        found = {problem for name in self._bad_files for problem in self._files[name].problems}
        for object_id in self._doubles:
            first, *others = (self._files[name].entries[object_id].source for name in sorted(self._claims[object_id]))
            message = f"{object_id[0]} {object_id[1]} is in two files; {first} counts"
            found |= {Problem(source, message) for source in others}
        return found | set(self._bad_statuses.values())

    def file(self, name: str) -> FileState:
        """The last state of a file, an empty one for an unknown file."""
        return self._files.get(name, _NO_FILE)

    def files(self) -> set[str]:
        """The names of all files that say or said something."""
        return set(self._files)

    def status_files(self) -> set[ObjectId]:
        """The objects for which there is a status file."""
        return self._statuses.keys() | self._bad_statuses.keys()

    def update(self, states: Mapping[str, FileState | None]) -> set[ObjectId]:
        """Take the new states of some files (None: the file is gone); which objects changed, came or went.

        All in one step, so that an object moved from one file to another is never missing.
        """
        touched: set[ObjectId] = set()
        for name, state in states.items():
            old = self._files.pop(name, _NO_FILE)
            new = state or _NO_FILE
            if state is not None:
                self._files[name] = state
            self._bad_files.discard(name)
            if new.problems:
                self._bad_files.add(name)
            for object_id in old.entries.keys() - new.entries.keys():
                self._claims[object_id].discard(name)
            for object_id in new.entries.keys() - old.entries.keys():
                self._claims.setdefault(object_id, set()).add(name)
            touched |= old.entries.keys() | new.entries.keys()
        return {object_id for object_id in touched if self._refresh(object_id)}

    def update_status(
        self, object_id: ObjectId, status: Mapping[str, Any] | Problem | None, source: str
    ) -> set[ObjectId]:
        """Take what an object's status file says (None: it is gone); the objects that changed, so one or none.

        A status file that cannot be used leaves the last good status in force.
        """
        self._bad_statuses.pop(object_id, None)
        entry = self._entry(object_id)
        if isinstance(status, Problem):
            self._bad_statuses[object_id] = status
        elif status is None:
            self._statuses.pop(object_id, None)
        else:
            try:
                if entry is not None:
                    parse({**entry.raw, "status": status})
            except ResourceError as error:
                self._bad_statuses[object_id] = Problem(source, str(error))
            else:
                self._statuses[object_id] = status
        return {object_id} if self._refresh(object_id) else set()

    def _entry(self, object_id: ObjectId) -> Entry | None:
        files = self._claims.get(object_id)
        return self._files[min(files)].entries[object_id] if files else None

    def _refresh(self, object_id: ObjectId) -> bool:
        """Bring the view of one object up to date; whether that changed anything."""
        kind, key = object_id
        files = self._claims.get(object_id, set())
        self._doubles.discard(object_id)
        if len(files) > 1:
            self._doubles.add(object_id)
        elif not files:
            self._claims.pop(object_id, None)
        objects = self._objects.setdefault(kind, {})
        entry = self._entry(object_id)
        if entry is None:
            return objects.pop(key, None) is not None
        merged = self._merged(object_id, entry)
        if objects.get(key) == merged:
            return False
        objects[key] = merged
        return True

    def _merged(self, object_id: ObjectId, entry: Entry) -> Object:
        status = self._statuses.get(object_id)
        if status is None:
            return entry.parsed
        try:
            return parse({**entry.raw, "status": status})
        except ResourceError as error:  # it was read before its object was there
            self._bad_statuses[object_id] = Problem(f".status of {' '.join(object_id)}", str(error))
            return entry.parsed

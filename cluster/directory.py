"""The embedded store: a folder of manifests is the cluster.

People (or a stand-in for kubelet) edit the manifests; agents write statuses beside them, one file per object in
`.status/`, and every reader of the folder sees them. Several agents may share one folder as long as each writes the
status of its own objects. What the text means is thought out in `cluster.manifests` and `cluster.catalog`; here are
the disk and the event loop.
"""

from __future__ import annotations

import asyncio
import builtins
import logging
import os
import tempfile
from collections.abc import Iterable, Mapping
from pathlib import Path, PurePath
from typing import Any, TypeVar

import msgspec

from cluster.catalog import Catalog
from cluster.folder_watch import STATUS_FOLDER, Changes, FolderWatch, is_status
from cluster.manifests import FileState, ObjectId, read_manifests, read_status, render_status, unreadable
from cluster.resources import Resource, ResourceError, parse
from cluster.store import NotFound, Problem, StoreError, Subscriber

R = TypeVar("R", bound=Resource)
StatusText = Mapping[str, Any] | Problem | None

log = logging.getLogger(__name__)


class DirectoryStore:
    """`cluster.store.Store` over the manifests in `path` (`--store dir:PATH`)."""

    def __init__(self, path: Path) -> None:
        self.synced = asyncio.Event()
        self._root = path.absolute()
        self._catalog = Catalog()
        self._problems: set[Problem] = set()
        self._subscribers: list[Subscriber] = []
        self._waiting: dict[ObjectId, list[asyncio.Future[None]]] = {}
        self._written: set[ObjectId] = set()
        # Held from reading a file to having taken it in, so that a status written in between is not undone by it.
        self._disk = asyncio.Lock()
        # One status write at a time: the last one asked for is the last one on disk.
        self._status_writes = asyncio.Lock()

    async def run(self) -> None:
        """Read everything, then follow the changes for ever. Raises StoreError when the folder is missing or goes."""
        with FolderWatch(self._root) as watch:
            listener = asyncio.create_task(watch.listen(), name="store.listen")
            reader = asyncio.create_task(self._follow(watch), name="store.follow")
            try:
                done, _ = await asyncio.wait((listener, reader), return_when=asyncio.FIRST_COMPLETED)
                for task in done:  # neither returns, so this raises; bare, where a TaskGroup would wrap it in a group
                    task.result()
            finally:
                listener.cancel()
                reader.cancel()
                await asyncio.gather(listener, reader, return_exceptions=True)

    def get(self, kind: type[R], namespace: str, name: str) -> R | None:
        """The object as last seen, or None."""
        found = self._catalog.get(kind.__name__, _key(namespace, name))
        return found if isinstance(found, kind) else None

    def problems(self) -> builtins.list[Problem]:
        """What is wrong with the folder's content right now, sorted by source."""
        return sorted(self._problems, key=lambda problem: (problem.source, problem.message))

    def subscribe(self, callback: Subscriber) -> None:
        """Call `callback` after each change, from now on."""
        self._subscribers.append(callback)

    async def wait_for(self, kind: type[R], namespace: str, name: str, timeout_s: float) -> R:
        """The object, as soon as it is there. Raises TimeoutError after `timeout_s` seconds."""
        object_id = (kind.__name__, _key(namespace, name))
        async with asyncio.timeout(timeout_s):
            while (found := self.get(kind, namespace, name)) is None:
                waiter = asyncio.get_running_loop().create_future()
                waiters = self._waiting.setdefault(object_id, [])
                waiters.append(waiter)
                try:
                    await waiter
                finally:
                    waiters.remove(waiter)
                    if not waiters and self._waiting.get(object_id) is waiters:
                        del self._waiting[object_id]
        return found

    async def write_status(self, kind: type[Resource], namespace: str, name: str, status: dict[str, Any]) -> None:
        """Replace the object's status (wire names). Nothing is written when it already says that.

        Raises NotFound without such an object, StoreError when the status has a wrong type or cannot be written.
        """
        object_id = (kind.__name__, _key(namespace, name))
        async with self._status_writes:
            raw = self._catalog.raw(object_id)
            if raw is None:
                raise NotFound(f"{object_id[0]} {object_id[1]} is not in {self._root}")
            plain = msgspec.json.decode(msgspec.json.encode(status))  # as it will be read back: lists, not tuples
            if plain == self._catalog.status(object_id):
                return
            try:
                parse({**raw, "status": plain})
                await self._store_status(object_id, render_status(raw, plain), plain)
            except (OSError, ResourceError) as error:
                raise StoreError(f"status of {object_id[0]} {object_id[1]}: {error}") from error

    def list(self, kind: type[R]) -> builtins.list[R]:
        """All objects of that kind, sorted by key."""
        return [found for found in self._catalog.list(kind.__name__) if isinstance(found, kind)]

    async def _store_status(self, object_id: ObjectId, text: str, status: Mapping[str, Any]) -> None:
        name = _status_file(object_id)
        target = self._root / name
        draft = await asyncio.to_thread(_write_draft, target, text)
        async with self._disk:
            draft.replace(target)
            self._written.add(object_id)
            changed = self._catalog.update_status(object_id, status, name)
        self._announce(changed)
        await asyncio.to_thread(_sync_folder, target.parent)

    async def _follow(self, watch: FolderWatch) -> None:
        while True:
            changes = await watch.next()
            changed = await self._reload(self._names(changes))
            self.synced.set()
            self._announce(changed)

    def _names(self, changes: Changes) -> set[str]:
        """The files to read for these changes: also the known ones in a folder that is gone or read afresh."""
        if not changes.folders:
            return changes.files
        known = self._catalog.files() | {_status_file(object_id) for object_id in self._catalog.status_files()}
        folders = {"." if folder == "" else folder for folder in changes.folders}
        return changes.files | {name for name in known if str(PurePath(name).parent) in folders}

    async def _reload(self, names: set[str]) -> set[ObjectId]:
        status_names = {name for name in names if is_status(name)}
        async with self._disk:
            last = {name: self._catalog.file(name) for name in names - status_names}
            states, statuses = await asyncio.to_thread(_read_files, self._root, last, status_names)
            changed = self._catalog.update(states)
            for object_id, status in statuses.items():
                changed |= self._catalog.update_status(object_id, status, _status_file(object_id))
        return changed

    def _announce(self, changed: Iterable[ObjectId]) -> None:
        problems = self._catalog.problems()
        for problem in sorted(problems - self._problems, key=lambda problem: problem.source):
            log.warning("%s: %s", problem.source, problem.message)
        self._problems = problems
        for kind, key in sorted(changed):
            if self._catalog.get(kind, key) is None:
                self._drop_status((kind, key))
            for waiter in self._waiting.get((kind, key), ()):
                if not waiter.done():
                    waiter.set_result(None)
            for callback in self._subscribers:
                callback(kind, key)

    def _drop_status(self, object_id: ObjectId) -> None:
        """A status ends with its object, or the next object of that name would inherit it; its writer removes it."""
        if object_id in self._written:
            self._written.discard(object_id)
            (self._root / _status_file(object_id)).unlink(missing_ok=True)


def _key(namespace: str, name: str) -> str:
    return f"{namespace}/{name}" if namespace else name


def _status_file(object_id: ObjectId) -> str:
    namespace, _, name = object_id[1].rpartition("/")
    return f"{STATUS_FOLDER}/{object_id[0]}.{namespace or '_'}.{name}.yaml"


def _status_id(name: str) -> ObjectId | None:
    """The object whose status file is called `name`; None for a name that none has."""
    kind, _, rest = PurePath(name).stem.partition(".")
    namespace, _, object_name = rest.partition(".")
    return (kind, _key("" if namespace == "_" else namespace, object_name)) if object_name else None


def _read_files(
    root: Path, last: Mapping[str, FileState], status_names: Iterable[str]
) -> tuple[dict[str, FileState | None], dict[ObjectId, StatusText]]:
    """The new states of manifest files, and the contents of status files; None for a file that is gone."""
    states: dict[str, FileState | None] = {}
    for name, state in last.items():
        try:
            states[name] = read_manifests(name, (root / name).read_text("utf-8"), state)
        except FileNotFoundError:
            states[name] = None
        except (OSError, UnicodeDecodeError) as error:
            states[name] = unreadable(name, str(error), state)
    statuses: dict[ObjectId, StatusText] = {}
    for name in status_names:
        object_id = _status_id(name)
        if object_id is not None:
            statuses[object_id] = _read_status(root, name, object_id)
    return states, statuses


def _read_status(root: Path, name: str, object_id: ObjectId) -> StatusText:
    try:
        found = read_status(name, (root / name).read_text("utf-8"))
    except FileNotFoundError:
        return None
    except (OSError, UnicodeDecodeError) as error:
        return Problem(name, str(error))
    if isinstance(found, Problem):
        return found
    if found[0] != object_id:
        return Problem(name, f"is the status of {' '.join(found[0])}, which its name does not say")
    return found[1]


def _write_draft(target: Path, text: str) -> Path:
    """Write `text` durably to a hidden file beside `target`."""
    target.parent.mkdir(mode=0o755, exist_ok=True)
    descriptor, draft = tempfile.mkstemp(dir=target.parent, prefix=".draft-")
    with os.fdopen(descriptor, "w", encoding="utf-8") as stream:
        os.fchmod(descriptor, 0o644)
        stream.write(text)
        stream.flush()
        os.fsync(descriptor)
    return Path(draft)


def _sync_folder(folder: Path) -> None:
    descriptor = os.open(folder, os.O_RDONLY | os.O_DIRECTORY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)

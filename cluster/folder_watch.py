"""Which files of a folder changed, told by inotify: the only module that imports asyncinotify.

A file counts as changed when its writer closed it or it was renamed into place, never while it is being written.
Watched are the folder, its direct subfolders (not hidden ones) and `.status`.
"""

from __future__ import annotations

import asyncio
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path, PurePath
from types import TracebackType
from typing import Final

from asyncinotify import Event, Inotify, Mask, Watch

from cluster.store import StoreError

STATUS_FOLDER: Final = ".status"
DEBOUNCE_S: Final = 0.003
"""An editor's or `cp`'s burst of events becomes one change."""

_SUFFIXES: Final = frozenset({".yaml", ".yml", ".json"})
_MASK: Final = (
    Mask.CLOSE_WRITE | Mask.MOVED_FROM | Mask.MOVED_TO | Mask.CREATE | Mask.DELETE | Mask.DELETE_SELF | Mask.MOVE_SELF
)
_GONE: Final = Mask.DELETE_SELF | Mask.MOVE_SELF | Mask.UNMOUNT
_LEFT: Final = Mask.MOVED_FROM | Mask.DELETE
# Kubernetes updates a mounted ConfigMap by renaming this link; its files are links through it and get no event.
_CONFIG_MAP_LINK: Final = "..data"


@dataclass(slots=True)
class Changes:
    """`files`: changed, new or gone. `folders`: gone or to be read afresh, every known file in them included.

    All are relative to the root, "" being the root itself.
    """

    files: set[str] = field(default_factory=set)
    folders: set[str] = field(default_factory=set)


def is_manifest(name: str) -> bool:
    """Whether a file of that (relative) name counts; editors' temporary files do not, nor names that are not UTF-8."""
    path = PurePath(name)
    if not name.isprintable():
        return False
    return len(path.parts) <= 2 and path.suffix in _SUFFIXES and not any(part.startswith(".") for part in path.parts)


def is_status(name: str) -> bool:
    """Whether a (relative) name is that of a status file."""
    path = PurePath(name)
    return path.parent == PurePath(STATUS_FOLDER) and path.suffix == ".yaml" and not path.name.startswith(".")


class FolderWatch:
    """A watched folder, as a context manager. The first `next()` returns every file there is."""

    def __init__(self, root: Path) -> None:
        self._root = root
        self._inotify = Inotify(cache_size=200)
        self._watches: dict[str, Watch] = {}
        self._changes = Changes()
        self._noted = asyncio.Event()

    def __enter__(self) -> FolderWatch:
        """Raises StoreError when the folder is missing, no folder, or cannot be watched."""
        try:
            self._enter("")
        except OSError as error:
            self._inotify.close()
            raise StoreError(f"manifest folder {self._root}: {error.strerror or error}") from error
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, tb: TracebackType | None) -> None:
        self._inotify.close()

    async def listen(self) -> None:
        """Note events for ever. Raises StoreError when the folder itself goes away."""
        # One reader that is never cancelled midway: a cancelled Inotify.get() loses the events it has read.
        async for event in self._inotify:
            self._note(event)

    async def next(self) -> Changes:
        """Wait for changes (a few milliseconds longer, to gather a burst)."""
        await self._noted.wait()
        await asyncio.sleep(DEBOUNCE_S)
        self._noted.clear()
        changes, self._changes = self._changes, Changes()
        return changes

    def _note(self, event: Event) -> None:
        if event.mask & Mask.Q_OVERFLOW:  # events are lost: look at everything again
            self._enter("")
            return
        watch, path = event.watch, event.path
        if watch is None or path is None:
            return
        if event.name is None:
            if event.mask & _GONE and watch.path == self._root:
                raise StoreError(f"manifest folder {self._root} is gone")
            return
        name = path.relative_to(self._root).as_posix()
        if path.name == _CONFIG_MAP_LINK:
            self._enter("")
        elif event.mask & Mask.ISDIR:
            self._note_folder(name, event.mask)
        elif (is_manifest(name) or is_status(name)) and (not event.mask & Mask.CREATE or _is_link(path)):
            self._changes.files.add(name)
            self._noted.set()

    def _note_folder(self, name: str, mask: Mask) -> None:
        if "/" in name or (name.startswith(".") and name != STATUS_FOLDER):
            return
        if mask & _LEFT:
            self._leave(name)
        with suppress(FileNotFoundError, NotADirectoryError):  # a folder that came and went again
            if mask & (Mask.CREATE | Mask.MOVED_TO):
                self._enter(name)

    def _enter(self, folder: str) -> None:
        """Watch a folder, then list it: in this order nothing is missed."""
        path = self._root / folder
        self._watches[folder] = self._inotify.add_watch(path, _MASK | Mask.ONLYDIR)
        self._changes.folders.add(folder)
        self._noted.set()
        for child in path.iterdir():
            name = child.relative_to(self._root).as_posix()
            if not folder and child.is_dir():
                self._note_folder(name, Mask.CREATE)
            elif is_manifest(name) or is_status(name):
                self._changes.files.add(name)

    def _leave(self, folder: str) -> None:
        watch = self._watches.pop(folder, None)
        if watch is not None:
            with suppress(OSError):  # a deleted folder took its watch along
                self._inotify.rm_watch(watch)
        self._changes.folders.add(folder)
        self._noted.set()


def _is_link(path: Path) -> bool:
    """Whether a name that was just created leads to a file that exists already, so that no close will follow."""
    try:
        return path.is_symlink() or path.lstat().st_nlink > 1
    except FileNotFoundError:
        return False

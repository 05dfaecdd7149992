"""DELs that the shim wrote down because no agent answered: `<container_id>-<ifname>.del`, a whole request each.

The shim makes a file whole or not at all (temporary name, fsync, rename, fsync of the folder), then tries to connect
once more. The agent therefore drains the spool before it listens and again after: a file written in between is seen by
either the second drain or that second connect. A repeated DEL changes nothing.
"""

import logging
import os
from dataclasses import dataclass
from pathlib import Path

from cni.frame import MAX_PAYLOAD, REQUEST_HEADER, Frame, FrameError, decode_request

_log = logging.getLogger(__name__)
_SUFFIX = ".del"
_SIZE_MAX = REQUEST_HEADER.size + MAX_PAYLOAD


@dataclass(frozen=True, slots=True)
class SpooledDel:
    """One DEL waiting to be done; its frame has no netns descriptor."""

    path: Path
    frame: Frame


def pending(directory: Path) -> list[SpooledDel]:
    """The spooled DELs, oldest first; [] if the folder does not exist.

    What cannot be read as a DEL is renamed to `*.bad`, kept for a person to look at, and logged as an error.
    Blocking (a few small files). Raises OSError if the folder cannot be read.
    """
    try:
        entries = [entry for entry in os.scandir(directory) if _is_spool_name(entry.name)]
    except FileNotFoundError:
        return []
    found: list[tuple[int, int, str, SpooledDel]] = []
    for entry in entries:
        path = Path(entry.path)
        try:
            written_ns = entry.stat(follow_symlinks=False).st_mtime_ns
            frame = _read(path)
        except FileNotFoundError:
            continue  # its shim reached an agent after all, and took it back
        except (OSError, FrameError) as error:
            set_aside(path, error)
            continue
        found.append((written_ns, frame.started_ns, entry.name, SpooledDel(path, frame)))
    return [spooled for *_, spooled in sorted(found, key=lambda item: item[:3])]


def done(path: Path) -> None:
    """Forget a DEL that has been carried out; fine if its shim took the file back meanwhile.

    No fsync: should the removal be lost, the DEL is done twice.
    """
    path.unlink(missing_ok=True)


def _is_spool_name(name: str) -> bool:
    return name.endswith(_SUFFIX) and not name.startswith(".")


def _read(path: Path) -> Frame:
    with path.open("rb") as file:
        content = file.read(_SIZE_MAX + 1)
    frame = decode_request(content)
    if frame.command != "DEL":
        raise FrameError(f"a spooled {frame.command!r}, only DEL can be")
    return frame


def set_aside(path: Path, reason: Exception) -> None:
    """Rename a file that can never be carried out to `*.bad`, for a person to look at; logged as an error."""
    bad = path.with_name(path.name + ".bad")
    try:
        path.rename(bad)
    except FileNotFoundError:
        return
    _log.error("spooled DEL unreadable, kept as %s: %s", bad, reason, extra={"reason": str(reason)})

"""Log lines: message first, then the fields of `extra` as key=value, in a fixed order."""

from __future__ import annotations

import logging
import sys

FIELDS = ("command", "container_id", "ifname", "pod", "netns", "ip", "pool", "node", "reason", "ms", "code", "count")


class FieldFormatter(logging.Formatter):
    """`2026-11-23T17:00:00 INFO cni.server ADD done container_id=… ms=2.1`."""

    def __init__(self) -> None:
        super().__init__("%(asctime)s %(levelname)s %(name)s %(message)s", "%Y-%m-%dT%H:%M:%S")
        self._second = (0, "")

    def formatTime(self, record: logging.LogRecord, datefmt: str | None = None) -> str:
        """The record's second, formatted once a second: a burst of pods writes hundreds of lines in it."""
        second = int(record.created)
        if self._second[0] != second:
            self._second = second, super().formatTime(record, datefmt)
        return self._second[1]

    def format(self, record: logging.LogRecord) -> str:
        """The line of a record, with its known extra fields appended."""
        text = super().format(record)
        fields = [f"{name}={getattr(record, name)}" for name in FIELDS if getattr(record, name, None) not in (None, "")]
        return " ".join([text, *fields])


def configure(level: str) -> None:
    """Log to standard error from `level` (debug, info, warning, error) on."""
    handler = logging.StreamHandler(sys.stderr)
    handler.setFormatter(FieldFormatter())
    root = logging.getLogger()
    root.handlers[:] = [handler]
    root.setLevel(level.upper())
    logging.getLogger("asyncio").setLevel(logging.WARNING)

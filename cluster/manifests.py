"""Manifest text to objects, document by document, with the file and line of everything that is wrong.

Thinking only: text in, `FileState` out. The rule of the house for bad input: a document that cannot be used keeps what
it last said in force. So a state is computed from the new text *and* the last state of that file:

* a document that parses: its object as it now is;
* a bad document with the kind and name of an object of the last state: that object stays;
* any other bad document (broken YAML, a mistyped name) could be any of them: every object of the last state that the
  new text does not give stays;
* an empty file: half-written, so everything stays (to remove objects, remove the file or leave a comment in it).
"""

from __future__ import annotations

import itertools
import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from typing import Any, Final

import yaml

from cluster.resources import Object, ResourceError, identify, is_known, parse
from cluster.store import Problem
from cluster.yaml_text import Lines, YamlError, read_yaml

_Dumper = getattr(yaml, "CSafeDumper", yaml.SafeDumper)  # libyaml's, where there is one: ten times as fast

ObjectId = tuple[str, str]
"""(kind, key), key being "ns/name" or "name"."""

_DOCUMENT_START: Final = re.compile(r"^---(?=\s|$)", re.MULTILINE)
_HAS_CONTENT: Final = re.compile(r"^(?!---\s*(#.*)?$|\.\.\.\s*$|%)\s*[^\s#]", re.MULTILINE)


@dataclass(frozen=True, slots=True)
class Entry:
    """One object, what it was parsed from, and where that stands ("pools.yaml:12")."""

    parsed: Object
    raw: Mapping[str, Any]
    source: str


@dataclass(frozen=True, slots=True)
class FileState:
    """What one file says, as far as it can be believed."""

    entries: Mapping[ObjectId, Entry] = field(default_factory=dict)
    problems: tuple[Problem, ...] = ()


def read_manifests(name: str, text: str, last: FileState) -> FileState:
    """The state of the file called `name` (its path in sources); JSON is YAML too. Never raises."""
    if not text.strip():
        if last.entries:
            return unreadable(name, "the file is empty; remove it to remove its objects", last)
        return FileState()
    reading = _Reading(name, last)
    for document in _documents(name, text):
        reading.take(document)
    return reading.state()


def unreadable(name: str, reason: str, last: FileState) -> FileState:
    """`last`, with the reason why it could not be renewed."""
    return FileState(last.entries, (Problem(name, reason),))


def read_status(name: str, text: str) -> tuple[ObjectId, dict[str, Any]] | Problem:
    """The object and status in a status file (a manifest cut down to its status), or what is wrong with it."""
    for document in _documents(name, text):
        if isinstance(document, Problem):
            return document
        status = document.raw.get("status")
        object_id = identify(document.raw)
        if isinstance(status, dict) and all(object_id):
            return object_id, status
    return Problem(name, "not the status of an object that Dragline knows")


@dataclass(frozen=True, slots=True)
class _Document:
    raw: Mapping[str, Any]
    file: str
    lines: Lines
    prefix: str = ""

    def source(self, field_path: str) -> str:
        """File and line of a field, or of the nearest thing that is there."""
        return f"{self.file}:{self.lines.of(self.prefix + field_path)}"


class _Reading:
    """The state of one file, growing document by document."""

    def __init__(self, name: str, last: FileState) -> None:
        self._name = name
        self._last = last.entries
        self._entries: dict[ObjectId, Entry] = {}
        self._problems: list[Problem] = []

    def take(self, document: _Document | Problem) -> None:
        if isinstance(document, Problem):
            self._problems.append(document)
            self._keep_all()
        elif not (document.raw.get("apiVersion") and document.raw.get("kind")):
            self._problems.append(Problem(document.source(""), "apiVersion and kind are required"))
            self._keep_all()
        elif is_known(document.raw):
            self._take_known(document)

    def state(self) -> FileState:
        return FileState(self._entries, tuple(self._problems))

    def _take_known(self, document: _Document) -> None:
        object_id = identify(document.raw)
        try:
            parsed = parse(document.raw)
        except ResourceError as error:
            self._problems.append(Problem(document.source(error.field), str(error)))
            if object_id in self._last:
                self._entries.setdefault(object_id, self._last[object_id])
            else:
                self._keep_all()
            return
        known = self._entries.get(object_id)
        if known is not None and known is not self._last.get(object_id):
            message = f"{object_id[0]} {object_id[1]} is in this file twice; {known.source} counts"
            self._problems.append(Problem(document.source(""), message))
            return
        self._entries[object_id] = Entry(parsed, document.raw, document.source(""))

    def _keep_all(self) -> None:
        for object_id, entry in self._last.items():
            self._entries.setdefault(object_id, entry)


def _documents(name: str, text: str) -> Iterator[_Document | Problem]:
    for chunk, first_line in _chunks(text):
        try:
            raw, lines = read_yaml(chunk, first_line)
        except YamlError as error:
            yield Problem(f"{name}:{error.line}", error.reason)
        else:
            yield from _flatten(_Document(raw, name, lines), first_line)


def _flatten(document: _Document, first_line: int) -> Iterator[_Document | Problem]:
    """The document itself, or the items of a List (as `kubectl get -o yaml` writes it)."""
    raw = document.raw
    if not isinstance(raw, Mapping):
        yield Problem(f"{document.file}:{first_line}", "a manifest is a mapping with apiVersion, kind and metadata")
    elif str(raw.get("kind", "")).endswith("List") and isinstance(raw.get("items"), list):
        for index, item in enumerate(raw["items"]):
            yield from _flatten(_Document(item, document.file, document.lines, f"items[{index}]."), first_line)
    else:
        yield document


def _chunks(text: str) -> Iterator[tuple[str, int]]:
    """(text, number of its first line) of each document with content.

    Split before parsing, so that one broken document does not take the others along. A line that begins with "---" is
    a document marker wherever it stands: YAML forbids it inside scalars.
    """
    starts = [0, *(match.start() for match in _DOCUMENT_START.finditer(text) if match.start()), len(text)]
    line = 1
    for start, end in itertools.pairwise(starts):
        chunk = text[start:end]
        if _HAS_CONTENT.search(chunk):
            yield chunk, line
        line += chunk.count("\n")


def render_status(raw: Mapping[str, Any], status: Mapping[str, Any]) -> str:
    """The status file's text for the object of manifest `raw`."""
    metadata = {key: raw["metadata"][key] for key in ("name", "namespace") if raw["metadata"].get(key)}
    document = {"apiVersion": raw["apiVersion"], "kind": raw["kind"], "metadata": metadata, "status": dict(status)}
    return yaml.dump(document, Dumper=_Dumper, sort_keys=False, width=10_000)

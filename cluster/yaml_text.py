"""One YAML document to plain data, strictly, remembering on which line each field stands.

Differences from PyYAML's safe loader, each because manifests mean something else than YAML 1.1 reads:
* no timestamps (the API's times are strings) and no base-60 integers (1:2:3:4:5:6:7:8 is an IPv6 address);
* a key that is there twice is an error, as with `kubectl --validate=strict`;
* aliases may not blow a document up ("billion laughs") or refer to themselves.
"""

from __future__ import annotations

import re
from collections.abc import Hashable
from dataclasses import dataclass
from typing import Any, Final

import yaml

_MAX_NODES: Final = 2_000_000
_MAX_DEPTH: Final = 100
# A line inside block collections of that depth starts at least half as many columns in ("a:\n- x" adds no column).
_DEEP_INDENT: Final = re.compile(rf"^[ \t?-]{{{_MAX_DEPTH // 2}}}", re.MULTILINE)
_STEP: Final = re.compile(r"([^.\[\]]+)|\[(\d+)\]")


class YamlError(ValueError):
    """`line` counts from 1."""

    def __init__(self, line: int, reason: str) -> None:
        super().__init__(f"line {line}: {reason}")
        self.line = line
        self.reason = reason


# libyaml's parser is ten times as fast, but a PyYAML built without it lacks the name.
class _Loader(getattr(yaml, "CSafeLoader", yaml.SafeLoader)):  # type: ignore[misc]
    yaml_implicit_resolvers = {
        first: [(tag, pattern) for tag, pattern in resolvers if not tag.endswith((":timestamp", ":int"))]
        for first, resolvers in yaml.SafeLoader.yaml_implicit_resolvers.items()
    }

    def construct_mapping(self, node: yaml.MappingNode, deep: bool = False) -> dict[Hashable, Any]:
        seen = set()
        for key, _ in node.value:
            if key.tag != "tag:yaml.org,2002:merge" and isinstance(key.value, str):
                if key.value in seen:
                    raise yaml.constructor.ConstructorError(None, None, f"key {key.value!r} twice", key.start_mark)
                seen.add(key.value)
        mapping: dict[Hashable, Any] = super().construct_mapping(node, deep)
        return mapping


_Loader.add_implicit_resolver(
    "tag:yaml.org,2002:int",
    re.compile(r"^(?:[-+]?0b[0-1_]+|[-+]?0[0-7_]+|[-+]?(?:0|[1-9][0-9_]*)|[-+]?0x[0-9a-fA-F_]+)$"),
    list("-+0123456789"),
)


@dataclass(frozen=True, slots=True)
class Lines:
    """Where the fields of one document stand. `first_line` is the document's own place in its file."""

    root: yaml.Node
    first_line: int

    def of(self, path: str) -> int:
        """The line of a field such as "spec.ips[0]", or of its nearest ancestor that is there."""
        node, line = self.root, self.root.start_mark.line
        for name, index in _STEP.findall(path):
            if isinstance(node, yaml.MappingNode):
                step = next(((key, value) for key, value in node.value if key.value == name), None)
            elif isinstance(node, yaml.SequenceNode) and index and int(index) < len(node.value):
                step = (node.value[int(index)],) * 2
            else:
                step = None
            if step is None:
                break
            line, node = step[0].start_mark.line, step[1]
        return self.first_line + int(line)


def read_yaml(text: str, first_line: int) -> tuple[Any, Lines]:
    """The data of one document (which must have content) and its lines. Raises YamlError with the line in the file."""
    try:
        _check_depth(text, first_line)
        loader = _Loader(text)
        try:
            node = loader.get_single_node()
            if node is None:
                raise YamlError(first_line, "no document")
            if "&" in text:
                _size(node, {})
                _check_alias_depth(node, {})
            return loader.construct_document(node), Lines(node, first_line)
        finally:
            loader.dispose()
    except yaml.MarkedYAMLError as error:
        mark, begin = error.problem_mark or error.context_mark, error.context_mark
        context = f", {error.context} that begins in line {first_line + begin.line}" if begin and error.context else ""
        reason = f"bad YAML: {error.problem or error.context}{context if error.problem else ''}"
        raise YamlError(first_line + (mark.line if mark else 0), reason) from error
    except (ValueError, LookupError, AttributeError) as error:
        # What PyYAML's constructors let through when a scalar does not fit its explicit tag (!!int x, !!bool x).
        if isinstance(error, YamlError):
            raise
        raise YamlError(first_line, f"bad YAML: a value does not fit its tag: {error}") from error
    except yaml.YAMLError as error:  # of the reader: a character that YAML forbids
        raise YamlError(first_line, f"bad YAML: {str(error).splitlines()[0]}") from error


def _check_depth(text: str, first_line: int) -> None:
    """Refuse deep nesting before it is composed: PyYAML's composer in C recurses and would crash the whole process.

    Block nesting shows as indentation (or a run of "- " and "? "), flow nesting needs as many brackets; only a text
    that could be too deep is run through the parser's events, which do not recurse.
    """
    if text.count("[") + text.count("{") <= _MAX_DEPTH and not _DEEP_INDENT.search(text):
        return
    depth = 0
    for event in yaml.parse(text, Loader=_Loader):
        if isinstance(event, yaml.CollectionStartEvent):
            depth += 1
            if depth > _MAX_DEPTH:
                line = event.start_mark.line if event.start_mark else 0
                raise YamlError(first_line + line, "bad YAML: nested too deeply")
        elif isinstance(event, yaml.CollectionEndEvent):
            depth -= 1


def _check_alias_depth(node: yaml.Node, known: dict[int, int]) -> int:
    """The depth below `node` with every alias written out. Anchors come before their aliases: no deep recursion."""
    if id(node) not in known:
        children = node.value if isinstance(node, yaml.SequenceNode) else []
        if isinstance(node, yaml.MappingNode):
            children = [child for _, child in node.value]
        known[id(node)] = 1 + max((_check_alias_depth(child, known) for child in children), default=0)
        if known[id(node)] > 2 * _MAX_DEPTH:
            raise yaml.constructor.ConstructorError(None, None, "aliases nest too deeply", node.start_mark)
    return known[id(node)]


def _size(node: yaml.Node, known: dict[int, int]) -> int:
    """The number of nodes below `node` with every alias written out. Raises YAMLError for too many, or for a cycle."""
    size = known.get(id(node))
    if size == 0:
        raise yaml.constructor.ConstructorError(None, None, "an alias contains itself", node.start_mark)
    if size is None:
        known[id(node)] = 0  # while its children are being measured
        children = node.value if isinstance(node, yaml.SequenceNode) else []
        if isinstance(node, yaml.MappingNode):
            children = [child for _, child in node.value]
        size = known[id(node)] = 1 + sum(_size(child, known) for child in children)
        if size > _MAX_NODES:
            raise yaml.constructor.ConstructorError(None, None, "aliases make it too large", node.start_mark)
    return size

"""Between decoded manifests (plain dicts) and msgspec: nulls out, errors in the field's words."""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import Any

import msgspec


def without_nulls(value: Any) -> Any:
    """A copy of plain data without nulls: in the Kubernetes API null means absent ("endpoints: null")."""
    if isinstance(value, Mapping):
        return {key: without_nulls(inner) for key, inner in value.items() if inner is not None}
    if isinstance(value, list | tuple):
        return [without_nulls(inner) for inner in value if inner is not None]
    return value


def field_and_reason(error: msgspec.ValidationError) -> tuple[str, str]:
    """("spec.ports[0].port", "Expected `int`, got `str`") of what msgspec puts into one sentence."""
    reason, _, path = str(error).partition(" - at `$")
    path = path.rstrip("`").lstrip(".")
    missing = re.match(r"Object missing required field `(\w+)`", reason)
    if missing is None:
        return path, reason
    return f"{path}.{missing[1]}" if path else missing[1], "required, but missing"

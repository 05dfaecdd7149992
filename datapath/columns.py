"""Single fields of packed map entries, read a thousand at a time: decoding a full table would take seconds. Pure."""

from __future__ import annotations

import struct

from datapath.abi import LAYOUTS


def columns(name: str, *fields: str) -> struct.Struct:
    """An unpacker of these fields of a struct of abi.h; it steps over all others. KeyError when there is none.

    The fields come in the struct's order.
    """
    unknown = set(fields).difference(field for field, _ in LAYOUTS[name])
    if unknown:
        raise KeyError(f"struct {name} has no {', '.join(sorted(unknown))}")
    codes = (code if field in fields else f"{struct.calcsize('=' + code)}x" for field, code in LAYOUTS[name])
    return struct.Struct("=" + "".join(codes))

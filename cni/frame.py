"""The wire between the shim and the agent: one request frame, one answer, over a unix stream socket.

    request: "DRG1" | u32 payload length | payload        (the netns descriptor rides with the first byte, SCM_RIGHTS)
    payload: u64 started_ns | 7 x (u32 length | bytes)    command, container_id, netns, ifname, args, path, config
    answer:  "DRG1" | u32 exit code | u32 body length | body (what the shim prints)

All numbers are little-endian. `started_ns` is CLOCK_MONOTONIC at the shim's first instruction. cni/shim.c is the other
side of this file; tests/unit/test_shim.py compares the two through the real executable.
"""

import struct
from dataclasses import dataclass

MAGIC = b"DRG1"
MAX_PAYLOAD = 1 << 20
REQUEST_HEADER = struct.Struct("<4sI")
ANSWER_HEADER = struct.Struct("<4sII")
_STARTED = struct.Struct("<Q")
_LENGTH = struct.Struct("<I")
_FIELDS = 7


class FrameError(ValueError):
    """Bytes that are not a frame: wrong magic, impossible length, cut off, or with something behind the end."""


@dataclass(frozen=True, slots=True)
class Frame:
    """What the runtime told the shim: its environment as text, stdin as bytes, and when (ns, CLOCK_MONOTONIC)."""

    command: str
    container_id: str
    netns: str
    ifname: str
    args: str
    path: str
    config: bytes
    started_ns: int


def encode(frame: Frame) -> bytes:
    """The whole request, header included, as it goes over the wire and into a spool file; FrameError if too large."""
    texts = (frame.command, frame.container_id, frame.netns, frame.ifname, frame.args, frame.path)
    parts = [_STARTED.pack(frame.started_ns)]
    for field in (*(text.encode() for text in texts), frame.config):
        parts += (_LENGTH.pack(len(field)), field)
    payload = b"".join(parts)
    if len(payload) > MAX_PAYLOAD:
        raise FrameError(f"payload of {len(payload)} bytes, the limit is {MAX_PAYLOAD}")
    return REQUEST_HEADER.pack(MAGIC, len(payload)) + payload


def payload_length(start: bytes) -> int:
    """The payload's length in bytes, from a request's first 8 bytes (or more); FrameError if unbelievable."""
    magic, length = REQUEST_HEADER.unpack_from(start)
    if magic != MAGIC:
        raise FrameError(f"magic {magic!r}, expected {MAGIC!r}")
    if length > MAX_PAYLOAD:
        raise FrameError(f"payload of {length} bytes, the limit is {MAX_PAYLOAD}")
    return int(length)


def decode(payload: bytes) -> Frame:
    """A request's payload (without the 8 bytes of header) as a Frame; FrameError if it is not exactly one.

    An environment variable may hold any bytes: what is not UTF-8 becomes a visible backslash escape, because text with
    surrogates in it would fail later, in a log line or a JSON answer.
    """
    if len(payload) < _STARTED.size:
        raise FrameError(f"payload of {len(payload)} bytes is too short for its start time")
    fields, at = [], _STARTED.size
    for index in range(_FIELDS):
        if at + _LENGTH.size > len(payload):
            raise FrameError(f"payload ends before the length of field {index}")
        (length,) = _LENGTH.unpack_from(payload, at)
        at += _LENGTH.size
        if at + length > len(payload):
            raise FrameError(f"field {index} wants {length} bytes, {len(payload) - at} are left")
        fields.append(payload[at : at + length])
        at += length
    if at != len(payload):
        raise FrameError(f"{len(payload) - at} bytes behind the last field")
    command, container_id, netns, ifname, args, path = (
        field.decode("utf-8", "backslashreplace") for field in fields[:-1]
    )
    (started_ns,) = _STARTED.unpack_from(payload)
    return Frame(command, container_id, netns, ifname, args, path, fields[-1], started_ns)


def decode_request(message: bytes) -> Frame:
    """One whole request, header included (a spool file's content), as a Frame; FrameError if it is not exactly one."""
    if len(message) < REQUEST_HEADER.size:
        raise FrameError(f"{len(message)} bytes are too short for a header")
    length = payload_length(message)
    if len(message) != REQUEST_HEADER.size + length:
        raise FrameError(f"header promises {length} bytes, {len(message) - REQUEST_HEADER.size} follow")
    return decode(message[REQUEST_HEADER.size :])


def encode_answer(code: int, body: bytes) -> bytes:
    """The agent's whole answer: the exit code of the shim (0 to 255) and the bytes it prints on stdout."""
    return ANSWER_HEADER.pack(MAGIC, code, len(body)) + body


def decode_answer(message: bytes) -> tuple[int, bytes]:
    """(exit code, body) of one whole answer; FrameError if it is not exactly one."""
    if len(message) < ANSWER_HEADER.size:
        raise FrameError(f"{len(message)} bytes are too short for an answer")
    magic, code, length = ANSWER_HEADER.unpack_from(message)
    body = message[ANSWER_HEADER.size :]
    if magic != MAGIC:
        raise FrameError(f"magic {magic!r}, expected {MAGIC!r}")
    if len(body) != length:
        raise FrameError(f"answer promises {length} bytes, {len(body)} follow")
    return code, body

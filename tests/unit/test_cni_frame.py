"""The wire format, byte by byte, and everything that is not a frame."""

import struct

import pytest
from hypothesis import given
from hypothesis import strategies as st

from cni.frame import (
    MAX_PAYLOAD,
    Frame,
    FrameError,
    decode,
    decode_answer,
    decode_request,
    encode,
    encode_answer,
    payload_length,
)

FRAME = Frame("ADD", "c0ffee", "/run/netns/x", "eth0", "A=B", "/opt/cni/bin", b'{"name":"net"}', 5_000_000_007)
FIELDS = (b"ADD", b"c0ffee", b"/run/netns/x", b"eth0", b"A=B", b"/opt/cni/bin", b'{"name":"net"}')
PAYLOAD = struct.pack("<Q", 5_000_000_007) + b"".join(struct.pack("<I", len(f)) + f for f in FIELDS)


def test_a_request_is_exactly_these_bytes() -> None:
    assert encode(FRAME) == b"DRG1" + struct.pack("<I", len(PAYLOAD)) + PAYLOAD
    assert decode(PAYLOAD) == FRAME
    assert decode_request(encode(FRAME)) == FRAME
    assert payload_length(encode(FRAME)[:8]) == len(PAYLOAD)


def test_an_answer_is_exactly_these_bytes() -> None:
    assert encode_answer(1, b"body") == b"DRG1\x01\x00\x00\x00\x04\x00\x00\x00body"
    assert decode_answer(encode_answer(7, b"")) == (7, b"")


texts = st.text(st.characters(exclude_categories=["Cs"]), max_size=40)


@given(st.builds(Frame, texts, texts, texts, texts, texts, texts, st.binary(), st.integers(0, 2**64 - 1)))
def test_what_is_encoded_is_decoded(frame: Frame) -> None:
    assert decode_request(encode(frame)) == frame


@pytest.mark.parametrize("length", range(len(PAYLOAD)))
def test_a_payload_cut_anywhere_is_refused(length: int) -> None:
    with pytest.raises(FrameError):
        decode(PAYLOAD[:length])


@given(st.binary(max_size=200))
def test_random_bytes_give_a_frame_or_a_frame_error(payload: bytes) -> None:
    try:
        decode(payload)
    except FrameError:
        return
    assert len(payload) >= 8 + 7 * 4


def test_bytes_behind_the_last_field_are_refused() -> None:
    with pytest.raises(FrameError, match="1 bytes behind"):
        decode(PAYLOAD + b"x")


def test_an_environment_that_is_not_utf_8_becomes_visible_and_printable() -> None:
    payload = PAYLOAD.replace(b"A=B", b"A=\xff")
    assert decode(payload).args == "A=\\xff"


@pytest.mark.parametrize("start", [b"DRG2\0\0\0\0", b"GET / HT", b"DRG1" + struct.pack("<I", MAX_PAYLOAD + 1)])
def test_a_header_that_cannot_be_ours_is_refused(start: bytes) -> None:
    with pytest.raises(FrameError):
        payload_length(start)


@pytest.mark.parametrize("message", [b"", b"DRG1", encode(FRAME)[:-1], encode(FRAME) + b"x"])
def test_a_spool_file_must_be_one_whole_request(message: bytes) -> None:
    with pytest.raises(FrameError):
        decode_request(message)


@pytest.mark.parametrize("message", [b"", encode_answer(0, b"ab")[:-1], encode_answer(0, b"") + b"x", b"x" * 12])
def test_a_broken_answer_is_refused(message: bytes) -> None:
    with pytest.raises(FrameError):
        decode_answer(message)


def test_the_limit_is_1_mib() -> None:
    empty = Frame("", "", "", "", "", "", b"", 0)
    room = MAX_PAYLOAD - (len(encode(empty)) - 8)
    assert len(encode(Frame("", "", "", "", "", "", b"x" * room, 0))) == 8 + MAX_PAYLOAD
    with pytest.raises(FrameError, match="limit"):
        encode(Frame("", "", "", "", "", "", b"x" * (room + 1), 0))

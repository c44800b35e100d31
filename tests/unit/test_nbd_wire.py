"""The option codecs: what they accept, and that every byte is accounted for."""

from __future__ import annotations

import struct
from collections.abc import Callable

import pytest

from cdp.nbd import wire
from tests.unit.nbd_dialogue import contexts, info, replies, string


def test_the_greeting_is_the_specification_s() -> None:
    assert wire.greeting(wire.HandshakeFlag.FIXED_NEWSTYLE | wire.HandshakeFlag.NO_ZEROES) == b"NBDMAGICIHAVEOPT\0\3"


@pytest.mark.parametrize("kinds", [(), (0,), (3, 1, 2), (3, 3), (65535,)])
def test_an_information_request_is_read(kinds: tuple[int, ...]) -> None:
    assert wire.decode_info_request(info("dïsk", *kinds)) == wire.InfoRequest("dïsk", frozenset(kinds))


@pytest.mark.parametrize("queries", [(), ("base:",), ("x-a:b", "base:allocation", "x-a:b")])
def test_a_context_request_is_read(queries: tuple[str, ...]) -> None:
    assert wire.decode_context_request(contexts("disk", *queries)) == wire.ContextRequest("disk", queries)


@pytest.mark.parametrize(
    ("decode", "good"),
    [
        (wire.decode_info_request, info("disk", 1, 3)),
        (wire.decode_context_request, contexts("disk", "base:allocation", "base:")),
    ],
)
def test_a_request_cut_or_stretched_anywhere_is_malformed(decode: Callable[[bytes], object], good: bytes) -> None:
    decode(good)
    for end in range(len(good)):
        with pytest.raises(wire.Malformed):
            decode(good[:end])
    with pytest.raises(wire.Malformed):
        decode(good + b"\0")


def test_a_count_of_queries_beyond_the_data_is_malformed_before_it_is_counted() -> None:
    with pytest.raises(wire.Malformed, match="4294967295 queries"):
        wire.decode_context_request(string("disk") + b"\xff\xff\xff\xff")


@pytest.mark.parametrize("raw", [b"\xff", b"a\0b", b"\xed\xa0\x80", b"\xc0\x80"])
def test_a_string_is_utf8_without_nul(raw: bytes) -> None:
    with pytest.raises(wire.Malformed):
        wire.decode_string(raw, "name")


def test_a_string_has_at_most_4096_bytes() -> None:
    assert wire.decode_string(b"x" * 4096, "name") == "x" * 4096
    with pytest.raises(wire.TooBig):
        wire.decode_string(b"x" * 4097, "name")


def test_queries_are_bounded() -> None:
    assert len(wire.decode_context_request(contexts("d", *["a:"] * 1024)).queries) == 1024
    with pytest.raises(wire.TooBig):
        wire.decode_context_request(contexts("d", *["a:"] * 1025))


@pytest.mark.parametrize("length", [4095, 4096, 4097, 9000])
def test_an_error_message_is_cut_between_characters(length: int) -> None:
    (reply,) = replies(wire.reply_error(7, wire.Rep.ERR_UNKNOWN, "x" + "é" * length))
    text = reply.data.decode()
    assert len(reply.data) <= 4096
    assert text == "x" + "é" * ((4096 - 1) // 2)


def test_an_error_message_is_a_string_of_the_specification() -> None:
    (reply,) = replies(wire.reply_error(7, wire.Rep.ERR_UNKNOWN, "a\0b\udcff"))
    assert reply.data.decode() == "a\N{REPLACEMENT CHARACTER}b?"


@pytest.mark.parametrize(("zeroes", "size"), [(True, 134), (False, 10)])
def test_the_answer_to_export_name_ends_in_124_zeros(zeroes: bool, size: int) -> None:
    answer = wire.export_name_answer(1 << 40, wire.TransmissionFlag.HAS_FLAGS, zeroes=zeroes)
    assert answer == struct.pack(">QH", 1 << 40, 1) + bytes(size - 10)

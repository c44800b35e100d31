"""Whatever a client sends, in whatever pieces: the handshake raises nothing, stays bounded, and answers the bytes, not the pieces."""

from __future__ import annotations

import hypothesis.strategies as st
from hypothesis import given

from cdp.nbd.handshake import Handshake
from cdp.nbd.states import End, Enter, Event, Limits, NeedBytes, StartTls, State, TlsOffer
from tests.unit.nbd_dialogue import (
    ABORT,
    ACK,
    ERR,
    EXPORT_NAME,
    GO,
    GREETING,
    INFO,
    INVALID,
    LIST_META,
    SET_META,
    TLS_REQD,
    TOO_BIG,
    WORLD,
    client_flags,
    contexts,
    converse,
    info,
    option,
    replies,
    settle,
)

LIMITS = Limits(option_bytes_max=300, options_max=12, input_bytes_max=4000)
OUTPUT_BYTES_MAX = len(GREETING) + LIMITS.options_max * 600
"""600 is above the longest answer that WORLD and LIMITS allow to one option."""

names = st.sampled_from([*WORLD, "nobody", "ü"])
queries = st.lists(st.sampled_from(["base:", "base:allocation", "base:x", "x-y:z", "nonsense", ""]), max_size=4)
requests = st.one_of(
    st.builds(option, st.integers(0, 13)),
    st.builds(
        option, st.sampled_from([INFO, GO]), st.builds(lambda n, k: info(n, *k), names, st.lists(st.integers(0, 4)))
    ),
    st.builds(option, st.sampled_from([LIST_META, SET_META]), st.builds(lambda n, q: contexts(n, *q), names, queries)),
    st.builds(option, st.just(EXPORT_NAME), names.map(str.encode)),
)
broken = st.one_of(
    st.builds(option, st.integers(0, 13) | st.integers(0, 2**32 - 1), st.binary(max_size=400)),
    st.builds(option, st.integers(0, 13), st.binary(max_size=20), length=st.integers(0, 2**32 - 1)),
    st.builds(lambda data, end: data[:end], requests, st.integers(0, 60)),
    st.builds(
        lambda data, at, byte: data[:at] + bytes([byte]) + data[at + 1 :],
        requests,
        st.integers(0, 60),
        st.integers(0, 255),
    ),
    st.binary(max_size=60),
)
flags = st.sampled_from([3, 3, 3, 3, 1, 0, 2, 4]).map(client_flags)
streams = st.builds(
    lambda first, rest: first + b"".join(rest), flags, st.lists(requests | requests | broken, max_size=16)
)


def pieces(data: bytes, cuts: list[int]) -> list[bytes]:
    """`data` cut at some places, without empty pieces: those would mean its end."""
    ends = sorted({cut for cut in cuts if 0 < cut < len(data)} | {len(data)})
    return [data[start:end] for start, end in zip([0, *ends], ends, strict=False) if start < end]


def outcome(data: bytes, cut: list[bytes]) -> tuple[bytes, Event]:
    """Output and end, with what had not been fed yet counted as left over: a driver would pass it on as well."""
    machine = Handshake(LIMITS)
    fed = iter(cut)
    out, event = converse(machine, fed)
    if isinstance(event, Enter):
        event = Enter(event.name, event.structured, event.extended, event.contexts, event.leftover + b"".join(fed))
        assert data.endswith(event.leftover)
    return out, event


@given(streams | st.binary(max_size=200), st.lists(st.integers(0, 3000), max_size=20))
def test_the_answer_does_not_depend_on_the_pieces(data: bytes, cuts: list[int]) -> None:
    whole = outcome(data, pieces(data, []))
    assert outcome(data, pieces(data, cuts)) == whole
    assert outcome(data, pieces(data, list(range(len(data))))) == whole


@given(streams, st.lists(st.integers(0, 3000), max_size=20))
def test_input_kept_and_output_are_bounded(data: bytes, cuts: list[int]) -> None:
    machine = Handshake(LIMITS)
    size = len(machine.output())
    for piece in pieces(data, cuts):
        machine.receive(piece)
        event = settle(machine, WORLD)
        size += len(machine.output())
        assert size <= OUTPUT_BYTES_MAX
        if not isinstance(event, NeedBytes):
            break
        assert len(machine._input) < 16 + LIMITS.option_bytes_max


@given(streams, st.lists(st.integers(0, 3000), max_size=20))
def test_where_tls_is_required_nothing_is_told_without_it(data: bytes, cuts: list[int]) -> None:
    machine = Handshake(LIMITS, TlsOffer.REQUIRED)
    for piece in pieces(data, cuts):
        machine.receive(piece)
        event = machine.next_event()
        if isinstance(event, End | StartTls):
            break
        assert event == NeedBytes()
    kinds = {one.kind for one in replies(machine.output()[len(GREETING) :])}
    assert kinds <= {ACK, TLS_REQD, INVALID, TOO_BIG}


@given(st.lists(requests, max_size=12))
def test_every_option_gets_one_final_reply_in_order(sent: list[bytes]) -> None:
    out, event = converse(Handshake(), [client_flags() + b"".join(sent)])
    numbers = [int.from_bytes(one[8:12], "big") for one in sent]
    if isinstance(event, NeedBytes):
        answered = numbers
    else:
        last = next(
            n for n, number in enumerate(numbers) if number in {ABORT, EXPORT_NAME, GO} and _ends(sent[: n + 1])
        )
        answered = [number for number in numbers[: last + 1] if number != EXPORT_NAME]
        if numbers[last] == EXPORT_NAME and isinstance(event, Enter):
            out = out[:-10]
    finals = [one.option for one in replies(out[len(GREETING) :]) if one.kind == 1 or one.kind & ERR]
    assert finals == answered


def _ends(sent: list[bytes]) -> bool:
    machine = Handshake()
    converse(machine, [client_flags() + b"".join(sent)])
    return machine.state in {State.ENTERED, State.ENDED}


@given(streams)
def test_the_end_of_the_client_ends_the_handshake(data: bytes) -> None:
    machine = Handshake(LIMITS)
    machine.receive(data)
    machine.receive(b"")
    assert isinstance(settle(machine, WORLD), End | Enter)
    assert machine.state in {State.ENTERED, State.ENDED}

"""STARTTLS in the handshake: what may be said before it, what it forgets, and what is required."""

from __future__ import annotations

import pytest

from cdp.nbd.handshake import Handshake
from cdp.nbd.states import End, Enter, Event, NeedBytes, StartTls, State, TlsOffer
from tests.unit.nbd_dialogue import (
    ABORT,
    ACK,
    EXPORT_NAME,
    EXTENDED,
    GO,
    GREETING,
    INFO,
    INVALID,
    LIST,
    LIST_META,
    SET_META,
    STARTTLS,
    STRUCTURED,
    TLS_REQD,
    WORLD,
    client_flags,
    contexts,
    info,
    option,
    replies,
    settle,
)


def begun(offer: TlsOffer, *options: bytes) -> tuple[Handshake, list[tuple[int, int]], Event]:
    """A handshake that was told some options; the kinds of replies, and where it led."""
    machine = Handshake(tls=offer)
    machine.receive(client_flags() + b"".join(options))
    event = settle(machine, WORLD)
    answers = replies(machine.output()[len(GREETING) :])
    return machine, [(one.option, one.kind) for one in answers], event


def told(machine: Handshake, *options: bytes) -> tuple[list[tuple[int, int]], Event]:
    machine.receive(b"".join(options))
    event = settle(machine, WORLD)
    return [(one.option, one.kind) for one in replies(machine.output())], event


@pytest.mark.parametrize("offer", [TlsOffer.OFFERED, TlsOffer.REQUIRED])
def test_it_is_acknowledged_and_waits_for_tls(offer: TlsOffer) -> None:
    machine, answers, event = begun(offer, option(STARTTLS))
    assert answers == [(STARTTLS, ACK)]
    assert event == StartTls(b"")
    assert machine.state is State.SECURING
    assert machine.next_event() == event


def test_what_came_behind_it_in_the_clear_is_no_option() -> None:
    machine, answers, event = begun(TlsOffer.OFFERED, option(STARTTLS), option(LIST))
    assert answers == [(STARTTLS, ACK)]
    assert event == StartTls(option(LIST))
    machine.secured()
    assert machine.next_event() == NeedBytes()
    assert machine.output() == b""


def test_it_forgets_what_was_agreed_before() -> None:
    chosen = option(SET_META, contexts("disk", "base:allocation"))
    machine, _, _ = begun(TlsOffer.OFFERED, option(STRUCTURED), chosen, option(EXTENDED), option(STARTTLS))
    machine.secured()
    answers, event = told(machine, option(GO, info("disk")))
    assert answers[-1] == (GO, ACK)
    assert event == Enter("disk", structured=False, extended=False, contexts=(), leftover=b"")


def test_a_second_one_is_invalid() -> None:
    machine, _, _ = begun(TlsOffer.REQUIRED, option(STARTTLS))
    machine.secured()
    assert told(machine, option(STARTTLS)) == ([(STARTTLS, INVALID)], NeedBytes())


def test_with_data_it_is_invalid() -> None:
    _, answers, event = begun(TlsOffer.REQUIRED, option(STARTTLS, b"x"))
    assert answers == [(STARTTLS, INVALID)]
    assert event == NeedBytes()


@pytest.mark.parametrize(
    "asked",
    [
        option(LIST),
        option(INFO, info("disk")),
        option(GO, info("disk")),
        option(GO, b"malformed"),
        option(STRUCTURED),
        option(EXTENDED),
        option(LIST_META, contexts("disk")),
        option(77, b"unknown"),
        option(77, bytes(1 << 20)),
        option(LIST, bytes(1 << 20)),
    ],
)
def test_required_every_option_needs_it(asked: bytes) -> None:
    machine, answers, event = begun(TlsOffer.REQUIRED, asked)
    assert [kind for _, kind in answers] == [TLS_REQD]
    assert event == NeedBytes()
    assert machine.lacked_tls
    answers, event = told(machine, option(STARTTLS))
    assert answers == [(STARTTLS, ACK)]
    assert isinstance(event, StartTls)
    machine.secured()
    answers, _ = told(machine, asked)
    assert TLS_REQD not in [kind for _, kind in answers]


def test_required_export_name_ends_without_it() -> None:
    _, answers, event = begun(TlsOffer.REQUIRED, option(EXPORT_NAME, b"disk"))
    assert answers == []
    assert isinstance(event, End)


def test_required_a_client_may_leave_without_it() -> None:
    machine, answers, event = begun(TlsOffer.REQUIRED, option(ABORT))
    assert answers == [(ABORT, ACK)]
    assert isinstance(event, End)
    assert not machine.lacked_tls


def test_offered_it_may_be_left_out() -> None:
    machine, answers, event = begun(TlsOffer.OFFERED, option(GO, info("disk")))
    assert answers[-1] == (GO, ACK)
    assert isinstance(event, Enter)
    assert not machine.lacked_tls

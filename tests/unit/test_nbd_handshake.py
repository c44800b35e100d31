"""Each option right, malformed, repeated and out of order: what the client is told and where the handshake goes."""

from __future__ import annotations

import struct
from collections.abc import Mapping
from dataclasses import replace

import pytest

from cdp import errors
from cdp.nbd.handshake import REFUSALS, Handshake
from cdp.nbd.offer import Facts
from cdp.nbd.states import TRANSITIONS, End, Enter, Limits, ListExports, NeedBytes, OpenExport, State, Step
from tests.unit.nbd_dialogue import (
    ABORT,
    ACK,
    DISK,
    ERR,
    EXPORT_NAME,
    EXT_REQD,
    EXTENDED,
    FIXED,
    GO,
    GREETING,
    INFO,
    INFORMATION,
    INVALID,
    LIST,
    LIST_META,
    META,
    NO_ZEROES,
    PAST,
    POLICY,
    SERVER,
    SET_META,
    SHUTDOWN,
    STARTTLS,
    STRUCTURED,
    TOO_BIG,
    UNKNOWN,
    UNSUP,
    WORLD,
    Reply,
    client_flags,
    contexts,
    converse,
    info,
    option,
    replies,
    settle,
    string,
)

READ_WRITE = 1 | 4 | 8 | 32 | 64 | 256 | 1024 | 2048
READ_ONLY = 1 | 2 | 4 | 1024
DF, PAYLOAD = 128, 4096


def talk(
    *options: bytes, flags: int = FIXED | NO_ZEROES, world: Mapping[str, Facts | errors.CdpError] = WORLD
) -> tuple[list[Reply], object]:
    """The replies to some options, sent together."""
    out, event = converse(Handshake(), [client_flags(flags) + b"".join(options)], world)
    assert out.startswith(GREETING)
    return replies(out[len(GREETING) :]), event


def kinds(answers: list[Reply]) -> list[tuple[int, int]]:
    return [(one.option, one.kind) for one in answers]


def export_flags(answers: list[Reply]) -> int:
    """The transmission flags in the last NBD_INFO_EXPORT."""
    (data,) = [one.data for one in answers if one.kind == INFORMATION and one.data[:2] == b"\0\0"][-1:]
    flags: int = struct.unpack(">HQH", data)[2]
    return flags


# --- the greeting and the client's flags


def test_the_server_speaks_first() -> None:
    assert converse(Handshake(), []) == (GREETING, NeedBytes())


@pytest.mark.parametrize("flags", [4, 7, 1 << 16, 1 << 31, 0xFFFFFFFF])
def test_unknown_client_flags_drop_the_connection(flags: int) -> None:
    answers, event = talk(option(LIST), flags=flags)
    assert answers == []
    assert isinstance(event, End)
    assert "flags" in event.reason


def test_a_client_that_leaves_at_once_ends_the_handshake() -> None:
    assert converse(Handshake(), [b"\0\0", b""])[1] == End("the client hung up")


@pytest.mark.parametrize("flags", [0, NO_ZEROES])
@pytest.mark.parametrize("number", [ABORT, LIST, STARTTLS, GO, STRUCTURED, EXTENDED, 77])
def test_without_fixed_newstyle_only_export_name_is_an_option(flags: int, number: int) -> None:
    answers, event = talk(option(number), flags=flags)
    assert answers == []
    assert isinstance(event, End)


def test_an_option_begins_with_its_magic() -> None:
    answers, event = talk(option(LIST), b"IHAVEOPS" + bytes(8))
    assert kinds(answers)[-1] == (LIST, ACK)
    assert isinstance(event, End)


# --- EXPORT_NAME


@pytest.mark.parametrize(("flags", "zeros"), [(0, 124), (FIXED, 124), (NO_ZEROES, 0), (FIXED | NO_ZEROES, 0)])
def test_export_name_enters(flags: int, zeros: int) -> None:
    out, event = converse(Handshake(), [client_flags(flags) + option(EXPORT_NAME, b"disk") + b"request"])
    assert out[len(GREETING) :] == struct.pack(">QH", DISK.size, READ_WRITE) + bytes(zeros)
    assert event == Enter("disk", structured=False, extended=False, contexts=(), leftover=b"request")


@pytest.mark.parametrize("name", [b"gone", b"busy", b"", b"\xff", b"a\0b", b"x" * 4097, b"x" * 70000])
def test_export_name_hangs_up_where_it_cannot_enter(name: bytes) -> None:
    answers, event = talk(option(EXPORT_NAME, name), option(LIST))
    assert answers == []
    assert isinstance(event, End)


def test_export_name_hangs_up_before_a_long_name_has_arrived() -> None:
    _, event = talk(option(EXPORT_NAME, length=1 << 31))
    assert isinstance(event, End)


def test_export_name_is_forbidden_after_extended_headers() -> None:
    answers, event = talk(option(EXTENDED), option(EXPORT_NAME, b"disk"))
    assert kinds(answers) == [(EXTENDED, ACK)]
    assert isinstance(event, End)


def test_export_name_takes_what_was_negotiated_before() -> None:
    out, event = converse(
        Handshake(),
        [
            client_flags(),
            option(STRUCTURED),
            option(SET_META, contexts("disk", "base:allocation")),
            option(EXPORT_NAME, b"disk"),
        ],
    )
    assert out.endswith(struct.pack(">QH", DISK.size, READ_WRITE | DF))
    assert event == Enter("disk", structured=True, extended=False, contexts=((1, "base:allocation"),), leftover=b"")


# --- options without an export


def test_abort_is_acknowledged_even_with_data() -> None:
    for data in (b"", b"goodbye", bytes(70000)):
        answers, event = talk(option(ABORT, data), option(LIST))
        assert answers == [Reply(ABORT, ACK, b"")]
        assert isinstance(event, End)


def test_list_names_every_export_with_its_description() -> None:
    machine = Handshake()
    machine.output()
    machine.receive(client_flags() + option(LIST))
    assert machine.next_event() == ListExports()
    machine.exports_are([("a", "first"), ("ü", "")])
    assert replies(machine.output()) == [
        Reply(LIST, SERVER, string("a") + b"first"),
        Reply(LIST, SERVER, string("ü")),
        Reply(LIST, ACK, b""),
    ]


def test_list_may_be_asked_again_and_may_be_empty() -> None:
    out, _ = converse(Handshake(), [client_flags() + option(LIST) * 2], {})
    assert replies(out[len(GREETING) :]) == [Reply(LIST, ACK, b"")] * 2


def test_an_error_answers_list() -> None:
    machine = Handshake()
    machine.receive(client_flags() + option(LIST))
    assert machine.next_event() == ListExports()
    machine.output()
    machine.refused(errors.Closed("the daemon is stopping"))
    assert replies(machine.output()) == [Reply(LIST, SHUTDOWN, b"the daemon is stopping")]
    assert machine.state is State.OPTIONS


@pytest.mark.parametrize("number", [LIST, STARTTLS, STRUCTURED, EXTENDED])
def test_options_without_data_refuse_data(number: int) -> None:
    answers, event = talk(option(number, b"x"), option(LIST))
    assert kinds(answers)[0] == (number, INVALID)
    assert kinds(answers)[-1] == (LIST, ACK)
    assert event == NeedBytes()


def test_refused_data_negotiates_nothing() -> None:
    answers, event = talk(option(STRUCTURED, b"x"), option(EXTENDED, b"x"), option(GO, info("disk")))
    assert export_flags(answers) == READ_WRITE
    assert event == Enter("disk", structured=False, extended=False, contexts=(), leftover=b"")


def test_starttls_is_unsupported_while_there_is_no_tls() -> None:
    answers, event = talk(option(STARTTLS), option(STARTTLS))
    assert kinds(answers) == [(STARTTLS, UNSUP)] * 2
    assert event == NeedBytes()


@pytest.mark.parametrize("number", [0, 4, 12, 77, 0x7FFFFFFF, 0xFFFFFFFF])
@pytest.mark.parametrize("size", [0, 1, 64 << 10, (64 << 10) + 1, 1 << 20])
def test_unknown_options_are_unsupported_and_passed_over(number: int, size: int) -> None:
    answers, event = talk(option(number, bytes(size)), option(LIST))
    assert kinds(answers)[0] == (number, UNSUP)
    assert kinds(answers)[-1] == (LIST, ACK)
    assert event == NeedBytes()


# --- structured replies and extended headers


@pytest.mark.parametrize(
    ("options", "answers", "structured", "extended"),
    [
        ([], [], False, False),
        ([STRUCTURED], [ACK], True, False),
        ([STRUCTURED, STRUCTURED], [ACK, ACK], True, False),
        ([EXTENDED], [ACK], False, True),
        ([EXTENDED, EXTENDED], [ACK, ACK], False, True),
        ([STRUCTURED, EXTENDED], [ACK, ACK], False, True),
        ([EXTENDED, STRUCTURED], [ACK, EXT_REQD], False, True),
        ([STRUCTURED, EXTENDED, STRUCTURED, EXTENDED], [ACK, ACK, EXT_REQD, ACK], False, True),
    ],
)
def test_headers_in_every_order(options: list[int], answers: list[int], structured: bool, extended: bool) -> None:
    told, event = talk(*map(option, options), option(GO, info("disk")))
    assert kinds(told)[: len(options)] == list(zip(options, answers, strict=True))
    assert event == Enter("disk", structured=structured, extended=extended, contexts=(), leftover=b"")
    assert export_flags(told) == READ_WRITE | (DF if structured or extended else 0)


# --- INFO and GO


@pytest.mark.parametrize("number", [INFO, GO])
def test_information_is_complete(number: int) -> None:
    answers, event = talk(option(number, info("disk", 3, 2, 1, 0, 9)))
    assert sorted(answers, key=lambda one: one.data) == [
        Reply(number, ACK, b""),
        Reply(number, INFORMATION, b"\0\0" + struct.pack(">QH", DISK.size, READ_WRITE)),
        Reply(number, INFORMATION, b"\0\1disk"),
        Reply(number, INFORMATION, b"\0\2a disk"),
        Reply(number, INFORMATION, b"\0\3" + struct.pack(">III", 1, 4096, 32 << 20)),
    ]
    assert answers[-1].kind == ACK
    assert isinstance(event, NeedBytes if number == INFO else Enter)


def test_only_export_and_block_size_come_unasked() -> None:
    answers, _ = talk(option(INFO, info("disk")), option(GO, info("disk")))
    asked = [(one.option, one.data[:2]) for one in answers]
    assert asked == [(INFO, b"\0\0"), (INFO, b"\0\3"), (INFO, b""), (GO, b"\0\0"), (GO, b"\0\3"), (GO, b"")]


def test_an_export_without_description_has_none() -> None:
    answers, _ = talk(option(INFO, info("disk@-5m", 2, 1)))
    assert [one.data[:2] for one in answers] == [b"\0\0", b"\0\1", b"\0\3", b""]
    assert answers[1].data[2:] == PAST.name.encode(), "the canonical name, not the client's"


def test_a_kind_asked_twice_is_told_once() -> None:
    answers, _ = talk(option(INFO, info("disk", 1, 1, 1)))
    assert [one.data[:2] for one in answers].count(b"\0\1") == 1


def test_a_read_only_export_offers_nothing_to_writers() -> None:
    answers, _ = talk(option(STRUCTURED), option(INFO, info("disk@-5m")))
    assert export_flags(answers) == READ_ONLY | DF


@pytest.mark.parametrize("number", [INFO, GO])
@pytest.mark.parametrize(
    ("name", "kind"), [("gone", UNKNOWN), ("busy", POLICY), ("", UNKNOWN), ("never heard of", UNKNOWN)]
)
def test_a_refusal_carries_its_sentence_and_haggling_goes_on(number: int, name: str, kind: int) -> None:
    answers, event = talk(option(number, info(name)), option(GO, info("disk")))
    assert kinds(answers)[0] == (number, kind)
    known = WORLD.get(name)
    assert answers[0].data == (str(known) if known else f"there is no volume {name}").encode()
    assert isinstance(event, Enter)


@pytest.mark.parametrize("number", [INFO, GO])
@pytest.mark.parametrize(
    ("data", "kind"),
    [
        (b"", INVALID),
        (b"\0\0\0\0", INVALID),
        (info("disk")[:-1], INVALID),
        (info("disk", 1)[:-1], INVALID),
        (info("disk") + b"\0", INVALID),
        (struct.pack(">I", 5) + b"disk\0\0", INVALID),
        (b"\xff\xff\xff\xffdisk\0\0", INVALID),
        (info(b"d\0sk"), INVALID),
        (info(b"\xff"), INVALID),
        (info(b"x" * 4097), TOO_BIG),
        (bytes(65537), TOO_BIG),
    ],
)
def test_malformed_requests_are_told_so(number: int, data: bytes, kind: int) -> None:
    answers, event = talk(option(number, data), option(LIST))
    assert kinds(answers)[0] == (number, kind)
    assert answers[0].data, "an error says what is wrong"
    assert kinds(answers)[-1] == (LIST, ACK)
    assert event == NeedBytes()


def test_the_longest_name_and_the_longest_list_are_fine() -> None:
    world: dict[str, Facts | errors.CdpError] = {"é" * 2048: DISK}
    data = info("é" * 2048, *range(30000))
    assert len(data) <= 64 << 10
    out, event = converse(Handshake(), [client_flags() + option(GO, data)], world)
    assert isinstance(event, Enter)
    assert replies(out[len(GREETING) :])[-1] == Reply(GO, ACK, b"")


# --- metadata contexts


@pytest.mark.parametrize("number", [LIST_META, SET_META])
def test_contexts_need_replies_in_chunks(number: int) -> None:
    ask = option(number, contexts("disk", "base:allocation"))
    assert kinds(talk(ask)[0]) == [(number, INVALID)]
    for first in (STRUCTURED, EXTENDED):
        assert kinds(talk(option(first), ask)[0])[1:] == [(number, META), (number, ACK)]


@pytest.mark.parametrize(
    ("queries", "listed", "selected"),
    [
        ((), True, False),
        (("base:allocation",), True, True),
        (("base:",), True, False),
        (("base:allocation", "base:", "base:allocation"), True, True),
        (("base:alloc",), False, False),
        (("base:allocation ",), False, False),
        (("BASE:allocation",), False, False),
        (("x-other:base:allocation", "qemu:dirty-bitmap:b"), False, False),
        (("x-other:", "base:allocation"), True, True),
    ],
)
def test_queries_name_contexts(queries: tuple[str, ...], listed: bool, selected: bool) -> None:
    data = contexts("disk", *queries)
    answers, _ = talk(option(STRUCTURED), option(LIST_META, data), option(SET_META, data), option(GO, info("disk")))
    found = [Reply(LIST_META, META, bytes(4) + b"base:allocation")] * listed
    found += [Reply(LIST_META, META, bytes(4) + b"x-cdp:changed-since:")] * (not queries)
    found += [Reply(LIST_META, ACK, b"")]
    found += [Reply(SET_META, META, b"\0\0\0\1base:allocation")] * selected
    found += [Reply(SET_META, ACK, b"")]
    assert answers[1 : 1 + len(found)] == found


SINCE = "x-cdp:changed-since:"
HISTORY = {**WORLD, "disk": replace(DISK, since=("lsn:7", "-5m"), instants=("oldest", "bookmark:a"))}


@pytest.mark.parametrize(
    ("queries", "listed", "selected"),
    [
        ((SINCE + "lsn:7",), [SINCE + "lsn:7"], [SINCE + "lsn:7"]),
        (
            (SINCE + "-5m", "base:allocation", SINCE + "lsn:7", SINCE + "-5m"),
            ["base:allocation", SINCE + "-5m", SINCE + "lsn:7"],
            ["base:allocation", SINCE + "-5m", SINCE + "lsn:7"],
        ),
        ((SINCE + "lsn:8", SINCE + "what?", SINCE.upper() + "lsn:7"), [], []),
        ((SINCE,), [SINCE + "oldest", SINCE + "bookmark:a"], []),
        (("x-cdp:",), [SINCE], []),
        (("x-cdp:changed", "x-cdp:lsn:7"), [], []),
    ],
)
def test_instants_name_contexts(queries: tuple[str, ...], listed: list[str], selected: list[str]) -> None:
    data = contexts("disk", *queries)
    asked = [option(STRUCTURED), option(LIST_META, data), option(SET_META, data), option(GO, info("disk"))]
    answers, event = talk(*asked, world=HISTORY)
    told: dict[int, list[str]] = {LIST_META: [], SET_META: []}
    for reply in answers:
        if reply.kind == META:
            told[reply.option].append(reply.data[4:].decode())
    assert told == {LIST_META: listed, SET_META: selected}
    assert isinstance(event, Enter)
    assert [name for _, name in event.contexts] == selected
    assert len({number for number, _ in event.contexts}) == len(selected)


def test_the_control_plane_is_asked_for_each_instant_once() -> None:
    machine = Handshake()
    queries = [*[SINCE + "-5m"] * 3, SINCE, "base:allocation"]
    machine.receive(client_flags() + option(STRUCTURED) + option(SET_META, contexts("disk", *queries)))
    assert machine.next_event() == OpenExport("disk", ("-5m",), instants=False)
    machine.export_is(DISK)
    machine.receive(option(LIST_META, contexts("disk", SINCE, SINCE + "lsn:7")))
    assert machine.next_event() == OpenExport("disk", ("lsn:7",), instants=True)


@pytest.mark.parametrize("number", [LIST_META, SET_META])
def test_instants_of_one_option_are_bounded(number: int) -> None:
    for count, last in ((16, ACK), (17, TOO_BIG)):
        data = contexts("disk", *(f"{SINCE}lsn:{lsn}" for lsn in range(count)))
        assert kinds(talk(option(STRUCTURED), option(number, data))[0])[-1] == (number, last)


@pytest.mark.parametrize("number", [LIST_META, SET_META])
@pytest.mark.parametrize(
    ("data", "kind"),
    [
        (b"", INVALID),
        (string("disk"), INVALID),
        (contexts("disk", "base:allocation")[:-1], INVALID),
        (contexts("disk", "base:allocation") + b"\0", INVALID),
        (string("disk") + b"\0\0\0\2" + string("base:allocation"), INVALID),
        (contexts("disk", "allocation"), INVALID),
        (contexts("disk", ":allocation"), INVALID),
        (contexts("disk", ""), INVALID),
        (contexts("disk", b"base:\xff"), INVALID),
        (contexts("disk", "base:" + "x" * 4092), TOO_BIG),
        (contexts("disk", *["a:"] * 1025), TOO_BIG),
        (contexts(b"x" * 4097), TOO_BIG),
        (contexts("gone", "base:allocation"), UNKNOWN),
        (bytes(65537), TOO_BIG),
    ],
)
def test_a_failed_selection_forgets_the_one_before(number: int, data: bytes, kind: int) -> None:
    answers, event = talk(
        option(STRUCTURED),
        option(SET_META, contexts("disk", "base:allocation")),
        option(number, data),
        option(GO, info("disk")),
    )
    assert kinds(answers)[3] == (number, kind)
    assert isinstance(event, Enter)
    assert event.contexts == (() if number == SET_META else ((1, "base:allocation"),))


def test_a_selection_for_another_export_does_not_count() -> None:
    answers, event = talk(
        option(EXTENDED), option(SET_META, contexts("disk@-5m", "base:allocation")), option(GO, info("disk"))
    )
    assert event == Enter("disk", structured=False, extended=True, contexts=(), leftover=b"")
    assert not export_flags(answers) & PAYLOAD


def test_a_selection_survives_a_refused_go() -> None:
    _, event = talk(
        option(STRUCTURED),
        option(SET_META, contexts("disk", "base:allocation")),
        option(GO, info("gone")),
        option(GO, info("disk")),
    )
    assert isinstance(event, Enter)
    assert event.contexts == ((1, "base:allocation"),)


def test_payloads_of_block_status_are_offered_with_extended_headers_and_contexts_only() -> None:
    chosen = option(SET_META, contexts("disk", "base:allocation"))
    for options, offered in [
        ([option(STRUCTURED), chosen], False),
        ([option(EXTENDED)], False),
        ([option(EXTENDED), chosen], True),
        ([option(STRUCTURED), chosen, option(EXTENDED)], True),
    ]:
        answers, _ = talk(*options, option(INFO, info("disk")), option(GO, info("disk")))
        told = [one.data for one in answers if one.data[:2] == b"\0\0" and one.kind == INFORMATION]
        assert [bool(struct.unpack(">HQH", data)[2] & PAYLOAD) for data in told] == [offered, offered]


# --- bounds


def test_a_flood_of_options_ends_the_connection() -> None:
    out, event = converse(Handshake(Limits(options_max=5)), [client_flags() + option(77) * 6])
    assert len(replies(out[len(GREETING) :])) == 5
    assert event == End("more than 5 options")


def test_a_flood_of_bytes_ends_the_connection_at_the_header() -> None:
    limits = Limits(option_bytes_max=10, input_bytes_max=100)
    out, event = converse(Handshake(limits), [client_flags() + option(77, bytes(60)), option(77, length=9)])
    assert kinds(replies(out[len(GREETING) :])) == [(77, UNSUP)]
    assert event == End("more than 100 bytes of options")


def test_every_limit_itself_is_still_allowed() -> None:
    sent = option(77, bytes(10)) + option(77, bytes(4))
    limits = Limits(option_bytes_max=10, options_max=2, input_bytes_max=len(sent))
    out, event = converse(Handshake(limits), [client_flags() + sent])
    assert kinds(replies(out[len(GREETING) :])) == [(77, UNSUP)] * 2
    assert event == NeedBytes()
    machine = Handshake(limits)
    machine.receive(client_flags() + option(77, bytes(10))[:-1])
    assert machine.next_event() == NeedBytes()
    assert machine.state is State.OPTIONS, "not too long: it is waited for, not passed over"


def test_what_is_kept_of_a_long_option_is_bounded() -> None:
    machine = Handshake()
    machine.receive(client_flags() + option(GO, length=3 << 20))
    for _ in range(47):
        machine.receive(bytes(64 << 10))
        assert machine.next_event() == NeedBytes()
        assert len(machine._input) == 0
    machine.receive(bytes(64 << 10) + option(LIST))
    machine.output()
    assert machine.next_event() == ListExports()
    assert kinds(replies(machine.output())) == [(GO, TOO_BIG)]


# --- the machine itself


def test_every_kind_of_error_has_a_refusal() -> None:
    assert set(REFUSALS) == {*errors.KINDS, errors.Denied}
    assert all(kind & ERR for kind in REFUSALS.values())


def test_a_more_special_error_is_refused_as_its_kind() -> None:
    class Expired(errors.NotFound):
        pass

    answers, _ = converse(Handshake(), [client_flags() + option(GO, info("old"))], {"old": Expired("too old")})
    assert replies(answers[len(GREETING) :]) == [Reply(GO, UNKNOWN, b"too old")]


def test_an_event_stays_until_it_is_answered() -> None:
    machine = Handshake()
    machine.receive(client_flags() + option(INFO, info("disk")) + option(LIST))
    assert machine.next_event() == machine.next_event() == OpenExport("disk")
    machine.export_is(DISK)
    assert machine.next_event() == machine.next_event() == ListExports()
    machine.exports_are([])
    assert machine.next_event() == machine.next_event() == NeedBytes()


def test_a_client_that_leaves_after_its_last_option_still_gets_the_answer() -> None:
    machine = Handshake()
    machine.receive(client_flags() + option(LIST))
    machine.receive(b"")
    machine.output()
    event = settle(machine, {})
    assert replies(machine.output()) == [Reply(LIST, ACK, b"")]
    assert event == End("the client hung up")


def test_the_table_reaches_every_state_and_ends_are_final() -> None:
    reached = {State.FLAGS} | {after for steps in TRANSITIONS.values() for after in steps.values()}
    assert reached == set(State) == set(TRANSITIONS)
    assert {step for steps in TRANSITIONS.values() for step in steps} == set(Step)
    assert not TRANSITIONS[State.ENTERED]
    assert not TRANSITIONS[State.ENDED]

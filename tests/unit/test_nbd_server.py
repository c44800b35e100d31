"""The driver around the handshake, over real sockets: who is let in, who is shown out, and that every export is released exactly once.

The session behind `attach` is the test's own, so that it can end, or refuse, at a chosen moment; real sessions are in tests/interop.
"""

from __future__ import annotations

import os
import socket
import struct
import threading
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from functools import partial
from typing import Any, cast

import pytest
import trio
from trio.testing import MockClock, wait_all_tasks_blocked

from cdp import errors
from cdp.nbd import server
from tests.unit.nbd_dialogue import (
    ACK,
    GO,
    GREETING,
    INFO,
    INVALID,
    LIST,
    LIST_META,
    META,
    POLICY,
    SET_META,
    STRUCTURED,
    UNKNOWN,
    Reply,
    client_flags,
    contexts,
    info,
    option,
    replies,
)


@dataclass
class Disk:
    """An export that counts its releases."""

    name: str = "disk"
    handle: Any = None
    account: str = "disk"
    size: int = 1 << 20
    read_only: bool = False
    multi_conn: bool = True
    description: str | None = None
    released: int = 0
    released_in: str = ""
    asked: list[str] = field(default_factory=list)

    async def since(self, when: str) -> Any:
        await trio.lowlevel.checkpoint()
        if when == "never":
            raise errors.NotFound("there was no such time")
        self.asked.append(when)
        return f"view {len(self.asked)} of {self.name}"

    async def instants(self) -> list[str]:
        await trio.lowlevel.checkpoint()
        return ["bookmark:a"]

    async def enter(self, attach: Callable[[], int]) -> int:
        return attach()

    def release(self) -> None:
        self.released += 1
        self.released_in = threading.current_thread().name
        if self.name == "cursed":
            raise RuntimeError("a bug in release")


@dataclass
class Disks:
    """Opens any name but "gone"; `slow` waits for `go_on`."""

    opened: list[Disk] = field(default_factory=list)
    go_on: trio.Event = field(default_factory=trio.Event)
    waiting: trio.Event = field(default_factory=trio.Event)

    async def names(self) -> list[tuple[str, str]]:
        await trio.lowlevel.checkpoint()
        return [("disk", "")]

    async def open(self, name: str) -> Disk:
        await trio.lowlevel.checkpoint()
        if name == "gone":
            raise errors.NotFound("there is no gone")
        if name == "bug":
            raise RuntimeError("a bug in open, with a secret")
        if name == "slow":
            self.waiting.set()
            await self.go_on.wait()
        self.opened.append(Disk(name))
        return self.opened[-1]


@dataclass
class Session:
    fd: int
    leftover: bytes
    handle: object
    structured: bool
    extended: bool
    contexts: list[tuple[int, str]]
    on_end: Callable[[int, str], None]
    account: str
    tls: object = None


@dataclass
class Sessions:
    """Takes sockets as the native server does, and holds on to them."""

    attached: list[Session] = field(default_factory=list)
    full: bool = False

    def attach(self, fd: int, leftover: bytes, export: object, **how: Any) -> int:
        if self.full:
            os.close(fd)
            raise errors.Busy("there are too many sessions")
        self.attached.append(Session(fd, leftover, export, **how))
        return len(self.attached)

    def end(self, number: int = 0) -> None:
        """From a thread of its own, as the native server does."""
        session = self.attached[number]
        os.close(session.fd)
        thread = threading.Thread(target=session.on_end, args=(number, "the test ended it"))
        thread.start()
        thread.join()


@dataclass
class Site:
    """A server under test and a way to connect to it."""

    disks: Disks
    sessions: Sessions
    scope: trio.CancelScope
    path: str
    tcp: tuple[str, int]

    async def connect(self, *, tcp: bool = False) -> trio.SocketStream:
        if tcp:
            stream = await trio.open_tcp_stream(*self.tcp)
        else:
            stream = await trio.open_unix_socket(self.path)
        assert await read(stream, len(GREETING)) == GREETING
        return stream

    async def enter(self, name: str = "disk", *, tcp: bool = False) -> trio.SocketStream:
        stream = await self.connect(tcp=tcp)
        await stream.send_all(client_flags() + option(GO, info(name)))
        assert (await answers(stream))[-1] == Reply(GO, ACK, b"")
        await wait_all_tasks_blocked()
        return stream


async def read(stream: trio.SocketStream, count: int) -> bytes:
    got = b""
    while len(got) < count:
        piece = await stream.receive_some(count - len(got))
        assert piece, f"hung up after {got!r}"
        got += piece
    return got


async def answers(stream: trio.SocketStream) -> list[Reply]:
    """The replies up to a final one."""
    found: list[Reply] = []
    while not found or found[-1].kind in {2, 3, 4}:
        head = await read(stream, 20)
        found += replies(head + await read(stream, int.from_bytes(head[16:], "big")))
    return found


async def hung_up(stream: trio.SocketStream) -> bool:
    try:
        return await stream.receive_some(1) == b""
    except trio.BrokenResourceError:
        return True


@asynccontextmanager
async def site(folder: Any, exports: Disks | None = None, **limits: Any) -> AsyncIterator[Site]:
    path = str(folder / "nbd.sock")
    unix = trio.socket.socket(socket.AF_UNIX)
    await unix.bind(path)
    unix.listen()
    (tcp,) = await trio.open_tcp_listeners(0, host="127.0.0.1")
    disks, sessions = exports or Disks(), Sessions()
    listeners = [trio.SocketListener(unix), tcp]
    async with trio.open_nursery() as nursery:
        serve = partial(server.serve, listeners, disks, cast(Any, sessions), **limits)
        started = await nursery.start(serve)
        assert started == listeners
        yield Site(disks, sessions, nursery.cancel_scope, path, tcp.socket.getsockname())
        nursery.cancel_scope.cancel()


def on(folder: Any, test: Callable[[Site], Awaitable[None]], *, clock: MockClock | None = None, **limits: Any) -> Disks:
    """Runs a test against a server of its own."""

    async def main() -> Disks:
        async with site(folder, **limits) as here:
            await test(here)
        return here.disks

    return trio.run(main, clock=clock)


@pytest.fixture
def folder(store: Any) -> Any:
    return store


def test_go_hands_the_socket_on_with_what_was_read_ahead(folder: Any) -> None:
    async def test(here: Site) -> None:
        client = await here.connect()
        await client.send_all(client_flags() + option(STRUCTURED) + option(GO, info("disk")) + b"a first request")
        await answers(client)
        await answers(client)
        await wait_all_tasks_blocked()
        (session,) = here.sessions.attached
        assert (session.leftover, session.structured, session.extended) == (b"a first request", True, False)
        os.write(session.fd, b"reply")
        assert await read(client, 5) == b"reply"
        assert here.disks.opened[0].released == 0
        here.sessions.end()
        await wait_all_tasks_blocked()
        assert await hung_up(client), "trio kept a descriptor of its own"
        assert here.disks.opened[0].released == 1
        assert here.disks.opened[0].released_in == threading.current_thread().name

    on(folder, test)


def test_what_info_opened_is_what_go_enters(folder: Any) -> None:
    async def test(here: Site) -> None:
        client = await here.connect()
        await client.send_all(client_flags())
        for number in (INFO, INFO, GO):
            await client.send_all(option(number, info("disk")))
            await answers(client)
        assert [disk.released for disk in here.disks.opened] == [0]
        await wait_all_tasks_blocked()
        here.sessions.end()

    assert [disk.released for disk in on(folder, test).opened] == [1]


def test_another_name_releases_the_export_before_it(folder: Any) -> None:
    async def test(here: Site) -> None:
        client = await here.connect()
        await client.send_all(client_flags())
        for name in ("a", "b", "gone", "b"):
            await client.send_all(option(INFO, info(name)))
            await answers(client)
        assert [(disk.name, disk.released) for disk in here.disks.opened] == [("a", 1), ("b", 1), ("b", 0)]
        await client.aclose()
        await wait_all_tasks_blocked()
        assert here.disks.opened[-1].released == 1

    on(folder, test)


def test_an_instant_is_resolved_once_and_its_view_goes_to_the_session(folder: Any) -> None:
    since = "x-cdp:changed-since:"

    async def test(here: Site) -> None:
        client = await here.connect()
        await client.send_all(client_flags() + option(STRUCTURED))
        await answers(client)
        for number, queries in (
            (LIST_META, [since + "-5m"]),
            (SET_META, [since + "-5m", since + "never", "base:allocation", since + "lsn:7"]),
            (INFO, None),
            (GO, None),
        ):
            # Another export in between takes nothing from the selection.
            name = "other" if number == INFO else "disk"
            await client.send_all(option(number, info(name) if queries is None else contexts(name, *queries)))
            while (await answers(client))[-1].kind == META:
                pass
        await wait_all_tasks_blocked()
        assert here.disks.opened[0].asked == ["-5m", "lsn:7"]
        told = here.sessions.attached[0].contexts
        assert told == [(1, "base:allocation"), (2, "view 1 of disk"), (3, "view 2 of disk")]
        here.sessions.end()

    on(folder, test)


def test_instants_that_one_connection_holds_are_bounded(folder: Any) -> None:
    async def test(here: Site) -> None:
        client = await here.connect()
        await client.send_all(client_flags() + option(STRUCTURED))
        await answers(client)
        ends = []
        for first in range(0, 80, 16):
            queries = [f"x-cdp:changed-since:lsn:{lsn}" for lsn in range(first, first + 16)]
            await client.send_all(option(LIST_META, contexts("disk", *queries)))
            while (last := (await answers(client))[-1]).kind == META:
                pass
            ends.append(last.kind)
        assert ends == [ACK] * 4 + [INVALID]
        await client.aclose()

    on(folder, test)


def test_stopping_ends_handshakes_but_not_sessions(folder: Any) -> None:
    async def main() -> None:
        async with site(folder) as here:
            inside = await here.enter("inside")
            waiting = await here.connect()
            await waiting.send_all(client_flags() + option(INFO, info("waiting")))
            await answers(waiting)
        assert await hung_up(waiting)
        assert [disk.released for disk in here.disks.opened] == [0, 1]
        with pytest.raises(OSError, match="refused"):
            await trio.open_unix_socket(here.path)
        os.write(here.sessions.attached[0].fd, b"alive")
        assert await read(inside, 5) == b"alive"
        here.sessions.end()
        await wait_all_tasks_blocked()
        assert here.disks.opened[0].released == 1

    trio.run(main)


def test_a_session_that_outlives_the_run_is_released_still(folder: Any) -> None:
    kept: list[Sessions] = []

    async def test(here: Site) -> None:
        await here.enter()
        kept.append(here.sessions)

    disks = on(folder, test)
    assert disks.opened[0].released == 0
    kept[0].end()
    assert disks.opened[0].released == 1


def test_a_refused_session_costs_its_client_alone(folder: Any) -> None:
    async def test(here: Site) -> None:
        here.sessions.full = True
        client = await here.enter()
        assert await hung_up(client)
        assert here.disks.opened[0].released == 1
        here.sessions.full = False
        await here.enter()
        here.sessions.end()

    on(folder, test)


def test_errors_are_told_and_bugs_are_not(folder: Any) -> None:
    async def test(here: Site) -> None:
        client = await here.connect()
        await client.send_all(client_flags() + option(GO, info("gone")) + option(GO, info("bug")) + option(LIST))
        assert await answers(client) == [Reply(GO, UNKNOWN, b"there is no gone")]
        (bug,) = await answers(client)
        assert bug.kind == POLICY
        assert b"internal error" in bug.data
        assert b"secret" not in bug.data
        assert (await answers(client))[-1] == Reply(LIST, ACK, b"")

    on(folder, test)


def test_a_bug_in_release_does_not_end_the_server(folder: Any) -> None:
    async def test(here: Site) -> None:
        await here.enter("cursed")
        here.sessions.end()
        await here.enter("disk")
        here.sessions.end(1)

    assert [disk.released for disk in on(folder, test).opened] == [1, 1]


def test_a_slow_handshake_is_cut_off_and_others_are_not(folder: Any) -> None:
    clock = MockClock()

    async def test(here: Site) -> None:
        slow = await here.connect()
        await slow.send_all(client_flags() + option(INFO, info("disk")))
        await answers(slow)
        clock.jump(29)
        await slow.send_all(option(INFO, info("disk")))
        await answers(slow)
        late = await here.connect()
        session = await here.enter("session")
        clock.jump(1.5)
        assert await hung_up(slow)
        assert here.disks.opened[0].released == 1
        await late.send_all(client_flags() + option(LIST))
        await answers(late)
        clock.jump(1000)
        os.write(here.sessions.attached[0].fd, b"alive")
        assert await read(session, 5) == b"alive"
        here.sessions.end()

    on(folder, test, clock=clock, handshake_seconds=30)


def test_a_newcomer_displaces_the_oldest_idle_handshake(folder: Any) -> None:
    async def test(here: Site) -> None:
        first, second = await here.connect(), await here.connect()
        third = await here.connect()
        assert await hung_up(first)
        for client in (second, third):
            await client.send_all(client_flags() + option(LIST))
            await answers(client)

    on(folder, test, handshakes_max=2)


def test_a_handshake_that_was_answered_is_idle_again(folder: Any) -> None:
    async def test(here: Site) -> None:
        first = await here.connect()
        await first.send_all(client_flags() + option(INFO, info("disk")))
        await answers(first)
        await here.connect()
        assert await hung_up(first)
        assert here.disks.opened[0].released == 1

    on(folder, test, handshakes_max=1)


def test_newcomers_at_once_displace_one_each(folder: Any) -> None:
    async def test(here: Site) -> None:
        idle = [await here.connect(), await here.connect()]
        with socket.socket(socket.AF_UNIX) as one, socket.socket() as other:
            # Blocking calls: both are in their backlogs before the server's tasks get to run.
            one.connect(here.path)
            other.connect(here.tcp)
            assert [await hung_up(client) for client in idle] == [True, True]

    on(folder, test, handshakes_max=2)


def test_a_client_that_resets_its_connection_is_no_error(folder: Any, caplog: pytest.LogCaptureFixture) -> None:
    async def test(here: Site) -> None:
        client = await here.connect(tcp=True)
        await client.send_all(client_flags() + option(INFO, info("disk")))
        await answers(client)
        client.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
        await client.aclose()
        await wait_all_tasks_blocked()
        assert here.disks.opened[0].released == 1

    on(folder, test)
    assert [record.message for record in caplog.records if record.levelname == "ERROR"] == []


def test_stopping_shuts_out_who_waits_for_a_slot(folder: Any) -> None:
    async def main() -> None:
        async with site(folder, handshakes_max=1) as here:
            first = await here.connect()
            await first.send_all(client_flags() + option(INFO, info("slow")))
            await here.disks.waiting.wait()
            second = await trio.open_unix_socket(here.path)
            await wait_all_tasks_blocked()
        assert await hung_up(first)
        assert await hung_up(second)
        assert here.disks.opened == []

    trio.run(main)


def test_a_handshake_that_waits_for_us_is_not_displaced(folder: Any) -> None:
    async def test(here: Site) -> None:
        first = await here.connect()
        await first.send_all(client_flags() + option(INFO, info("slow")))
        await here.disks.waiting.wait()
        second = await trio.open_unix_socket(here.path)
        await wait_all_tasks_blocked()
        here.disks.go_on.set()
        assert (await answers(first))[-1].kind == ACK
        await first.aclose()
        assert await read(second, len(GREETING)) == GREETING

    on(folder, test, handshakes_max=1)


def test_sessions_do_not_count_as_handshakes(folder: Any) -> None:
    async def test(here: Site) -> None:
        sessions = [await here.enter(tcp=bool(n % 2)) for n in range(6)]
        for number, client in enumerate(sessions):
            os.write(here.sessions.attached[number].fd, b"alive")
            assert await read(client, 5) == b"alive"
            here.sessions.end(number)

    on(folder, test, handshakes_max=2)


def test_tcp_is_fitted_to_the_transmission_phase(folder: Any) -> None:
    async def test(here: Site) -> None:
        await here.enter(tcp=True)
        with socket.socket(fileno=os.dup(here.sessions.attached[0].fd)) as seen:
            assert seen.getsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY)
            assert seen.getsockopt(socket.SOL_SOCKET, socket.SO_KEEPALIVE)
            assert seen.getsockopt(socket.IPPROTO_TCP, socket.TCP_NOTSENT_LOWAT) == 0
        here.sessions.end()

    on(folder, test)

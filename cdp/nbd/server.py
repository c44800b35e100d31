"""Accepts NBD connections, runs their handshakes, and gives the sockets to the native session.

Invariants:
- A client costs the others nothing: each handshake is a task of its own, ends after `handshake_seconds`, and is one of at most
  `handshakes_max`. When all are taken, a newcomer displaces another one (gate.py), so idle connections cannot lock anybody out.
- A client that is turned away is named in the log, with the reason, as a warning; so many a minute, the others are counted.
- A handshake has at most one export open. It is released exactly once: by the handshake, or by the session that took it over.
- After the last byte of the handshake Python does not touch the connection again.
- No client can end the server: what goes wrong in one connection is logged and ends that connection.
"""

from __future__ import annotations

import contextlib
import logging
import socket
from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING

import trio

from cdp import errors
from cdp.logs import Seldom
from cdp.nbd import offer
from cdp.nbd.exports import Export, Exports
from cdp.nbd.gate import Gate, GatedListener, Sessions, peer_of
from cdp.nbd.handshake import Handshake
from cdp.nbd.offer import Facts
from cdp.nbd.states import End, Enter, Limits, ListExports, NeedBytes, OpenExport, StartTls, TlsOffer
from cdp.nbd.tls import Plain, Secure, Security, TurnedAway

if TYPE_CHECKING:
    from cdp import _native

log = logging.getLogger("cdp.nbd")

HANDSHAKE_SECONDS = 30.0
"""From accepting to the transmission phase: ample for a person who types options, short for one who types none."""
HANDSHAKES_MAX = 128
"""At once; each may hold some 130 KiB and one export."""
INSTANTS_MAX = 64
"""Instants that one negotiation holds to tell changes since; each keeps history."""

_KEEPALIVE = {socket.TCP_KEEPIDLE: 60, socket.TCP_KEEPINTVL: 15, socket.TCP_KEEPCNT: 4}
"""Seconds, seconds, probes: a peer that vanished without a word frees its session and its export after two minutes."""


async def serve(
    listeners: Sequence[trio.SocketListener],
    exports: Exports,
    native: _native.Server,
    *,
    handshake_seconds: float = HANDSHAKE_SECONDS,
    handshakes_max: int = HANDSHAKES_MAX,
    sessions_per_peer: int | None = None,
    limits: Limits | None = None,
    security: Security | None = None,
    task_status: trio.TaskStatus[list[trio.SocketListener]] = trio.TASK_STATUS_IGNORED,
) -> None:
    """Serves NBD on all listeners until cancelled.

    Each connection is negotiated here and then attached to `native`, which owns it from then on: cancelling this ends the listeners
    and the handshakes under way, not the sessions (`native.stop` ends those). An export that went to a session is released in the trio
    thread when the session ends; when trio's run is over by then, in the thread that ended it.

    Args:
      listeners: Unix or TCP, already listening. They are closed when this ends, however it ends.
      exports: what names mean. Its errors become replies to the client.
      native: takes the sockets. If it refuses one, the client is disconnected.
      handshake_seconds: a handshake that takes longer is cut off.
      handshakes_max: how many there may be at once.
      sessions_per_peer: how many sessions clients from one address, or of one local process, may have. None: as many as they like, and the last descriptors too.
      limits: how much a client may ask in one handshake.
      security: whether there is TLS, and who may open what with it. None: there is none.
      task_status: started with the listeners once they accept, as `trio.serve_listeners` does.

    Raises:
      Nothing of a client's making. An accept that fails for want of descriptors or memory is logged and tried again; other errors of
      a listener pass through.
    """
    gate = Gate(handshakes_max)
    told = Seldom(log)
    sessions = Sessions(sessions_per_peer)
    token = trio.lowlevel.current_trio_token()

    async def handle(stream: trio.SocketStream) -> None:
        connection = _Connection(stream, exports, limits or Limits(), security, told, sessions)
        with gate.passing(connection):
            enter = await connection.negotiate(handshake_seconds)
            if enter is not None:
                await _hand_over(connection, enter, native, token)

    gated = [GatedListener(listener, gate, sessions, told) for listener in listeners]
    async with trio.open_nursery() as nursery:
        nursery.start_soon(told.tell_rest)
        await nursery.start(trio.serve_listeners, handle, gated)
        task_status.started(list(listeners))


class _Connection:
    """One accepted connection, up to the end of its handshake."""

    def __init__(
        self,
        stream: trio.SocketStream,
        exports: Exports,
        limits: Limits,
        security: Security | None,
        told: Seldom,
        sessions: Sessions,
    ) -> None:
        self.stream = stream
        self.pipe = Plain(stream)
        self.peer = peer_of(stream)
        self.who = _address(stream)
        self.told = told
        self.sessions = sessions
        self._security = security
        self._lacked_tls = False
        self.scope = trio.CancelScope()
        self.waits_for_client = True
        self._exports = exports
        self._limits = limits
        self._opened: tuple[str, Export] | None = None
        # By export name and WHEN. Kept when another name is opened in between: a selection outlives that.
        self._since: dict[tuple[str, str], _native.View] = {}

    async def negotiate(self, seconds: float) -> Enter | None:
        """The handshake's outcome, with all its replies sent; None if the connection is to be closed. Never raises but for cancellation from outside."""
        reason = "it was cut off: it took too long, or made room for others"
        self.scope.deadline = trio.current_time() + seconds
        enter: Enter | None = None
        try:
            with self.scope:
                outcome = await self._converse()
                if isinstance(outcome, Enter):
                    enter = outcome
                else:
                    reason = outcome.reason
        except (trio.BrokenResourceError, trio.ClosedResourceError):
            reason = "the client vanished"
        except TurnedAway as refusal:
            reason = "it was turned away"
            self.told.warning("turned %s away: %s", self.who, refusal)
            await self.pipe.last_words()
        except Exception:
            log.exception("a handshake failed")
            reason = "internal error"
        finally:
            if enter is None:
                self._release()
        if enter is None:
            log.info("handshake of %s ended: %s", self.who, reason)
        return enter

    def take_export(self) -> Export:
        """The export that was entered; its release is now the taker's."""
        assert self._opened is not None
        (_, export), self._opened = self._opened, None
        return export

    def meanings(self, enter: Enter) -> list[tuple[int, str | _native.View]]:
        """What the native session is told of the selected contexts: a view where the context tells what changed since it."""
        views: dict[str, str | _native.View] = {
            offer.CHANGED_SINCE + when: view for (name, when), view in self._since.items() if name == enter.name
        }
        return [(number, views.get(context, context)) for number, context in enter.contexts]

    async def _converse(self) -> Enter | End:
        local = self.stream.socket.family == socket.AF_UNIX
        machine = Handshake(self._limits, self._security.offer(local=local) if self._security else TlsOffer.NONE)
        while True:
            event = machine.next_event()
            if machine.lacked_tls and not self._lacked_tls:
                self._lacked_tls = True
                self.told.warning("refused %s, which does not start TLS: it is required here", self.who)
            if out := machine.output():
                await self.pipe.send_all(out)
            match event:
                case NeedBytes():
                    machine.receive(await self.pipe.receive_some())
                case ListExports() | OpenExport():
                    await self._answer(machine, event)
                case StartTls():
                    await self._start_tls(event.leftover)
                    machine.secured()
                case End():
                    await self.pipe.finish()
                    return event
                case Enter():
                    return event

    async def _start_tls(self, leftover: bytes) -> None:
        """From here on the connection is another: what was opened before is forgotten, and the certificate says who the client is."""
        assert self._security is not None
        self._release()
        self._since.clear()
        try:
            tls = await self._security.connection()
            self.pipe = secure = Secure(self.stream, tls)
            await secure.shake_hands(leftover)
            peer = await self._security.peer(tls)
        except errors.CdpError as error:
            raise TurnedAway(str(error)) from error
        self._exports = peer.exports
        self.who = f"{self.who} ({peer.name})"
        log.info("%s speaks TLS: %s", self.who, tls.agreed)

    async def _answer(self, machine: Handshake, event: ListExports | OpenExport) -> None:
        """Asks the control plane. Its errors are the client's answer."""
        self.waits_for_client = False
        try:
            reply = await self._ask(event)
        except errors.CdpError as error:
            machine.refused(error)
        except Exception:
            log.exception("no answer to %r", event)
            machine.refused(errors.Io("internal error; the server's log has the details"))
        else:
            reply(machine)
        finally:
            self.waits_for_client = True

    async def _ask(self, event: ListExports | OpenExport) -> Callable[[Handshake], None]:
        if isinstance(event, ListExports):
            names = await self._exports.names()
            return lambda machine: machine.exports_are(names)
        export = await self._open(event.name)
        since = [when for when in event.since if await self._reaches(export, event.name, when)]
        instants = await export.instants() if event.instants else ()
        facts = Facts(
            export.name,
            export.size,
            export.read_only,
            export.multi_conn,
            export.description,
            since=tuple(since),
            instants=tuple(instants),
        )
        return lambda machine: machine.export_is(facts)

    async def _open(self, name: str) -> Export:
        """The export called `name`. Asked again for the name that is open, it is the same opening: what INFO told, GO must keep."""
        if self._opened is None or self._opened[0] != name:
            try:
                self.sessions.check(self.peer)
            except errors.Busy as error:
                self.told.warning("no session for %s: %s", self.who, error)
                raise
            self._release()
            self._opened = (name, await self._exports.open(name))
        return self._opened[1]

    async def _reaches(self, export: Export, name: str, when: str) -> bool:
        """Whether the export has that instant; resolved once, so that a relative one stays the same for the whole connection."""
        if (name, when) in self._since:
            return True
        if len(self._since) >= INSTANTS_MAX:
            raise errors.Invalid(f"more than {INSTANTS_MAX} instants in one negotiation")
        try:
            self._since[name, when] = await export.since(when)
        except errors.CdpError as error:
            log.info("no changes since %.80r of %r: %s", when, export.name, error)
            return False
        return True

    def _release(self) -> None:
        opened, self._opened = self._opened, None
        if opened is not None:
            _release(opened[1])


async def _hand_over(
    connection: _Connection, enter: Enter, native: _native.Server, token: trio.lowlevel.TrioToken
) -> None:
    """Gives a duplicate of the socket to the native session, which closes it; trio's own descriptor is closed by the caller."""
    export = connection.take_export()

    def attach() -> int:
        return native.attach(
            connection.sessions.duplicate(connection.stream.socket),
            enter.leftover,
            export.handle,
            structured=enter.structured,
            extended=enter.extended,
            contexts=connection.meanings(enter),
            on_end=_releaser(export, token, lambda: connection.sessions.ended(connection.peer)),
            account=export.account,
            tls=connection.pipe.tls,
        )

    try:
        _prepare(connection.stream)
        # Asked again: others of its kind came in since it named the export.
        connection.sessions.check(connection.peer)
        connection.sessions.began(connection.peer)
        try:
            session = await export.enter(attach)
        except BaseException:
            connection.sessions.ended(connection.peer)
            raise
    except errors.Busy as error:
        connection.told.warning("no session for %s on the export %r: %s", connection.who, enter.name, error)
        _release(export)
    except Exception:
        log.exception("no session for the export %r", enter.name)
        _release(export)
    else:
        about = {"session": session, "export": enter.name, "volume": export.name.partition("@")[0]}
        log.info("session %d began: export %r, %s", session, enter.name, connection.who, extra=about)


def _address(stream: trio.SocketStream) -> str:
    """For the log."""
    if stream.socket.family == socket.AF_UNIX:
        return "a local client"
    with contextlib.suppress(OSError):
        return "the client at {}:{}".format(*stream.socket.getpeername()[:2])
    return "a client that is gone"


def _prepare(stream: trio.SocketStream) -> None:
    """Fits a TCP socket to the transmission phase. (TCP_NODELAY, which the specification wants, is set by trio.)"""
    if stream.socket.family == socket.AF_UNIX:
        return
    # trio lets only 16 KiB wait unsent in the kernel, which suits its own writers and would starve large reads.
    stream.setsockopt(socket.IPPROTO_TCP, socket.TCP_NOTSENT_LOWAT, 0)
    stream.setsockopt(socket.SOL_SOCKET, socket.SO_KEEPALIVE, 1)
    for option, value in _KEEPALIVE.items():
        stream.setsockopt(socket.IPPROTO_TCP, option, value)


def _releaser(export: Export, token: trio.lowlevel.TrioToken, over: Callable[[], None]) -> Callable[[int, str], None]:
    """What the native thread calls at the session's end; `over` is called in the event loop, while that runs."""

    def ended(session: int, reason: str) -> None:
        about = {"session": session, "export": export.name, "volume": export.name.partition("@")[0]}
        log.info("session %d ended: %s", session, reason, extra=about)
        try:
            token.run_sync_soon(_release, export)
            token.run_sync_soon(over)
        except trio.RunFinishedError:
            _release(export)

    return ended


def _release(export: Export) -> None:
    """An exception would end trio's whole run, and would be a bug of the export."""
    try:
        export.release()
    except Exception:
        log.exception("releasing the export %r failed", export.name)

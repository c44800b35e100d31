"""The daemon: serves every volume of a store over NBD, and takes commands on its control socket.

Invariants:
- One daemon a store: the lock of `daemon.lock` is held from before the first socket until after the last volume is closed.
- It is ready (`ready` on standard output, or on the descriptor asked for) when both sockets accept; not before.
- SIGTERM and SIGINT end it in order: no new connections, admitted requests are answered, volumes are closed cleanly, sockets go.
- A volume that does not open or close costs nobody but its own users; a failed close makes the exit code that of its error.
- The end has a bound: what is not closed by then is left as a crash would leave it, named, and recovered at its next opening.
"""

from __future__ import annotations

import logging
import os
import resource
import signal
import socket
import threading
import time
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager, suppress
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import NoReturn

import trio
from fastapi import FastAPI
from hypercorn.config import Config
from hypercorn.trio import serve as serve_http

from cdp import __version__, _native, config, files, sockets
from cdp.attach import memory, place
from cdp.attach.attachments import Attachments
from cdp.attach.links import Links
from cdp.catalog import Catalog
from cdp.configuration import Configuration
from cdp.control import peers
from cdp.control.api import control_app
from cdp.errors import CdpError, Invalid, Io
from cdp.exports import StoreExports
from cdp.facts import HealthFacts
from cdp.group_keeping import GroupKeeper, keep_groups
from cdp.keeping import keep_volumes
from cdp.metrics.families import DaemonCollector
from cdp.metrics.figures import Gatherer
from cdp.metrics.page import PATH as METRICS_PATH
from cdp.metrics.page import metrics_app
from cdp.nbd import server as nbd_server
from cdp.nbd.front import Front
from cdp.notify import Notifier
from cdp.scratch import ScratchViews
from cdp.security import TlsSecurity
from cdp.sockets import SocketTerms, UnixAddress, listen_tcp, listen_unix
from cdp.store import LocalStore
from cdp.table import Table
from cdp.tls import Tls

log = logging.getLogger("cdp.daemon")

START_BYTES = 1 << 20
"""Room that `daemon.lock` holds. Where the disk is full, some file systems (XFS, btrfs) make no socket, and a daemon that cannot start could not even
be told to drop history or to delete a volume."""

MARGIN_SECONDS = 10.0
"""What an orderly end may take beyond the time of clients and of volumes."""


@dataclass(frozen=True, slots=True)
class Settings:
    """What `cdp serve` was told. `ready_fd`: where to write `ready`, besides standard output."""

    store: Path
    configuration: Configuration = field(default_factory=Configuration)
    ready_fd: int | None = None


def run(settings: Settings) -> None:
    """Serves until SIGTERM or SIGINT. Busy if the store has a daemon already; Invalid or Io if a socket cannot be had."""
    if settings.ready_fd is not None and not _is_open(settings.ready_fd):
        raise Invalid(f"there is no open descriptor {settings.ready_fd} to write `ready` to")
    settings.configuration.tls.check()
    _allow_descriptors()
    place.refuse_own_device(settings.store)
    # Before any thread is started: they inherit it.
    memory.become_io_flusher()
    catalog = Catalog(settings.store)
    catalog.ensure_store()
    with ExitStack() as stack:
        lock = stack.enter_context(_only_daemon(settings.store))
        catalog.sweep()
        catalog.sweep_scratch()
        nbd_listeners = _listen(settings, stack)
        # Of its own, so that devices find the daemon wherever it is told to listen.
        attach_listener = stack.enter_context(_unix_listener(config.attach_socket(settings.store), SocketTerms()))
        control_listener = _listen_control(settings, stack)
        metrics_listeners = _listen_metrics(settings, stack)
        _hold_room(lock)
        daemon = _Daemon(settings, catalog, nbd_listeners, attach_listener, control_listener, metrics_listeners)
        errors = trio.run(daemon.main)
        for error in errors:
            log.error("%s", error)
        if errors:
            raise errors[0]


class _Daemon:
    def __init__(
        self,
        settings: Settings,
        catalog: Catalog,
        listeners: list[socket.socket],
        attach: socket.socket,
        control: socket.socket,
        metrics: list[socket.socket],
    ) -> None:
        self._settings = settings
        self._catalog = catalog
        limits = settings.configuration.limits
        self._native = _native.Server(
            sessions_max=limits.sessions, memory_bytes=limits.memory_bytes, stall_seconds=limits.stall_seconds
        )
        self._grace_seconds = limits.stop_seconds
        self._close_seconds = limits.close_seconds
        self._notifier = Notifier()
        self._table = Table(catalog, self._native.disconnect)
        self._scratch = ScratchViews(catalog, self._table.writers)
        self._exports = StoreExports(catalog, self._table, self._scratch)
        self._attachments = Attachments(
            catalog, self._exports, self._scratch, Links(self._exports, self._native).connect
        )
        self._store = LocalStore(
            settings.store, self._table, self._scratch, self._attachments, settings.configuration.retention
        )
        self._groups = GroupKeeper(catalog, self._store.groups, self._table)
        tls = settings.configuration.tls
        self._security = None if tls.mode is Tls.OFF else TlsSecurity(tls, self._exports)
        self._listening = tuple(sockets.uri(listener, tls=tls.mode is Tls.REQUIRE) for listener in listeners)
        self._listeners = listeners
        self._attach = attach
        self._control = control
        self._metrics = metrics
        self._started = time.time_ns()
        gatherer = Gatherer(catalog, self._table, self._native, self._started, self._attachments.facts)
        self._collector = DaemonCollector(gatherer.gather)

    async def main(self) -> list[CdpError]:
        """The daemon's life; what closing the volumes met."""
        stopping = threading.Event()
        app = control_app(self._store, self._health, stopping, self._collector)
        stop_control = trio.Event()
        with trio.open_signal_receiver(signal.SIGTERM, signal.SIGINT) as signals:
            async with trio.open_nursery() as nursery:
                await trio.to_thread.run_sync(self._groups.begin)
                accepting = trio.CancelScope()
                await nursery.start(self._accept, accepting)
                await trio.to_thread.run_sync(self._attachments.resume)
                await nursery.start(self._serve_control, app, stop_control)
                if self._metrics:
                    await nursery.start(self._serve_http, metrics_app(self._collector), self._metrics, stop_control)
                keeping = trio.CancelScope()
                nursery.start_soon(self._keep, keeping)
                watched = trio.CancelScope()
                nursery.start_soon(self._tell_alive, watched)
                self._announce()
                async for number in signals:
                    log.info("stopping: %s", signal.Signals(number).name)
                    break
                self._bound_the_end()
                accepting.cancel()
                keeping.cancel()
                watched.cancel()
                stopping.set()
                stop_control.set()
                await trio.to_thread.run_sync(self._attachments.close)
                await trio.to_thread.run_sync(partial(self._native.stop, self._grace_seconds))
                await trio.to_thread.run_sync(self._scratch.close)
                # Control calls that still run end with Closed; nobody waits for a compaction that somebody asked for.
                return await trio.to_thread.run_sync(partial(self._table.close, self._close_seconds))
        raise AssertionError("the nursery was cancelled by nobody")

    def _bound_the_end(self) -> None:
        """Whatever hangs from here on, the process ends: a journal is whole at any time."""
        seconds = self._grace_seconds + self._close_seconds + MARGIN_SECONDS
        self._notifier.stopping(seconds)
        timer = threading.Timer(seconds, end_at_once, (seconds,))
        timer.daemon = True
        timer.start()

    async def _tell_alive(self, scope: trio.CancelScope) -> None:
        """Tells the service manager that the event loop turns, twice as often as it asks for."""
        with scope:
            while self._notifier.watchdog_seconds is not None:
                self._notifier.alive(self._status())
                await trio.sleep(self._notifier.watchdog_seconds / 2)

    def _status(self) -> str:
        return f"{self._native.totals()['live']} sessions, {self._table.open_count()} volumes open"

    async def _accept(
        self, scope: trio.CancelScope, task_status: trio.TaskStatus[object] = trio.TASK_STATUS_IGNORED
    ) -> None:
        serve = partial(nbd_server.serve, exports=self._exports, native=self._native)

        most = self._settings.configuration.limits.sessions

        async def strangers(task_status: trio.TaskStatus[object]) -> None:
            await serve(
                _accepting(self._listeners),
                security=self._security,
                sessions_per_peer=most - most // 4,
                task_status=task_status,
            )

        self._exports.settle()
        with scope:
            async with trio.open_nursery() as nursery:
                # Beside the others: what clients are asked for, and how many there are, does not touch the devices.
                await nursery.start(partial(serve, _accepting([self._attach])))
                await nursery.start(Front(strangers).run)
                task_status.started()

    async def _keep(self, scope: trio.CancelScope) -> None:
        with scope:
            async with trio.open_nursery() as nursery:
                nursery.start_soon(keep_volumes, self._catalog, self._table)
                nursery.start_soon(keep_groups, self._groups)

    def _http_settings(self) -> Config:
        settings = Config()
        settings.graceful_timeout = self._grace_seconds
        settings.loglevel = "WARNING"
        return settings

    async def _serve_control(
        self, app: FastAPI, stop: trio.Event, task_status: trio.TaskStatus[object] = trio.TASK_STATUS_IGNORED
    ) -> None:
        store = self._settings.store
        allowed = peers.masters(store, config.control_socket(store))
        await peers.serve(app, self._control.dup(), allowed, self._http_settings(), stop, task_status=task_status)

    async def _serve_http(
        self,
        app: FastAPI,
        listeners: list[socket.socket],
        stop: trio.Event,
        task_status: trio.TaskStatus[list[str]] = trio.TASK_STATUS_IGNORED,
    ) -> None:
        settings = self._http_settings()
        # Hypercorn takes descriptors of its own: ours are closed with the others.
        settings.bind = [f"fd://{os.dup(listener.fileno())}" for listener in listeners]
        await serve_http(app, settings, shutdown_trigger=stop.wait, task_status=task_status)  # type: ignore[arg-type]

    def _announce(self) -> None:
        if self._settings.ready_fd is not None:
            # Nobody may be waiting any more: that is no reason not to serve.
            with suppress(OSError):
                os.write(self._settings.ready_fd, b"ready\n")
                os.close(self._settings.ready_fd)
        with suppress(BrokenPipeError):
            for uri in self._listening:
                print(f"listening {uri}")
            for listener in self._metrics:
                print(f"metrics {sockets.http_url(listener)}{METRICS_PATH}")
            print("ready", flush=True)
        self._notifier.ready(self._status())

    def _health(self) -> HealthFacts:
        totals = self._native.totals()
        return HealthFacts(
            version=__version__,
            pid=os.getpid(),
            store=str(self._settings.store),
            started_stamp=self._started,
            listening=self._listening,
            open_volumes=self._table.open_count(),
            sessions=totals["live"],
            requests=totals["requests"],
            errors=totals["errors"],
        )


def end_at_once(seconds: float) -> NoReturn:
    """For an orderly end that does not come to its end."""
    log.error("still not stopped after %g s: volumes are left as a crash would leave them", seconds)
    logging.shutdown()
    os._exit(Io.exit_code)


def _accepting(listeners: list[socket.socket]) -> list[trio.SocketListener]:
    return [trio.SocketListener(trio.socket.from_stdlib_socket(listener)) for listener in listeners]


def _is_open(descriptor: int) -> bool:
    try:
        os.fstat(descriptor)
    except OSError:
        return False
    return True


def _allow_descriptors() -> None:
    """As many open files as the system lets us: sessions and segments take one each, and the usual soft limit is 1024."""
    _, most = resource.getrlimit(resource.RLIMIT_NOFILE)
    with suppress(ValueError, OSError):
        resource.setrlimit(resource.RLIMIT_NOFILE, (most, most))


@contextmanager
def _only_daemon(store: Path) -> Iterator[int]:
    """The descriptor of the lock. What its file held for the start is free from here on."""
    path = config.daemon_lock(store)
    holder = ""
    with suppress(OSError), path.open("rb") as file:
        holder = file.read(20).rstrip(b"\0\n").decode(errors="replace")
    busy = f"the store {store} is served already, by the process {holder or 'that holds daemon.lock'}"
    with files.locked(path, wait=False, busy=busy, create=True) as descriptor:
        with files.os_errors(f"writing {path}"):
            os.ftruncate(descriptor, 0)
        with suppress(OSError):
            os.pwrite(descriptor, f"{os.getpid()}\n".encode(), 0)
        try:
            yield descriptor
        finally:
            with suppress(OSError):
                os.ftruncate(descriptor, 0)
                _hold_room(descriptor)


def _hold_room(lock: int) -> None:
    """Keeps room for the next start, if there is any."""
    with suppress(OSError):
        os.posix_fallocate(lock, 0, START_BYTES)


def _listen(settings: Settings, stack: ExitStack) -> list[socket.socket]:
    listeners: list[socket.socket] = []
    wanted = settings.configuration
    for address in wanted.listen or (UnixAddress(config.nbd_socket(settings.store)),):
        if isinstance(address, UnixAddress):
            path = Path(os.path.abspath(address.path))
            listeners.append(stack.enter_context(_unix_listener(path, wanted.nbd_socket)))
        else:
            guarded = wanted.insecure_tcp or wanted.tls.keeps_strangers_out
            listeners += [stack.enter_context(listener) for listener in listen_tcp(address, insecure=guarded)]
    return listeners


def _listen_control(settings: Settings, stack: ExitStack) -> socket.socket:
    path = config.control_socket(settings.store)
    return stack.enter_context(_unix_listener(path, settings.configuration.control_socket))


def _listen_metrics(settings: Settings, stack: ExitStack) -> list[socket.socket]:
    wanted = settings.configuration
    if wanted.metrics is None:
        return []
    listeners = listen_tcp(wanted.metrics, insecure=wanted.insecure_tcp, tls=False)
    return [stack.enter_context(listener) for listener in listeners]


@contextmanager
def _unix_listener(path: Path, terms: SocketTerms) -> Iterator[socket.socket]:
    with listen_unix(path, terms) as listener:
        try:
            yield listener
        finally:
            with suppress(OSError):
                path.unlink()

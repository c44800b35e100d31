"""The real daemon, `cdp serve`, as a process on a Unix socket and on loopback TCP.

Its readiness is read from a pipe, never guessed: the daemon writes one line to the descriptor of `--ready-fd` once all its sockets listen.
It is ended through its own handle only: `stop` asks and expects a clean end, `kill` is the crash.
"""

from __future__ import annotations

import os
import select
import signal
import socket
import subprocess
from collections.abc import Sequence
from pathlib import Path
from types import TracebackType
from typing import Literal, Self

from tests.rig.cdp import CDP, Cdp, environment

READY_SECONDS = 60.0
STOP_SECONDS = 60.0

Transport = Literal["unix", "tcp"]


def free_port() -> int:
    """A loopback TCP port that nobody listens on now. Another process may take it first; the daemon then refuses to start, by name."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port: int = probe.getsockname()[1]
        return port


class Daemon:
    """One run of `cdp serve` at a time over one store; `start` again after `stop` or `kill` for the next."""

    def __init__(self, store: Path, *, options: Sequence[str] = (), wrapper: Sequence[str] = ()) -> None:
        """`wrapper`: the words of a program that turns into the daemon, as `prlimit` does."""
        self.store = store
        self.socket = store / "nbd.sock"
        self.port = 0
        self.cdp = Cdp(store)
        self.log_path = store.parent / f"{store.name}.log"
        self._options = tuple(options)
        self._wrapper = tuple(wrapper)
        self._process: subprocess.Popen[bytes] | None = None

    @property
    def pid(self) -> int:
        return self._running().pid

    @property
    def log(self) -> str:
        """What all runs so far wrote to their standard output and error."""
        return self.log_path.read_text(errors="replace") if self.log_path.exists() else ""

    def start(self) -> Self:
        """Returns once every socket listens. AssertionError with the daemon's log if it ends or stays silent instead."""
        assert self._process is None, "this daemon already runs"
        self.port = free_port()
        ready, told = os.pipe()
        listen = ("--listen", f"unix:{self.socket}", "--listen", f"tcp:127.0.0.1:{self.port}")
        command = [
            *self._wrapper,
            *CDP,
            "serve",
            "--store",
            str(self.store),
            *listen,
            "--ready-fd",
            str(told),
            *self._options,
        ]
        try:
            with self.log_path.open("ab") as log:
                # A session of its own: Ctrl-C on the terminal ends the test, and the test ends the daemon.
                self._process = subprocess.Popen(
                    command,
                    stdin=subprocess.DEVNULL,
                    stdout=log,
                    stderr=log,
                    pass_fds=[told],
                    env=environment(),
                    start_new_session=True,
                )
            os.close(told)
            told = -1
            self._wait_ready(ready)
        except BaseException:
            # Also when Ctrl-C ends the wait: nobody else knows of the process yet.
            if self._process is not None:
                self.kill()
            raise
        finally:
            os.close(ready)
            if told >= 0:
                os.close(told)
        return self

    def stop(self) -> None:
        """SIGTERM; AssertionError unless the daemon ends with exit code 0."""
        code = self._end(signal.SIGTERM)
        assert code == 0, f"`cdp serve` ended with {code} after SIGTERM\n{self.log}"

    def kill(self) -> None:
        """SIGKILL: the process is gone when this returns, the kernel has what it was handed."""
        self._end(signal.SIGKILL)

    def wait(self, seconds: float = STOP_SECONDS) -> int:
        """The exit code, for a test that made the daemon end by other means."""
        code = self._running().wait(seconds)
        self._process = None
        return code

    @property
    def running(self) -> bool:
        return self._process is not None and self._process.poll() is None

    def uri(self, volume: str, when: str | None = None, *, transport: Transport = "unix") -> str:
        """The NBD URI of a volume, or of its instant `when` (`VOLUME@WHEN`)."""
        export = volume if when is None else f"{volume}@{when}"
        if transport == "tcp":
            return f"nbd://127.0.0.1:{self.port}/{export}"
        return f"nbd+unix:///{export}?socket={self.socket}"

    def __enter__(self) -> Self:
        return self if self.running else self.start()

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        """A clean stop is part of every test; after a failure only the process must go."""
        if self._process is None:
            return
        if kind is None:
            self.stop()
        else:
            self.kill()

    def _running(self) -> subprocess.Popen[bytes]:
        assert self._process is not None, "this daemon does not run"
        return self._process

    def _wait_ready(self, ready: int) -> None:
        if select.select([ready], [], [], READY_SECONDS)[0] and os.read(ready, 4096):
            return
        raise AssertionError(f"`cdp serve` did not get ready\n{self.log}")

    def _end(self, how: signal.Signals) -> int:
        process = self._running()
        process.send_signal(how)
        try:
            code = process.wait(STOP_SECONDS)
        except subprocess.TimeoutExpired:
            process.kill()
            process.wait()
            raise AssertionError(f"`cdp serve` still ran {STOP_SECONDS} s after {how.name}\n{self.log}") from None
        finally:
            self._process = None
        return code

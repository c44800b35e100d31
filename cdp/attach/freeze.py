"""Holding file systems still for an instant: what may be frozen, and the process that does it (cdp/attach/freezer.py).

Invariants:
- The file system that the store is on, or anything that it stands on, is never frozen: the daemon could not write what the freezing flushes.
- This process holds nothing: however it ends, its pipe closes, and the other one thaws.
- An instant counts only if everything was frozen when it was looked up and until it was let go: that is what leaving `still` without an error means.
"""

from __future__ import annotations

import fcntl
import json
import os
import select
import signal
import subprocess
import sys
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from pathlib import Path
from types import FrameType

from cdp import errors
from cdp.attach import block, freezer
from cdp.errors import Busy, CdpError, Invalid, Io

TIMEOUT_SECONDS = 30.0
"""How long file systems stay frozen at most, and a hook may take: writers wait meanwhile."""
TIMEOUT_SECONDS_MAX = 3600.0
SLACK_SECONDS = 10.0
"""For the other process to start, to thaw and to tell."""


@dataclass(frozen=True, slots=True)
class Stillness:
    """What is to be held still: folders as `check_folders` returned them; a shell command that is called before and after, with `environment`."""

    folders: Sequence[Path] = ()
    hook: str | None = None
    seconds: float = TIMEOUT_SECONDS
    environment: Mapping[str, str] = field(default_factory=dict)


def check_seconds(seconds: float) -> float:
    """Invalid unless it is a time-out."""
    if not 0 < seconds <= TIMEOUT_SECONDS_MAX:
        raise Invalid(f"a time-out of {seconds:g} s is none: give 1 to {TIMEOUT_SECONDS_MAX:g}")
    return seconds


def check_folders(folders: Sequence[Path], store: Path) -> tuple[Path, ...]:
    """The mount points, each file system once, in the order in which they can be frozen: what stands on another one first.

    Invalid for what is no mount point, and for a file system that the store needs.
    """
    needed = dict(_stands_on(Path(os.path.realpath(store))))
    found: dict[int | None, Path] = {}
    for folder in folders:
        real = Path(os.path.realpath(folder))
        if not os.path.ismount(real):
            raise Invalid(f"{folder} is no mount point: nothing to freeze")
        number = block.mounted_under(real)
        if number in needed:
            raise Invalid(
                f"{folder} cannot be frozen: {needed[number]} is on it, and what freezing flushes could not be written"
            )
        found.setdefault(number, real)
    return tuple(sorted(found.values(), key=lambda folder: -len(list(_stands_on(folder)))))


def _stands_on(path: Path) -> Iterator[tuple[int | None, str]]:
    """The file systems under a path, by number, and what is on each."""
    yield block.mounted_under(path), str(path)
    for layer in block.under(path):
        if layer.loop_file is not None:
            yield block.mounted_under(layer.loop_file), f"{layer.loop_file}, which {path} stands on,"


@contextmanager
def still(wanted: Stillness) -> Iterator[None]:
    """Everything is still inside the `with` block. Its end thaws; an error there means that it was not still to the end.

    Errors: Busy after the time-out, or if somebody else froze or thawed; Invalid for what cannot be frozen; Io if a hook fails.
    """
    with _signals_raise():
        process = _Freezer(wanted)
        try:
            process.wait_held()
            # Everything is thawed by then: who does not answer is not waited for.
            signal.setitimer(signal.ITIMER_REAL, wanted.seconds + SLACK_SECONDS)
            yield
            signal.setitimer(signal.ITIMER_REAL, 0)
        except BaseException:
            with suppress(CdpError):
                process.give_up()
            raise
        process.release()


class _Freezer:
    """The process, from its start to its end."""

    def __init__(self, wanted: Stillness) -> None:
        self._seconds = wanted.seconds
        self._frozen: list[str] = []
        self._unread = b""
        self._ended = False
        # Isolated, and as a file: what lies in the working directory is not loaded. A session of its own: Ctrl-C is ours.
        self._process = subprocess.Popen(
            [sys.executable, "-IS", freezer.__file__],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            start_new_session=True,
        )
        order = {
            "folders": [str(folder) for folder in wanted.folders],
            "hook": wanted.hook,
            "seconds": wanted.seconds,
            "environment": dict(wanted.environment),
        }
        self._send(json.dumps(order).encode() + b"\n")

    def wait_held(self) -> None:
        """Returns when everything is still."""
        # The hook's time, and that of freezing.
        self._read_until("held", 2 * self._seconds + SLACK_SECONDS)

    def release(self) -> None:
        """Thaws. An error if it was not still until now."""
        self._send(b"release\n")
        self._finish()

    def give_up(self) -> None:
        """Thaws, whatever it is doing."""
        assert self._process.stdin is not None
        if not self._ended:
            self._process.stdin.close()
            self._finish()

    def _finish(self) -> None:
        # A hook that was told to end, and the one afterwards.
        self._read_until("end", 2 * self._seconds + SLACK_SECONDS)
        self._process.wait()

    def _read_until(self, wanted: str, seconds: float) -> None:
        deadline = time.monotonic() + seconds
        while True:
            what, value = self._line(deadline)
            if what == "frozen":
                self._frozen.append(value)
            self._ended = what == "end"
            if self._ended and value is not None:
                # It may live on, for a device that does not answer yet.
                kind: type[CdpError] = getattr(errors, value[0])
                raise kind(value[1])
            if what == wanted:
                return

    def _line(self, deadline: float) -> tuple[str, str]:
        assert self._process.stdout is not None
        descriptor = self._process.stdout.fileno()
        while b"\n" not in self._unread:
            if not select.select([descriptor], [], [], max(0.0, deadline - time.monotonic()))[0]:
                raise Io(
                    f"a device does not answer: process {self._process.pid} thaws what is frozen on it as soon as it does"
                )
            more = os.read(descriptor, 4096)
            if not more:
                self._ended = True
                self._thaw()
                raise Io("the process that held the file systems still was ended; they are thawed")
            self._unread += more
        line, _, self._unread = self._unread.partition(b"\n")
        what, value = json.loads(line)
        return what, value

    def _thaw(self) -> None:
        """Does what the other process can no longer do."""
        for folder in self._frozen[::-1]:
            with suppress(OSError):
                opened = os.open(folder, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
                try:
                    fcntl.ioctl(opened, freezer.FITHAW, 0)
                finally:
                    os.close(opened)
        self._frozen.clear()

    def _send(self, line: bytes) -> None:
        assert self._process.stdin is not None
        # If it is gone, what it told last, or did not, says more.
        with suppress(BrokenPipeError):
            self._process.stdin.write(line)
            self._process.stdin.flush()


@contextmanager
def _signals_raise() -> Iterator[None]:
    """SIGTERM and SIGHUP end the block as Ctrl-C does: whoever waits for us to end finds everything thawed. SIGALRM: Busy."""

    def ended(number: int, _: FrameType | None) -> None:
        sys.exit(128 + number)

    def late(_: int, __: FrameType | None) -> None:
        raise Busy("the daemon does not answer; everything was thawed")

    before = {number: signal.getsignal(number) for number in (signal.SIGTERM, signal.SIGHUP, signal.SIGALRM)}
    for number, handler in before.items():
        if handler != signal.SIG_IGN:
            signal.signal(number, late if number == signal.SIGALRM else ended)
    try:
        yield
    finally:
        signal.setitimer(signal.ITIMER_REAL, 0)
        for number, handler in before.items():
            signal.signal(number, handler)

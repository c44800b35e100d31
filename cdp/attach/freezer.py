"""The process that holds file systems still while an instant is looked up; `cdp bookmark --freeze` starts it (cdp/attach/freeze.py).

Invariants:
- What it froze it thaws: when it is told to, when whoever started it is gone (its pipe closes), at the deadline, on SIGTERM, SIGINT or SIGHUP.
  Only its own death by SIGKILL leaves a file system frozen; who started it thaws then, unless that is dead as well.
- What somebody else froze is left alone.
- A hook that was begun with `before` is called with `after`, also when it failed, and not before everything is thawed.
- FIFREEZE and FITHAW wait for the device, and no signal ends that: freezing has a thread of its own, so that one device that does not answer
  does not keep the others frozen.
- From the first freeze to the last thaw nothing is written but to the pipe, and nothing is loaded: the standard library alone, run as a script.

Standard input: a line of JSON, the order; then `release`, or its end. Standard output: lines of JSON, `[what, value]`:
["frozen", FOLDER] for each, ["held", null], and last ["end", null | [KIND, SENTENCE]] with a class of cdp.errors.
"""

from __future__ import annotations

import ctypes
import errno
import fcntl
import json
import os
import select
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Sequence
from contextlib import suppress
from typing import Any

FIFREEZE, FITHAW = 0xC0045877, 0xC0045878
"""linux/fs.h: _IOWR('X', 119 and 120, int)."""
HOOK_END_SECONDS = 2.0
"""For a hook to end after SIGTERM."""
REFUSALS = {
    errno.EBUSY: ("Busy", "it is frozen already, by somebody else"),
    errno.EPERM: ("Invalid", "freezing takes root"),
    errno.EOPNOTSUPP: ("Invalid", "its file system cannot be frozen"),
    errno.ENOTTY: ("Invalid", "its file system cannot be frozen"),
}

_tell_lock = threading.Lock()


class FailedError(Exception):
    """Why it was not still. `kind`: a class of cdp.errors."""

    def __init__(self, kind: str, why: str) -> None:
        super().__init__(why)
        self.kind = kind


class Frozen:
    """File systems, by folders on them; frozen in the order given, thawed in the other. Who hears that it is over may unmount at once."""

    def __init__(self, folders: Sequence[str]) -> None:
        self._open: list[tuple[str, int]] = []
        for folder in folders:
            try:
                self._open.append((folder, os.open(folder, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)))
            except OSError as error:
                raise FailedError("Io", f"{folder}: {error.strerror}") from error
        self._lock = threading.Lock()
        self._begun = False
        self._over = False
        self._frozen = 0
        self.failure: FailedError | None = None
        self.finished = os.eventfd(0, os.EFD_CLOEXEC)
        """Readable once all are frozen, or `failure` says why not."""

    def begin(self) -> None:
        """Starts freezing. The process does not end before that has."""
        self._begun = True
        threading.Thread(target=self._freeze).start()

    def end(self) -> None:
        """Thaws what is frozen, and what still becomes frozen as soon as it is. FailedError if something was no longer frozen, or stays so."""
        with self._lock:
            self._over = True
            thawing = self._open[: self._frozen]
        failures = [failure for folder, opened in thawing[::-1] if (failure := _thaw(folder, opened)) is not None]
        self._close(thawing if self._begun else self._open)
        if failures:
            raise failures[0]

    def _freeze(self) -> None:
        try:
            for _, opened in self._open:
                # What is written out now is not waited for with everybody held up.
                ctypes.CDLL(None).syncfs(opened)
            for folder, opened in self._open:
                if self._over:
                    return
                _freeze(folder, opened)
                with self._lock:
                    late = self._over
                    self._frozen += not late
                if late:
                    _thaw(folder, opened)
                    return
                tell("frozen", folder)
        except FailedError as failure:
            self.failure = failure
        finally:
            self._close(self._open[self._frozen :])
            os.eventfd_write(self.finished, 1)

    def _close(self, done: Sequence[tuple[str, int]]) -> None:
        for _, opened in done:
            os.close(opened)


def _freeze(folder: str, opened: int) -> None:
    try:
        fcntl.ioctl(opened, FIFREEZE, 0)
    except OSError as error:
        kind, why = REFUSALS.get(error.errno or 0, ("Io", error.strerror))
        raise FailedError(kind, f"{folder} is not frozen: {why}") from error


def _thaw(folder: str, opened: int) -> FailedError | None:
    try:
        fcntl.ioctl(opened, FITHAW, 0)
    except OSError as error:
        if error.errno == errno.EINVAL:
            return FailedError("Busy", f"{folder} did not stay frozen: somebody else thawed it")
        return FailedError("Io", f"{folder} is not thawed: {error.strerror}; try fsfreeze --unfreeze {folder}")
    return None


class Watch:
    """What ends the waiting early: whoever started us is gone or gives up, or a signal."""

    def __init__(self) -> None:
        self._signals, woken = os.pipe2(os.O_CLOEXEC | os.O_NONBLOCK)
        for number in (signal.SIGTERM, signal.SIGINT, signal.SIGHUP):
            signal.signal(number, lambda *_: None)
        signal.set_wakeup_fd(woken, warn_on_full_buffer=False)

    def wait(self, descriptor: int, deadline: float, late: str) -> None:
        """Returns when the descriptor is readable. FailedError with `late` at the deadline, or if nobody waits for us any more."""
        left = max(0.0, deadline - time.monotonic())
        ready = select.select([descriptor, self._signals, sys.stdin.fileno()], [], [], left)[0]
        if not ready:
            raise FailedError("Busy", late)
        if descriptor not in ready:
            raise FailedError("Closed", "the process that held everything still was told to end")

    def wait_release(self, deadline: float, late: str) -> None:
        """Returns when we are told that it has been still for long enough."""
        self.wait(sys.stdin.fileno(), deadline, late)
        if os.read(sys.stdin.fileno(), 64) != b"release\n":
            raise FailedError("Closed", "the command that it was held still for ended")


class Hook:
    """A command of the user's, which is called before and after."""

    def __init__(self, command: str | None, environment: dict[str, str], seconds: float) -> None:
        self._command = command
        self._environment = environment
        self._seconds = seconds
        self._begun = False

    def before(self, watch: Watch) -> None:
        """FailedError if it fails, takes too long, or nobody waits for us any more."""
        self._begun = True
        self._call("before", watch)

    def after(self) -> None:
        """The same, if `before` was called; whoever still waits."""
        if self._begun:
            self._call("after", None)

    def _call(self, phase: str, watch: Watch | None) -> None:
        if self._command is None:
            return
        # In a session of its own, all of it can be ended. Its output is no answer of the command line's.
        process = subprocess.Popen(
            ["/bin/sh", "-c", self._command],
            stdin=subprocess.DEVNULL,
            stdout=sys.stderr.fileno(),
            env={**os.environ, **self._environment, "CDP_HOOK": phase},
            start_new_session=True,
        )
        ended = os.pidfd_open(process.pid)
        late = f"the hook did not end within {self._seconds:g} s ({phase})"
        try:
            if watch is not None:
                watch.wait(ended, time.monotonic() + self._seconds, late)
            elif not select.select([ended], [], [], self._seconds)[0]:
                raise FailedError("Busy", late)
        except FailedError:
            _end(process, ended)
            raise
        finally:
            os.close(ended)
        if code := process.wait():
            raise FailedError("Io", f"the hook failed with exit code {code} ({phase})")


def _end(process: subprocess.Popen[bytes], ended: int) -> None:
    with suppress(ProcessLookupError):
        os.killpg(process.pid, signal.SIGTERM)
        select.select([ended], [], [], HOOK_END_SECONDS)
        os.killpg(process.pid, signal.SIGKILL)
    process.wait()


def tell(what: str, value: object = None) -> None:
    """A line to whoever started us, if they are still there."""
    with _tell_lock, suppress(OSError):
        os.write(sys.stdout.fileno(), json.dumps([what, value]).encode() + b"\n")


def hold(order: dict[str, Any], watch: Watch) -> None:
    """Carries an order out: hook, freeze, wait, thaw, hook. FailedError with the first thing that was not as it should be."""
    seconds: float = order["seconds"]
    hook = Hook(order["hook"], order["environment"], seconds)
    frozen = Frozen(order["folders"])
    failures: list[FailedError] = []
    try:
        hook.before(watch)
        deadline = time.monotonic() + seconds
        frozen.begin()
        watch.wait(
            frozen.finished, deadline, f"not everything was frozen within {seconds:g} s: a device does not answer"
        )
        if frozen.failure is not None:
            raise frozen.failure
        tell("held")
        watch.wait_release(deadline, f"it was not done within {seconds:g} s, and everything was thawed")
    except FailedError as failure:
        failures.append(failure)
    for step in (frozen.end, hook.after):
        try:
            step()
        except FailedError as failure:
            failures.append(failure)
    if failures:
        raise failures[0]


def main() -> None:
    """Reads the order, carries it out, tells how it ended."""
    watch = Watch()
    try:
        hold(json.loads(sys.stdin.buffer.readline()), watch)
    except FailedError as failure:
        tell("end", [failure.kind, str(failure)])
    else:
        tell("end")
    # A device that does not answer may keep this process: nobody who reads its output to the end waits for that.
    nothing = os.open(os.devnull, os.O_WRONLY)
    os.dup2(nothing, sys.stdout.fileno())
    os.dup2(nothing, sys.stderr.fileno())


if __name__ == "__main__":
    main()

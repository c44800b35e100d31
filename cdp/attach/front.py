"""The processes between a loop device and the daemon.

Invariants:
- They belong to nobody's session and outlive the daemon. While it is gone, qemu-nbd holds what is asked for up to the time-out, and asks again
  when it is back; errors that the daemon answers go through at once.
- A scratch view has no qemu-nbd: it ends with its daemon, and a later one by the same name would show other bytes under the same mount.
- A process is ended only if it is still the one that was started.
"""

from __future__ import annotations

import os
import select
import signal
import subprocess
import time
from contextlib import suppress
from pathlib import Path

from cdp import config, files
from cdp.attach import place
from cdp.errors import Io

START_SECONDS = 20.0
"""For a front to get ready; it takes a few hundredths."""
END_SECONDS = 2.0
"""For a front to end by itself; one that waits for a daemon does not."""
STEP_SECONDS = 0.01
CONNECTIONS = 4


class Front:
    """The processes behind a device, by the ID of its attachment. `pid` 0: not started."""

    def __init__(self, store: Path, attachment_id: str, pid: int = 0, started: int = 0) -> None:
        self._store = store
        self._folder = place.front_folder(store, attachment_id)
        self._log = self._folder.with_name(self._folder.name + ".log")
        self._socket = self._folder.with_name(self._folder.name + ".sock")
        self.pid = pid
        self.started = started

    def start(self, kind: str, export: str, *, read_only: bool, timeout_seconds: int) -> Path:
        """Starts it; the file that shows the export. Io with what it said if it does not get ready."""
        with files.os_errors(f"making {self._folder}"):
            self._folder.mkdir(mode=0o700, parents=True)
            # qemu-nbd leaves its folder, and a Unix socket's path has 107 bytes: of the link's, not of what it leads to.
            self._socket.symlink_to(config.attach_socket(Path(os.path.realpath(self._store))))
        file = self._folder / kind
        command = ["nbdfuse", "-C", str(CONNECTIONS), *(["-r"] if read_only else []), str(file)]
        socket = str(self._socket)
        if kind == "scratch":
            command.append(f"nbd+unix:///{export}?socket={socket}")
        else:
            command += ["[", *_reconnecting(export, socket, read_only, timeout_seconds), "]"]
        with self._log.open("wb") as log:
            # A session of its own: it is not to end with us.
            process = subprocess.Popen(
                command,
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=log,
                start_new_session=True,
            )
        self.pid, self.started = process.pid, _started(process.pid)
        deadline = time.monotonic() + START_SECONDS
        while not file.exists():
            if process.poll() is not None or time.monotonic() > deadline:
                said = self._log.read_text(errors="replace").strip().splitlines()
                self.end()
                raise Io(f"nbdfuse does not start: {said[-1] if said else 'it says nothing'}")
            time.sleep(STEP_SECONDS)
        return file

    def alive(self) -> bool:
        """Whether the process is there, and is the one that was started."""
        return self.pid > 0 and _started(self.pid) == self.started

    def wait(self) -> None:
        """Returns when the process has ended."""
        with suppress(OSError):
            descriptor = os.pidfd_open(self.pid)
            try:
                if self.alive():
                    select.select([descriptor], [], [])
            finally:
                os.close(descriptor)
        with suppress(OSError):
            os.waitpid(self.pid, os.WNOHANG)

    def end(self) -> None:
        """Ends the processes, and takes away what they leave. Idempotent."""
        if self.alive():
            _signal(self.pid, signal.SIGTERM)
            deadline = time.monotonic() + END_SECONDS
            while self.alive() and time.monotonic() < deadline:
                with suppress(OSError):
                    os.waitpid(self.pid, os.WNOHANG)
                time.sleep(STEP_SECONDS)
            # Its child too, which may wait for a daemon that is gone.
            with suppress(OSError):
                os.killpg(self.pid, signal.SIGKILL)
        with suppress(OSError):
            os.waitpid(self.pid, os.WNOHANG)
        if os.path.ismount(self._folder) or _stale(self._folder):
            subprocess.run(["umount", "--lazy", self._folder], capture_output=True, check=False)
        with suppress(OSError):
            self._folder.rmdir()
        self._socket.unlink(missing_ok=True)
        self._log.unlink(missing_ok=True)


def _reconnecting(export: str, socket: str, read_only: bool, timeout_seconds: int) -> list[str]:
    # A comma in an option is doubled; neither IDs nor instants nor our socket's name have one.
    origin = f"driver=nbd,server.type=unix,server.path={socket},export={export},reconnect-delay={timeout_seconds}"
    writable = [] if read_only else ["--discard=unmap"]
    mode = ["--read-only"] if read_only else []
    shared = f"--shared={CONNECTIONS}"
    return ["qemu-nbd", "--persistent", shared, "--cache=none", *mode, *writable, "--image-opts", origin]


def _started(pid: int) -> int:
    """When a process began, in clock ticks since the boot; 0 if there is none that runs."""
    with suppress(OSError, ValueError, IndexError):
        # The name may hold anything but ends at the last parenthesis. proc(5)
        fields = Path(f"/proc/{pid}/stat").read_text(errors="replace").rpartition(")")[2].split()
        return 0 if fields[0] in "ZX" else int(fields[19])
    return 0


def _signal(pid: int, number: int) -> None:
    with suppress(ProcessLookupError):
        os.kill(pid, number)


def _stale(folder: Path) -> bool:
    """Whether a FUSE mount without a process stands there."""
    try:
        os.lstat(folder)
    except FileNotFoundError:
        return False
    except OSError:
        return True
    return False

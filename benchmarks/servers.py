"""The servers that are compared, each over a folder of its own on the same disk, on a Unix socket.

A server is ready when its `start` returns: nbdkit and qemu-nbd write a file once they listen, the daemon of this project says so on a pipe.
"""

from __future__ import annotations

import os
import select
import signal
import time
from pathlib import Path
from typing import Protocol

from tests.rig.daemon import Daemon
from tests.rig.process import run

END_MILLISECONDS = 60_000
PID_SECONDS = 30.0
PID_STEP_SECONDS = 0.01


class Server(Protocol):
    """One server over one export of a fixed size."""

    name: str
    folder: Path

    def start(self) -> None: ...
    @property
    def pid(self) -> int: ...
    @property
    def uri(self) -> str: ...
    def stop(self) -> None: ...


class CdpServer:
    name = "cdp"

    def __init__(self, folder: Path, size_bytes: int) -> None:
        self.folder = folder
        self._daemon = Daemon(folder)
        self._daemon.cdp("create", "bench", "--size", str(size_bytes))

    def start(self) -> None:
        self._daemon.start()

    def cdp(self, *words: str) -> None:
        """One call of the command line."""
        self._daemon.cdp(*words)

    @property
    def pid(self) -> int:
        return self._daemon.pid

    @property
    def uri(self) -> str:
        return self._daemon.uri("bench")

    def stop(self) -> None:
        if self._daemon.running:
            self._daemon.stop()


class ForkingServer:
    """A server that returns from its start, its child listening and its pid in a file."""

    name = ""

    def __init__(self, folder: Path, size_bytes: int) -> None:
        self.folder = folder
        self._image = folder / "image"
        self._socket = folder / "nbd.sock"
        self._pid_file = folder / "pid"
        self._pid = 0
        with self._image.open("wb") as image:
            image.truncate(size_bytes)

    def command(self) -> list[str | Path]:
        raise NotImplementedError

    def start(self) -> None:
        run(*self.command())
        # nbdkit's parent may return before its child has written the file; that it stands there is its sign of readiness.
        deadline = time.monotonic() + PID_SECONDS
        while not (self._pid_file.exists() and self._pid_file.read_text().endswith("\n")):
            assert time.monotonic() < deadline, f"{self.name} wrote no {self._pid_file}"
            time.sleep(PID_STEP_SECONDS)
        self._pid = int(self._pid_file.read_text())

    @property
    def pid(self) -> int:
        return self._pid

    @property
    def uri(self) -> str:
        return f"nbd+unix:///?socket={self._socket}"

    def stop(self) -> None:
        """SIGTERM by pid, and waits for the end through a descriptor of the process: it is no child of ours."""
        if not self._pid:
            return
        process = os.pidfd_open(self._pid)
        try:
            signal.pidfd_send_signal(process, signal.SIGTERM)
            ended = select.poll()
            ended.register(process, select.POLLIN)
            assert ended.poll(END_MILLISECONDS), f"{self.name} (pid {self._pid}) does not end"
        finally:
            os.close(process)
            self._pid = 0


class Nbdkit(ForkingServer):
    name = "nbdkit file"

    def command(self) -> list[str | Path]:
        return ["nbdkit", "--unix", self._socket, "--pidfile", self._pid_file, "file", f"file={self._image}"]


class QemuNbd(ForkingServer):
    name = "qemu-nbd raw"

    def command(self) -> list[str | Path]:
        options = ["--fork", "--persistent", "--shared=16", "--format=raw", "--cache=writeback", "--aio=threads"]
        return ["qemu-nbd", *options, "--socket", self._socket, "--pid-file", self._pid_file, self._image]


SERVERS: dict[str, type[CdpServer] | type[ForkingServer]] = {
    CdpServer.name: CdpServer,
    Nbdkit.name: Nbdkit,
    QemuNbd.name: QemuNbd,
}

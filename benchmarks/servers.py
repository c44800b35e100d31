"""The servers that are compared, each over a folder of its own on the same disk, on a Unix socket.

A server is ready when its `start` returns: nbdkit and QEMU write a file once they listen, the daemon of this project says so on a pipe.
"""

from __future__ import annotations

import os
import select
import signal
import time
from pathlib import Path
from typing import Protocol

from benchmarks.qmp import Qmp
from cdp.control.client import RemoteStore
from cdp.when import Latest
from tests.rig.daemon import Daemon
from tests.rig.process import run

END_MILLISECONDS = 60_000
PID_SECONDS = 30.0
PID_STEP_SECONDS = 0.01


class Server(Protocol):
    """One server over one export of a fixed size. `name` is what reports call it."""

    name: str
    folder: Path
    overwritten: bool
    """Whether the export was written at random since it was filled."""

    def start(self) -> None: ...
    @property
    def pid(self) -> int: ...
    @property
    def uri(self) -> str: ...
    def stop(self) -> None: ...
    def stored_raw(self) -> tuple[int, int] | None:
        """Payloads that were stored without compression so far, and all payloads; None where the server does not tell."""


class CdpServer:
    name = "cdp"
    volume = "bench"
    overwritten = False

    def __init__(self, folder: Path, size_bytes: int) -> None:
        self.folder = folder
        self._daemon = Daemon(folder)
        self._control: RemoteStore | None = None
        self._daemon.cdp("create", self.volume, "--size", str(size_bytes))

    def start(self) -> None:
        self._daemon.start()
        self._control = RemoteStore(self.folder)

    def cdp(self, *words: str) -> None:
        """One call of the command line."""
        self._daemon.cdp(*words)

    @property
    def control(self) -> RemoteStore:
        """The daemon's own interface: no process is started for a call."""
        assert self._control is not None, "the daemon does not run"
        return self._control

    @property
    def pid(self) -> int:
        return self._daemon.pid

    @property
    def uri(self) -> str:
        return self._daemon.uri(self.volume)

    def uri_of_now(self) -> str:
        """The export of the instant that is the latest now: read-only, and it stays as it is."""
        return self._daemon.uri(self.volume, f"lsn:{self.control.resolve(self.volume, Latest()).lsn}")

    def point(self, name: str) -> None:
        """Makes a recovery point with a name, durable when this returns."""
        self.control.bookmark(self.volume, name, Latest(), force=False)

    def stop(self) -> None:
        if self._control is not None:
            self._control.close()
            self._control = None
        if self._daemon.running:
            self._daemon.stop()

    def stored_raw(self) -> tuple[int, int] | None:
        status = self.control.show(self.volume).status or {}
        raw, payloads = status.get("payloads_raw"), status.get("payloads")
        return (raw, payloads) if isinstance(raw, int) and isinstance(payloads, int) else None


class ForkingServer:
    """A server that returns from its start, its child listening and its pid in a file."""

    name = ""
    overwritten = False

    def __init__(self, folder: Path, size_bytes: int) -> None:
        self.folder = folder
        self.size_bytes = size_bytes
        self._image = folder / "image"
        self._socket = folder / "nbd.sock"
        self._pid_file = folder / "pid"
        self._pid = 0
        self.make_image()

    def make_image(self) -> None:
        with self._image.open("wb") as image:
            image.truncate(self.size_bytes)

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

    def stored_raw(self) -> tuple[int, int] | None:
        return None

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
        return [*self.nbdkit(), "file", f"file={self._image}"]

    def nbdkit(self) -> list[str | Path]:
        return ["nbdkit", "--unix", self._socket, "--pidfile", self._pid_file]


class NbdkitNull(Nbdkit):
    """Keeps nothing: what the socket and the protocol cost, which no server gets below."""

    name = "nbdkit null"

    def command(self) -> list[str | Path]:
        return [*self.nbdkit(), "null", f"size={self.size_bytes}"]

    def make_image(self) -> None:
        pass


class QemuNbd(ForkingServer):
    name = "qemu-nbd raw"
    format = "raw"

    def command(self) -> list[str | Path]:
        options = ["--fork", "--persistent", "--shared=16", "--cache=writeback", "--aio=threads"]
        options += [f"--format={self.format}", f"--socket={self._socket}", f"--pid-file={self._pid_file}"]
        return ["qemu-nbd", *options, self._image]


class QemuNbdQcow2(QemuNbd):
    name = "qemu-nbd qcow2"
    format = "qcow2"

    def make_image(self) -> None:
        run("qemu-img", "create", "-q", "-f", "qcow2", self._image, str(self.size_bytes))


class Qcow2Snapshots(ForkingServer):
    """A qcow2 image whose server takes internal snapshots while it serves, when asked over QMP: qemu-nbd cannot."""

    name = "qcow2 snapshots"

    def make_image(self) -> None:
        run("qemu-img", "create", "-q", "-f", "qcow2", self._image, str(self.size_bytes))

    def command(self) -> list[str | Path]:
        return [
            "qemu-storage-daemon",
            "--daemonize",
            f"--blockdev=driver=file,node-name=file,filename={self._image},aio=threads",
            "--blockdev=driver=qcow2,node-name=disk,file=file",
            f"--nbd-server=addr.type=unix,addr.path={self._socket},max-connections=16",
            "--export=type=nbd,id=export,node-name=disk,name=bench,writable=on",
            f"--chardev=socket,id=control,path={self.folder / 'qmp.sock'},server=on,wait=off",
            "--monitor=chardev=control",
            f"--pidfile={self._pid_file}",
        ]

    @property
    def uri(self) -> str:
        return f"nbd+unix:///bench?socket={self._socket}"

    def start(self) -> None:
        super().start()
        self._qmp = Qmp(self.folder / "qmp.sock")

    def point(self, name: str) -> None:
        self._qmp.ask("blockdev-snapshot-internal-sync", device="disk", name=name)

    def stop(self) -> None:
        if self._pid:
            self._qmp.close()
        super().stop()


PEERS: dict[str, type[ForkingServer]] = {kind.name: kind for kind in (Nbdkit, NbdkitNull, QemuNbd, QemuNbdQcow2)}
SERVERS: dict[str, type[CdpServer] | type[ForkingServer]] = {CdpServer.name: CdpServer, **PEERS}
"""What the rows of load are measured on."""

"""Runs attackers as a process beside the one that looks at their victims, and watches the daemon meanwhile."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

import nbd

from tests.rig.cdp import ROOT, environment
from tests.rig.certificates import Authority
from tests.rig.daemon import Daemon

WayName = Literal["unix", "tcp", "tls"]
END_SECONDS = 60.0
SAMPLE_SECONDS = 0.2
RETRY_SECONDS = 0.001


@dataclass(frozen=True)
class Place:
    """A daemon with the volume `disk`, and how it is reached: by clients, and by attackers."""

    daemon: Daemon
    uri: str
    attacker: tuple[str, ...]


@contextmanager
def place(
    folder: Path, way: WayName, size_bytes: int, options: tuple[str, ...] = (), wrapper: tuple[str, ...] = ()
) -> Iterator[Place]:
    """A daemon in a new folder, started by `wrapper`. With `tls` its clients have to have certificates, and attackers have one."""
    (folder / "store").mkdir(parents=True)
    credentials = None
    if way == "tls":
        authority = Authority(folder / "authority")
        certificate, key = authority.server()
        credentials = authority.client("client")
        options += (
            "--tls=require",
            f"--tls-cert={certificate}",
            f"--tls-key={key}",
            f"--tls-client-ca={authority.path}",
        )
    with Daemon(folder / "store", options=options, wrapper=wrapper) as daemon:
        daemon.cdp("create", "disk", "--size", str(size_bytes))
        if credentials is not None:
            uri = f"nbds://127.0.0.1:{daemon.port}/disk?tls-certificates={credentials}"
            yield Place(daemon, uri, (f"--port={daemon.port}", f"--credentials={credentials}"))
        elif way == "tcp":
            yield Place(daemon, daemon.uri("disk", transport="tcp"), (f"--port={daemon.port}",))
        else:
            yield Place(daemon, daemon.uri("disk"), (f"--unix={daemon.socket}",))


@contextmanager
def attacked(place: Place, attack: str, *options: str, figures: list[dict[str, int]] | None = None) -> Iterator[None]:
    """The attack runs inside; what the attackers counted is added to `figures` at the end."""
    command = [sys.executable, "-m", "tests.hostile.attacker", attack, *place.attacker, *options]
    process = subprocess.Popen(
        command, cwd=ROOT, env=environment(), stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
    )
    try:
        assert process.stdout is not None
        assert process.stdout.readline() == "ready\n"
        yield
        said = process.communicate(timeout=END_SECONDS)[0]
        if figures is not None:
            figures.append(json.loads(said))
    finally:
        process.kill()
        process.wait()


def connected(uri: str) -> nbd.NBD:
    """A connection of a client that tries again where a Unix socket's queue is full, which refuses at once."""
    deadline = time.monotonic() + END_SECONDS
    while True:
        handle = nbd.NBD()
        handle.set_uri_allow_local_file(True)
        try:
            handle.connect_uri(uri)
        except nbd.Error as error:
            if "backlog" not in str(error) or time.monotonic() > deadline:
                raise
            time.sleep(RETRY_SECONDS)
        else:
            return handle


class Sampler:
    """The most descriptors that a process had while it was looked at."""

    def __init__(self, pid: int) -> None:
        self.most = 0
        self._pid = pid
        self._end = threading.Event()
        self._thread = threading.Thread(target=self._run)

    def _run(self) -> None:
        while True:
            self.most = max(self.most, descriptors(self._pid))
            if self._end.wait(SAMPLE_SECONDS):
                return

    def __enter__(self) -> Sampler:
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._end.set()
        self._thread.join()


def descriptors(pid: int) -> int:
    return len(os.listdir(f"/proc/{pid}/fd"))

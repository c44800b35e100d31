"""The readers of a volume that a model is compared with: an NBD client, the restore, and the reference reader. Each gives a whole state, or refuses."""

from __future__ import annotations

import contextlib
import io
import json
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import nbd

from cdp.control.client import RemoteStore
from cdp.errors import NotFound
from cdp.restore import Order, restore
from cdp.salvage.__main__ import main as salvage
from cdp.store import Progress
from cdp.when import parse


class Refused(Exception):
    """There is no such instant; the sentence says why."""


def connect(uri: str) -> Any:
    handle = nbd.NBD()
    handle.connect_uri(uri)
    return handle


def read_all(handle: Any, step: int) -> bytes:
    """The whole export, `step` bytes at a time."""
    size = handle.get_size()
    return b"".join(bytes(handle.pread(min(step, size - at), at)) for at in range(0, size, step))


def served(uri: str, step: int) -> bytes:
    """The state that an export shows. Refused if it cannot be opened for that there is no such instant."""
    try:
        handle = connect(uri)
    except nbd.Error as error:
        if error.errno != "ENOENT":
            raise
        raise Refused(str(error)) from error
    try:
        assert handle.is_read_only()
        return read_all(handle, step)
    finally:
        handle.shutdown()


def restored(store: RemoteStore, path: Path, volume: str, when: str, target: Path) -> bytes:
    """The state that `pit-restore` writes over whatever it restored to `target` before."""
    try:
        restore(store, path, Order(volume, parse(when), str(target), force=True), _silent)
    except NotFound as error:
        raise Refused(str(error)) from error
    return target.read_bytes()


@contextlib.contextmanager
def _silent(_stage: str) -> Iterator[Progress]:
    yield lambda done, total: None


def salvage_finds(path: Path, volume: str) -> list[object]:
    """What the reference reader has to say against the files."""
    said = io.StringIO()
    with contextlib.redirect_stdout(said):
        salvage(["check", volume, "--store", str(path), "--json"])
    findings: list[object] = json.loads(said.getvalue())["findings"]
    return findings


def salvaged(path: Path, volume: str, when: str) -> bytes:
    """The state that the reference reader restores from the files."""
    with tempfile.TemporaryDirectory() as folder:
        target = Path(folder, "out")
        said = io.StringIO()
        with contextlib.redirect_stdout(said), contextlib.redirect_stderr(said):
            code = salvage(["restore", volume, "--at", when, "--to", str(target), "--store", str(path)])
        if code == 2:
            raise Refused(said.getvalue())
        assert code == 0, said.getvalue()
        return target.read_bytes()

"""One daemon a test file, a fresh small volume a test."""

from __future__ import annotations

import itertools
import os
import shutil
import tempfile
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.rig.clients import Qemu, newest_qemu
from tests.rig.content import DISK_BYTES
from tests.rig.daemon import Daemon
from tests.rig.process import ProgramFailed

_numbers = itertools.count(1)


@pytest.fixture(scope="module")
def served() -> Iterator[Daemon]:
    """A daemon for all tests of a file. It must still run, and end cleanly, after the last one."""
    folder = Path(tempfile.mkdtemp(prefix="cdp-"))
    try:
        (folder / "store").mkdir()
        with Daemon(folder / "store") as daemon:
            yield daemon
    finally:
        shutil.rmtree(folder)


@pytest.fixture
def disk(served: Daemon) -> str:
    """The name of a new volume of DISK_BYTES, made while the daemon runs."""
    name = f"disk{next(_numbers)}"
    served.cdp("create", name, "--size", str(DISK_BYTES))
    return name


@pytest.fixture(scope="session")
def qemu() -> Qemu:
    """The machine's own qemu-img and qemu-io, whatever their version."""
    found = shutil.which("qemu-img")
    assert found, "qemu-img is not on PATH"
    return Qemu(Path(found).parent)


@pytest.fixture(scope="session")
def qemu10() -> Qemu:
    """QEMU 10. Skipped where it cannot be had, but never in CI: there a skipped client is an unproved promise."""
    try:
        return newest_qemu()
    except ProgramFailed as failed:
        if os.environ.get("CI"):
            raise
        pytest.skip(f"no QEMU 10: {failed}")

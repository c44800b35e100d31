"""A volume of 1 TiB: made, written at its far end, mapped and opened again at a cost that its size and its journal's do not set.

Bytes that the daemon read and its peak memory come from /proc: no time is measured.
"""

from __future__ import annotations

import json
import os
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import nbd
import pytest

from tests.rig.clients import nbdinfo
from tests.rig.content import content
from tests.rig.daemon import Daemon
from tests.rig.process import run

TIB = 1 << 40
MIB = 1 << 20
JOURNAL_BYTES_MIN = 100 * MIB
OPENING_BYTES_MAX = 8 * MIB
"""What opening may read: Python's own files are counted too."""
PEAK_BYTES_MAX = 300 * MIB


@pytest.fixture
def large(store: Path) -> Iterator[Daemon]:
    """A daemon over a store with a volume of 1 TiB, `large`."""
    with Daemon(store) as daemon:
        daemon.cdp("create", "large", "--size", "1TiB")
        yield daemon


def _connect(daemon: Daemon, when: str | None = None) -> Any:
    handle = nbd.NBD()
    handle.add_meta_context("base:allocation")
    handle.connect_uri(daemon.uri("large", when))
    return handle


def _bytes_read(pid: int) -> int:
    """By system calls of the process so far, from files and sockets."""
    lines = Path(f"/proc/{pid}/io").read_text().splitlines()
    return int(next(line for line in lines if line.startswith("rchar:")).split()[1])


def _peak_bytes(pid: int) -> int:
    lines = Path(f"/proc/{pid}/status").read_text().splitlines()
    return 1024 * int(next(line for line in lines if line.startswith("VmHWM:")).split()[1])


def _disk_bytes(folder: Path) -> int:
    return sum(path.stat().st_size for path in folder.rglob("*") if path.is_file())


def test_the_far_end(large: Daemon) -> None:
    """Read and written to the last byte; nothing of the rest takes room."""
    handle = _connect(large)
    assert handle.get_size() == TIB
    written = content(3 * MIB + 5, "far end")
    before = TIB - len(written)
    assert not any(handle.pread(len(written), before))
    handle.pwrite(written, before, nbd.CMD_FLAG_FUA)
    handle.pwrite(b"middle", TIB // 2 - 3)
    assert handle.pread(len(written), before) == written
    with pytest.raises(nbd.Error):
        handle.pwrite(b"beyond", TIB)
    handle.shutdown()
    large.stop()
    large.start()
    handle = _connect(large)
    assert handle.pread(len(written), before) == written
    assert handle.pread(8, TIB // 2 - 4) == b"\0middle\0"
    handle.shutdown()
    assert not any(_connect(large, "lsn:0").pread(len(written), before))
    assert _disk_bytes(large.store) < 16 * MIB


def _extents(handle: Any, start: int) -> list[tuple[int, int]]:
    """(bytes, flags) from `start` on, as many as one request tells."""
    found: list[tuple[int, int]] = []

    def told(context: str, offset: int, entries: list[int], error: int) -> int:
        assert (context, offset) == ("base:allocation", start)
        found.extend(zip(entries[::2], entries[1::2], strict=True))
        return 0

    handle.block_status(min(TIB - start, 0xFFFF_F000), start, told)
    return found


def test_the_map(large: Daemon) -> None:
    """A few written places in 1 TiB: one request tells 4 GiB, and the whole map has an extent a place and one a gap."""
    places = {5 * MIB: MIB, TIB // 3 // 4096 * 4096: 4096, TIB - MIB: MIB}
    handle = _connect(large)
    for offset, length in places.items():
        handle.pwrite(content(length, offset).replace(b"\0", b"x"), offset)
    assert _extents(handle, TIB // 2)[0][0] >= 0xFFFF_F000
    handle.shutdown()
    mapped = json.loads(run("nbdinfo", "--map", "--json", large.uri("large")).stdout)
    data = {row["offset"]: row["length"] for row in mapped if row["type"] == 0}
    assert data == places
    assert sum(row["length"] for row in mapped) == TIB
    assert nbdinfo(large.uri("large"))["exports"][0]["export-size"] == TIB


def test_opening_does_not_scan_the_journal(large: Daemon) -> None:
    """After a clean stop a journal of more than 100 MiB is opened, read at its newest and at an old instant, and hardly read."""
    handle = _connect(large)
    noise = [os.urandom(MIB) for _ in range(8)]
    for number in range(JOURNAL_BYTES_MIN // MIB + 30):
        handle.pwrite(noise[number % 8], number * 7919 * MIB % (TIB - MIB))
    handle.flush()
    print(f"peak memory of the daemon while writing: {_peak_bytes(large.pid) / MIB:.0f} MiB")
    assert _peak_bytes(large.pid) < PEAK_BYTES_MAX
    handle.shutdown()
    large.stop()
    assert _disk_bytes(large.store) > JOURNAL_BYTES_MIN
    large.start()
    before = _bytes_read(large.pid)
    handle = _connect(large)
    assert handle.pread(4096, 7919 * MIB) == noise[1][:4096]
    old = _connect(large, "lsn:50")
    assert old.pread(4096, 49 * 7919 * MIB) == noise[1][:4096]
    assert not any(old.pread(4096, 50 * 7919 * MIB))
    read = _bytes_read(large.pid) - before
    print(f"bytes read to open and to read three blocks: {read}")
    assert read < OPENING_BYTES_MAX, f"opening read {read} bytes"
    assert _peak_bytes(large.pid) < PEAK_BYTES_MAX
    handle.shutdown()
    old.shutdown()

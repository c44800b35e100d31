"""What a volume must read as at every LSN and at every time, kept as plain bytes beside a volume that is written over the wire."""

from __future__ import annotations

import contextlib
import io
import os
import tempfile
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, NamedTuple

import nbd

from cdp import _native
from cdp.salvage.__main__ import main as salvage
from cdp.when import rfc3339


class Piece(NamedTuple):
    """What one request leaves: `content` from byte `offset` on."""

    offset: int
    content: bytes


class Sent(NamedTuple):
    """When a request left and when its reply was there, in nanoseconds on CLOCK_REALTIME."""

    before: int
    after: int


@dataclass
class Model:
    """The state after each record. Between `settled` ones stand those of a burst, whose order is the server's choice: `bursts` maps their
    LSNs to the state before, the pieces, and how many of them the LSN shows."""

    size: int
    now: bytearray = field(init=False)
    settled: dict[int, bytes] = field(default_factory=dict)
    bursts: dict[int, tuple[bytes, Sequence[Piece], int]] = field(default_factory=dict)
    sent: dict[int, Sent] = field(default_factory=dict)
    bookmarks: dict[str, int] = field(default_factory=dict)
    last_lsn: int = 0

    def __post_init__(self) -> None:
        self.now = bytearray(self.size)
        self.settled[0] = bytes(self.now)

    def apply(self, pieces: Sequence[Piece], sent: Sent) -> None:
        """One request, or several that were under way together: a record each, on ranges that do not meet."""
        before = bytes(self.now)
        for count, piece in enumerate(pieces, 1):
            self.last_lsn += 1
            self.sent[self.last_lsn] = sent
            self.now[piece.offset : piece.offset + len(piece.content)] = piece.content
            if count < len(pieces):
                self.bursts[self.last_lsn] = (before, pieces, count)
        self.settled[self.last_lsn] = bytes(self.now)

    def note_control(self, lsn: int) -> None:
        """A record that changes no block, at or above the next LSN: numbering goes on higher up after an unclean end."""
        assert lsn > self.last_lsn
        self.last_lsn = lsn
        self.settled[lsn] = bytes(self.now)

    def lsns(self) -> list[int]:
        return sorted({*self.settled, *self.bursts})

    def assert_shows(self, lsn: int, seen: bytes) -> None:
        """`seen` is the whole volume at `lsn`."""
        if lsn in self.settled:
            # Not one comparison in the assertion: on failure pytest would explain megabytes.
            same = seen == self.settled[lsn]
            assert same, f"LSN {lsn} differs, first at byte {_first_difference(seen, self.settled[lsn])}"
            return
        state, pieces, count = self.bursts[lsn]
        rebuilt = bytearray(state)
        shown = 0
        for offset, content in pieces:
            if seen[offset : offset + len(content)] == content != state[offset : offset + len(content)]:
                rebuilt[offset : offset + len(content)] = content
                shown += 1
        whole = seen == rebuilt
        assert whole, f"LSN {lsn} shows a part of a request at byte {_first_difference(seen, bytes(rebuilt))}"
        assert shown <= count <= shown + sum(state[o : o + len(c)] == c for o, c in pieces)


def _first_difference(one: bytes, other: bytes) -> int | str:
    if len(one) != len(other):
        return f"length {len(one)}, not {len(other)}"
    return next(i for i, (a, b) in enumerate(zip(one, other, strict=True)) if a != b)


def connect(uri: str) -> Any:
    handle = nbd.NBD()
    handle.connect_uri(uri)
    return handle


def read_all(handle: Any, step: int) -> bytes:
    """The whole export, `step` bytes at a time."""
    size = handle.get_size()
    return b"".join(bytes(handle.pread(min(step, size - at), at)) for at in range(0, size, step))


def restored_natively(volume: _native.Volume, lsn: int) -> bytes:
    """The state that `View.restore` writes into a sparse file, as `pit-restore` calls it."""
    view = volume.view(lsn)
    with tempfile.TemporaryFile() as file:
        os.ftruncate(file.fileno(), view.size)
        view.restore(file.fileno())
        return file.read()


def restored_by_salvage(store: Path, volume: str, when: str) -> bytes:
    """The state that the reference reader restores from the files."""
    with tempfile.TemporaryDirectory() as folder:
        target = Path(folder, "out")
        said = io.StringIO()
        with contextlib.redirect_stdout(said), contextlib.redirect_stderr(said):
            code = salvage(["restore", volume, "--at", when, "--to", str(target), "--store", str(store)])
        assert code == 0, said.getvalue()
        return target.read_bytes()


class Instant(NamedTuple):
    """How an instant is asked for, and the LSN that it means."""

    when: str
    lsn: int


def instant_at(stamps: Sequence[tuple[int, int]], stamp: int, *, unix: bool) -> Instant:
    """The instant at a time. `stamps`: (stamp, LSN), ascending: the state holds all at or before it."""
    lsn = max(lsn for at, lsn in stamps if at <= stamp)
    return Instant(f"@{stamp // 10**9}.{stamp % 10**9:09}" if unix else rfc3339(stamp), lsn)

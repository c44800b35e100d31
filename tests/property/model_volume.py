"""What a volume must read as at every LSN and at every time, kept as plain bytes beside a volume that is written over the wire."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import NamedTuple


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
    LSNs to the state before, the pieces, and how many of them the LSN shows. `rollbacks`: (LSN of the record, LSN of the one before it)."""

    size: int
    now: bytearray = field(init=False)
    settled: dict[int, bytes] = field(default_factory=dict)
    bursts: dict[int, tuple[bytes, Sequence[Piece], int]] = field(default_factory=dict)
    sent: dict[int, Sent] = field(default_factory=dict)
    bookmarks: dict[str, int] = field(default_factory=dict)
    rollbacks: list[tuple[int, int]] = field(default_factory=list)
    last_lsn: int = 0

    def __post_init__(self) -> None:
        self.now = bytearray(self.size)
        if not self.settled:
            self.settled[0] = bytes(self.now)

    @property
    def newest(self) -> int:
        """The LSN of the newest instant. (Of a clone without a record of its own `last_lsn`, after which its numbers begin, is larger.)"""
        return max(self.lsns())

    def apply(self, pieces: Sequence[Piece], sent: Sent, admitted: int | None = None) -> None:
        """One request, or several that were under way together: a record each, on ranges that do not meet.

        `admitted`: so many of them, nobody knows which, became records. What is written next is only known after `pin_down` of the last.
        """
        count = len(pieces) if admitted is None else admitted
        before = bytes(self.now)
        for shown in range(1, count + 1):
            self.last_lsn += 1
            self.sent[self.last_lsn] = sent
            self.bursts[self.last_lsn] = (before, pieces, shown)
        if count == len(pieces):
            del self.bursts[self.last_lsn]
            for offset, content in pieces:
                self.now[offset : offset + len(content)] = content
            self.settled[self.last_lsn] = bytes(self.now)

    def note_control(self, lsn: int) -> None:
        """A record that changes no block, at or above the next LSN: numbering goes on higher up after an unclean end."""
        assert lsn > self.last_lsn
        newest = self.newest
        self.last_lsn = lsn
        self.settled[lsn] = self.settled[newest]

    def note_rollback(self, lsn: int, to: int, seen: bytes) -> None:
        """The record `lsn` makes the volume what it was at `to`; it reads as `seen` now."""
        assert lsn > self.last_lsn
        self.rollbacks.append((lsn, self.newest))
        self.pin_down(to, seen)
        self.last_lsn = lsn
        self.settled[lsn] = self.settled[to]
        self.now = bytearray(seen)

    def pin_down(self, lsn: int, seen: bytes) -> None:
        """`seen` is the whole volume at `lsn`, and from now on nothing else is."""
        self.assert_shows(lsn, seen)
        if self.bursts.pop(lsn, None) is not None:
            self.settled[lsn] = seen

    def branch(self, lsn: int, floor: int) -> Model:
        """The model of a clone that begins at `lsn`, whose own numbers lie above `floor`."""
        made = Model(self.size, settled={lsn: self.settled[lsn]}, last_lsn=floor)
        made.now[:] = self.settled[lsn]
        return made

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

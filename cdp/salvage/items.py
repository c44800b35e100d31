"""What a manifest names: segments, checkpoints, runs, the horizon and points, ancestors (docs/format.md, the tables of items).

An item of 96 bytes sets or drops one of these; a set replaces what has the same number.
"""

from __future__ import annotations

import struct
from dataclasses import dataclass, field, replace

ITEM_BYTES = 96
_SEGMENT = struct.Struct("<BBHIQQIIQQQQQQQ8x")
_CHECKPOINT = struct.Struct("<BBHIQQIIQ56x")
_STATE = struct.Struct("<BBHIQQIIQQ48x")
_MARK = struct.Struct("<8xQQI68x")
_RUN = struct.Struct("<4xIQ8xI4xQQ24xQ16x")
_ANCESTOR = struct.Struct("<8xQQ16s56x")


@dataclass(frozen=True, slots=True)
class SegmentItem:
    """A segment as the manifest names it. Of an open one only `id`, `nonce` and `epoch` count. Stamps in ns."""

    id: int
    sealed: bool
    nonce: int
    epoch: int
    clock_epoch: int = 0
    entries: int = 0
    first_lsn: int = 0
    last_lsn: int = 0
    first_stamp: int = 0
    last_stamp: int = 0
    footer_offset: int = 0
    file_bytes: int = 0
    previous_lsn: int = 0
    compacted: bool = False

    @property
    def file_name(self) -> str:
        """The name of the segment's file."""
        return f"segment-{self.id:08x}"


@dataclass(frozen=True, slots=True)
class CheckpointItem:
    """A checkpoint as the manifest names it: it shows the map at `lsn`."""

    id: int
    nonce: int
    lsn: int
    file_bytes: int

    @property
    def file_name(self) -> str:
        """The name of the checkpoint's file."""
        return f"checkpoint-{self.id:08x}"


@dataclass(frozen=True, slots=True)
class RunItem:
    """A run as the manifest names it: the index entries of LSNs first..last."""

    id: int
    nonce: int
    level: int
    first_lsn: int
    last_lsn: int
    file_bytes: int

    @property
    def file_name(self) -> str:
        """The name of the run's file."""
        return f"run-{self.id:08x}"


@dataclass(frozen=True, slots=True)
class Mark:
    """The horizon or a point: an LSN with the stamp (ns) and clock epoch of its record."""

    lsn: int
    stamp: int
    clock_epoch: int


@dataclass(frozen=True, slots=True)
class Ancestor:
    """A timeline that this one was cloned from: shared up to `base_lsn`; the records in (base, floor] are not here."""

    base_lsn: int
    floor_lsn: int
    volume: str


@dataclass(frozen=True, slots=True)
class State:
    """The writer's state; `last_stamp` and `clock_epoch` count when it stopped cleanly.

    `lsn_floor`: after a clean stop the next LSN, else the first LSN of the epoch.
    """

    clean: bool
    epoch: int
    lsn_floor: int
    next_segment: int
    next_checkpoint: int
    last_stamp: int
    clock_epoch: int


@dataclass(slots=True)
class Manifest:
    """What the valid frames of one copy, or the files themselves (`rebuilt`), say. Points by LSN, ancestors by floor."""

    segments: dict[int, SegmentItem] = field(default_factory=dict)
    checkpoints: dict[int, CheckpointItem] = field(default_factory=dict)
    runs: dict[int, RunItem] = field(default_factory=dict)
    horizon: Mark | None = None
    points: dict[int, Mark] = field(default_factory=dict)
    ancestors: dict[int, Ancestor] = field(default_factory=dict)
    state: State | None = None
    rebuilt: bool = False

    @property
    def clean(self) -> bool:
        """Whether the writer stopped cleanly."""
        return self.state is not None and self.state.clean

    def apply(self, item: bytes) -> None:
        """Sets or drops what an item of 96 bytes says."""
        tag, flags, _, number = struct.unpack_from("<BBHI", item)
        if tag == 1:
            plain = SegmentItem(number, bool(flags & 1), *_SEGMENT.unpack(item)[4:])
            self.segments[number] = replace(plain, compacted=bool(flags & 2))
        elif tag == 2:
            self.segments.pop(number, None)
        elif tag == 3:
            nonce, lsn, _, _, size = _CHECKPOINT.unpack(item)[4:]
            self.checkpoints[number] = CheckpointItem(number, nonce, lsn, size)
        elif tag == 4:
            self.checkpoints.pop(number, None)
        elif tag == 5:
            self.state = State(bool(flags & 1), *_STATE.unpack(item)[4:])
        else:
            self._apply_second(tag, number, item)

    def _apply_second(self, tag: int, number: int, item: bytes) -> None:
        """The items that format version 2 added."""
        mark = Mark(*_MARK.unpack(item))
        if tag == 6:
            self.horizon = mark
        elif tag == 7:
            self.points[mark.lsn] = mark
        elif tag == 8:
            self.points.pop(mark.lsn, None)
        elif tag == 9:
            self.runs[number] = RunItem(*_RUN.unpack(item))
        elif tag == 10:
            self.runs.pop(number, None)
        elif tag == 11:
            base, floor, volume = _ANCESTOR.unpack(item)
            self.ancestors[floor] = Ancestor(base, floor, volume.hex())

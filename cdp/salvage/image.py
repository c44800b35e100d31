"""Writes a volume, as it was at an LSN, into a sparse file.

The file gets its name only when it is whole and synced. Nothing is held in memory but the extent map and a few decoded
payloads. Zeros become holes. Sectors that cannot be read are zeros in the output, and only there when damage is allowed.
"""

from __future__ import annotations

import contextlib
import os
from dataclasses import dataclass, field
from pathlib import Path

from cdp.errors import Corrupt, Invalid, Io
from cdp.salvage.batch import DAMAGED, DATA, Entry, PayloadError
from cdp.salvage.extents import ExtentMap
from cdp.salvage.files import SECTOR, StoredFile
from cdp.salvage.report import Report
from cdp.salvage.volume import Volume

_CHUNK_BYTES = 1 << 20
_DECODED_MAX = 64


@dataclass(slots=True)
class Restored:
    """What a restore did, in bytes; `unreadable` counts what reads as zeros because it is lost."""

    size: int
    data: int = 0
    from_origin: int = 0
    unreadable: int = 0
    origin: Path | None = None


@dataclass(slots=True)
class _Source:
    """Payloads of a volume, the last few kept decoded; None for one that cannot be read."""

    volume: Volume
    report: Report
    decoded: dict[tuple[int, int], bytes | None] = field(default_factory=dict)

    def content(self, entry: Entry) -> bytes | None:
        place = entry.segment, entry.offset
        if place not in self.decoded:
            if len(self.decoded) >= _DECODED_MAX:
                del self.decoded[next(iter(self.decoded))]
            self.decoded[place] = self._read(entry)
        return self.decoded[place]

    def _read(self, entry: Entry) -> bytes | None:
        try:
            return self.volume.content(entry)
        except PayloadError as error:
            name = self.volume.journal.segments[entry.segment].name
            text, segment = str(error), entry.segment
            self.report.damage(name, text, segment=segment, lsn=entry.lsn, start=entry.start, sectors=entry.sectors)
            return None


def restore(volume: Volume, lsn: int, target: Path, origin: StoredFile | None, *, allow_damage: bool) -> Restored:
    """Restores the state at `lsn` into `target`. Raises Corrupt for sectors that are lost unless `allow_damage`, Io."""
    extents = ExtentMap()
    for entry in volume.entries_at(lsn):
        extents.apply(entry)
    restored = Restored(volume.history.size_at(lsn), origin=origin.path if origin else None)
    temporary = target.with_name(f".{target.name}.{os.getpid()}.tmp")
    try:
        descriptor = os.open(temporary, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, 0o600)
        try:
            os.ftruncate(descriptor, restored.size)
            _fill(descriptor, volume, extents, origin, restored)
            if restored.unreadable and not allow_damage:
                raise Corrupt(
                    f"{restored.unreadable} bytes of volume {volume.description.name} at LSN {lsn} cannot be read; "
                    f"{target} was not written (--allow-damage writes zeros in their place)"
                )
            os.fsync(descriptor)
        finally:
            os.close(descriptor)
        os.rename(temporary, target)
        _sync_folder(target.parent)
    except OSError as error:
        raise Io(f"{target}: {error.strerror}") from error
    finally:
        with contextlib.suppress(FileNotFoundError):
            os.unlink(temporary)
    return restored


def _fill(descriptor: int, volume: Volume, extents: ExtentMap, origin: StoredFile | None, restored: Restored) -> None:
    source = _Source(volume, volume.report)
    sectors = restored.size // SECTOR
    position = 0
    for start, end, entry in extents.between(0, sectors):
        restored.from_origin += _copy_origin(descriptor, origin, position * SECTOR, start * SECTOR)
        position = end
        if entry.kind == DAMAGED:
            _lost(volume, entry, start, end, restored)
        elif entry.kind == DATA:
            content = source.content(entry)
            if content is None:
                restored.unreadable += (end - start) * SECTOR
            else:
                piece = memoryview(content)[(start - entry.start) * SECTOR : (end - entry.start) * SECTOR]
                restored.data += _write(descriptor, piece, start * SECTOR)
    restored.from_origin += _copy_origin(descriptor, origin, position * SECTOR, restored.size)


def _lost(volume: Volume, entry: Entry, start: int, end: int, restored: Restored) -> None:
    restored.unreadable += (end - start) * SECTOR
    name = volume.journal.segments[entry.segment].name
    text = "the content of these sectors is lost"
    volume.report.damage(name, text, segment=entry.segment, lsn=entry.lsn, start=start, sectors=end - start)


def _write(descriptor: int, piece: memoryview, offset: int) -> int:
    """Writes a piece unless it is all zeros, which the hole reads as anyway. Returns its length."""
    if any(piece):
        position = 0
        while position < len(piece):
            position += os.pwrite(descriptor, piece[position:], offset + position)
    return len(piece)


def _copy_origin(descriptor: int, origin: StoredFile | None, start: int, end: int) -> int:
    if origin is None:
        return 0
    copied = 0
    for begin, finish in origin.data_ranges(start, min(end, origin.size)):
        for offset in range(begin, finish, _CHUNK_BYTES):
            chunk = origin.read(offset, min(_CHUNK_BYTES, finish - offset))
            copied += _write(descriptor, memoryview(chunk), offset)
    return copied


def _sync_folder(folder: Path) -> None:
    descriptor = os.open(folder, os.O_RDONLY | os.O_DIRECTORY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def open_origin(volume: Volume, override: Path | None) -> StoredFile | None:
    """The disk under the volume: `override`, or where its description says it is. Raises Invalid where it has changed."""
    origin = volume.description.origin
    if origin is None:
        if override is not None:
            raise Invalid(f"volume {volume.description.name} has no origin: leave --origin away")
        return None
    if override is None and origin.kind == "nbd":
        raise Invalid(f"the origin is {origin.path}: copy it into a file and name that with --origin")
    file = StoredFile(override or Path(origin.path))
    if override is None and (file.size != origin.size or file.changed != origin.changed):
        file.close()
        raise Invalid(f"{origin.path} is not as it was under the volume; if it still holds, name it with --origin")
    file.size = min(file.size, origin.size)
    return file

"""Page 0 of a segment, run or checkpoint (docs/format.md, "Segments").

It repeats what the manifest says. It is needed to tell a foreign file, which is not read, from a damaged header, which is
reported and read past; and to list the segments where both manifests are lost.
"""

from __future__ import annotations

import struct
from collections.abc import Set as AbstractSet
from dataclasses import dataclass

from cdp.errors import Invalid
from cdp.salvage.crc import crc32c
from cdp.salvage.files import PAGE, StoredFile
from cdp.salvage.report import Report

SEGMENT_MAGIC = b"CDPSEG01"
CHECKPOINT_MAGIC = b"CDPCKP01"
RUN_MAGIC = b"CDPRUN01"
COMPACTED_VERSION = 2
_FORMAT = 2
_FIELDS = struct.Struct("<8sII16sI4xQQQ")


@dataclass(frozen=True, slots=True)
class FileHeader:
    """The fields of a header; `created` is a stamp. `problem` says why it does not count, empty where it does."""

    volume: str = ""
    number: int = 0
    nonce: int = 0
    epoch: int = 0
    created: int = 0
    version: int = 0
    problem: str = ""


def read_file_header(file: StoredFile, magic: bytes) -> FileHeader:
    """The header of a file. Raises Invalid for a later version, which is believed only where the checksum holds."""
    page = file.read(0, PAGE)
    if len(page) < PAGE:
        return FileHeader(problem=f"the file has only {file.size} bytes")
    found, version, crc, volume, number, nonce, epoch, created = _FIELDS.unpack_from(page)
    if crc != crc32c(page[:12], page[16:]):
        return FileHeader(problem="the checksum is wrong")
    if found != magic:
        return FileHeader(problem="the magic is wrong")
    if version > _FORMAT:
        raise Invalid(f"{file.path}: format version {version}; this reader knows {_FORMAT}")
    return FileHeader(volume.hex(), number, nonce, epoch, created, version)


def is_own_file(
    file: StoredFile, magic: bytes, family: AbstractSet[str], number: int, nonce: int, report: Report
) -> bool:
    """Whether the file is the one that the manifest means; a damaged header alone does not make it another one.

    `family`: the ids that the file may name, the volume's or those of volumes that it was cloned from.
    """
    segment = number if magic == SEGMENT_MAGIC else None
    header = read_file_header(file, magic)
    if header.problem:
        report.damage(file.name, f"header: {header.problem}", segment=segment)
        return True
    if header.volume in family and (header.number, header.nonce) == (number, nonce):
        return True
    report.damage(file.name, f"a foreign file: number {header.number} of volume {header.volume}", segment=segment)
    return False

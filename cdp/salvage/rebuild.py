"""The list of files where both manifests are lost: from the segments' own headers and trailers.

A segment with a valid trailer counts as sealed, any other as open; they come in the order of their ids. A file that the
manifest had dropped cannot be told from one that it named, so the result may hold more than the manifest did.
Checkpoints and runs are left out: they are not needed. The horizon is at least the end of the last compacted segment;
the points, and what a clone was made from, are known to the manifest alone.
"""

from __future__ import annotations

import re
from pathlib import Path

from cdp.errors import CdpError
from cdp.salvage.files import StoredFile
from cdp.salvage.header import COMPACTED_VERSION, SEGMENT_MAGIC, read_file_header
from cdp.salvage.index import IndexFile
from cdp.salvage.items import Manifest, Mark, SegmentItem
from cdp.salvage.lineage import Lineage
from cdp.salvage.report import Report
from cdp.salvage.scan import scan
from cdp.salvage.segment import Segment

_NAME = re.compile(r"segment-([0-9a-f]{8})")


def rebuild_manifest(folder: Path, report: Report) -> Manifest:
    """The segments that the folder shows."""
    manifest = Manifest(rebuilt=True)
    for path in sorted(folder.iterdir()):
        if (match := _NAME.fullmatch(path.name)) is None:
            continue
        try:
            file = StoredFile(path)
        except CdpError as error:
            report.damage(path.name, str(error))
            continue
        try:
            item = _item_of(file, folder.name, int(match[1], 16), report)
        finally:
            file.close()
        if item is not None:
            manifest.segments[item.id] = item
            if item.compacted and (manifest.horizon is None or item.last_lsn > manifest.horizon.lsn):
                manifest.horizon = Mark(item.last_lsn, item.last_stamp, item.clock_epoch)
    report.damage(
        "manifest.0",
        f"both copies of the manifest are lost; its list of {len(manifest.segments)} segments was rebuilt from their headers",
    )
    return manifest


def _item_of(file: StoredFile, volume: str, number: int, report: Report) -> SegmentItem | None:
    header = read_file_header(file, SEGMENT_MAGIC)
    if header.problem:
        report.damage(file.name, f"left out: header: {header.problem}, so its nonce is not known", segment=number)
        return None
    if (header.volume, header.number) != (volume, number):
        report.damage(file.name, f"left out: a foreign file: number {header.number} of volume {header.volume}")
        return None
    unsealed = SegmentItem(number, False, header.nonce, header.epoch)
    trailer = IndexFile(file, header.nonce.to_bytes(8, "little"), Report()).trailer(b"CDPFOOT1")
    if trailer is None:
        return unsealed
    compacted = header.version == COMPACTED_VERSION
    return SegmentItem(
        number,
        True,
        header.nonce,
        header.epoch,
        trailer.clock_epoch,
        first_lsn=trailer.first_lsn,
        last_lsn=trailer.last_lsn,
        first_stamp=trailer.first_stamp,
        last_stamp=trailer.last_stamp,
        footer_offset=trailer.index_offset,
        file_bytes=file.size,
        previous_lsn=trailer.first_lsn - 1 if compacted else _previous_lsn(file, unsealed, trailer.index_offset),
        compacted=compacted,
    )


def _previous_lsn(file: StoredFile, item: SegmentItem, end: int) -> int:
    segment = Segment(item, Lineage(""), file)
    scan(segment)
    before = [batch.previous_lsn for batch in segment.batches if batch.offset < end]
    return before[0] if before else 0

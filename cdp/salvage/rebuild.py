"""The list of files where both manifests are lost: from the segments' own headers and trailers.

A segment with a valid trailer counts as sealed, any other as open; they come in the order of their ids. A file that the
manifest had dropped cannot be told from one that it named, so the result may hold more than the manifest did.
Checkpoints are left out: they are not needed.
"""

from __future__ import annotations

import re
from pathlib import Path

from cdp.errors import CdpError
from cdp.salvage.files import PAGE, StoredFile
from cdp.salvage.index import IndexFile
from cdp.salvage.manifest import Manifest, SegmentItem
from cdp.salvage.report import Report
from cdp.salvage.segment import Segment, read_file_header, scan

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
    report.damage(
        "manifest.0",
        f"both copies of the manifest are lost; its list of {len(manifest.segments)} segments was rebuilt from their headers",
    )
    return manifest


def _item_of(file: StoredFile, volume: str, number: int, report: Report) -> SegmentItem | None:
    header = read_file_header(file.read(0, PAGE), b"CDPSEG01")
    if header is None or header.problem:
        problem = header.problem if header else "it is shorter than a page"
        report.damage(file.name, f"left out: {problem}, so its nonce is not known", segment=number)
        return None
    if (header.volume, header.number) != (volume, number):
        report.damage(file.name, f"left out: a foreign file: number {header.number} of volume {header.volume}")
        return None
    unsealed = SegmentItem(number, False, header.nonce, header.epoch)
    trailer = IndexFile(file, header.nonce.to_bytes(8, "little"), Report()).trailer(b"CDPFOOT1")
    if trailer is None:
        return unsealed
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
        previous_lsn=_previous_lsn(file, unsealed, trailer.index_offset),
    )


def _previous_lsn(file: StoredFile, item: SegmentItem, end: int) -> int:
    segment = Segment(item, file)
    scan(segment)
    before = [batch.previous_lsn for batch in segment.batches if batch.offset < end]
    return before[0] if before else 0

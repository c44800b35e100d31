"""Every checksum of every file of a volume, and whether what is stored twice says the same."""

from __future__ import annotations

import re
from collections.abc import Iterator
from pathlib import Path

from cdp.salvage.batch import CONTROL, DATA, Batch, PayloadError
from cdp.salvage.checkpoint import check_checkpoint
from cdp.salvage.compacted import ACTIVITY
from cdp.salvage.extents import ExtentMap
from cdp.salvage.files import PAGE, StoredFile
from cdp.salvage.footer import check_footer
from cdp.salvage.hints import Thinned, thinned
from cdp.salvage.items import CheckpointItem, RunItem
from cdp.salvage.recovery import Kept
from cdp.salvage.report import DAMAGE, Finding, Report
from cdp.salvage.runfile import check_run
from cdp.salvage.segment import Segment
from cdp.salvage.volume import Volume, open_volume

_ATTEMPTS = 10
_FIXED_NAMES = ("volume.0", "volume.1", "manifest.0", "manifest.1", "lock", "reserve", "verify.json")
_JOURNAL_NAME = re.compile(r"(segment|checkpoint|run)-[0-9a-f]{8}")


def check_volume(folder: Path) -> Report:
    """What `checked_volume` finds."""
    return checked_volume(folder).report


def checked_volume(folder: Path) -> Volume:
    """Checks a volume; its `report` has the findings, its files are closed. Raises what open_volume raises.

    Beside a running writer, damage is believed when it is found twice.
    """
    before: set[Finding] = set()
    for _ in range(_ATTEMPTS):
        volume = open_volume(folder)
        try:
            _check(volume)
        finally:
            volume.close()
        damage = {finding for finding in volume.report.findings if finding.severity == DAMAGE}
        if damage == before or (volume.manifest.clean and volume.unchanged()):
            break
        before = damage
    return volume


def _check(volume: Volume) -> None:
    for piece in volume.journal.pieces:
        if isinstance(piece, Kept):
            _check_piece(volume, piece)
    for segment in volume.journal.segments.values():
        _check_echoes(segment, volume)
        if segment.item.sealed:
            check_footer(segment, volume.journal, volume.history, volume.report)
    may_lack = thinned(volume.journal, volume.history.horizon.lsn)
    for item in volume.manifest.runs.values():
        if (file := _file(volume, item)) is not None:
            check_run(volume, item, file, may_lack)
    _check_checkpoints(volume, may_lack)
    _check_folder(volume)


def _check_piece(volume: Volume, piece: Kept) -> None:
    segment = piece.segment
    for entry in piece.entries():
        try:
            if entry.kind == DATA:
                volume.content(entry)
            elif entry.kind in (CONTROL, ACTIVITY):
                segment.payload(entry)
        except PayloadError as error:
            where = (entry.start, entry.sectors) if entry.kind == DATA else (None, None)
            volume.report.damage(
                segment.name, str(error), segment=segment.item.id, lsn=entry.lsn, start=where[0], sectors=where[1]
            )


def _check_echoes(segment: Segment, volume: Volume) -> None:
    """Each batch with records is echoed once, in the next batch whose header lies in a page behind its directory's last."""
    if segment.troubles:
        return
    batches = [batch for batch in segment.batches if _counts(segment, batch, volume)]
    kept = {batch.offset for batch in batches}
    found = [(echoed.offset, holder.offset) for echoed, holder in segment.echoes if echoed.entry_count]
    missing = sorted(set(_owed_echoes(batches)) - set(found))
    wrong = sorted({pair for pair in found if set(pair) <= kept} - set(_owed_echoes(batches)))
    for text, pairs in (("is not in", missing), ("does not belong in", wrong)):
        for offset, holder in pairs:
            said = f"the echo of the batch at {offset} {text} the batch at {holder}"
            if segment.item.sealed or volume.manifest.clean:
                volume.report.damage(segment.name, said, segment=segment.item.id)
            else:  # a crash may have lost an empty batch
                volume.report.note(segment.name, said, segment=segment.item.id)


def _owed_echoes(batches: list[Batch]) -> Iterator[tuple[int, int]]:
    at = 0
    for batch in batches:
        last_page = (batch.directory_end - 1) // PAGE
        while at < len(batches) and batches[at].offset // PAGE <= last_page:
            at += 1
        if at < len(batches) and batch.entry_count:
            yield batch.offset, batches[at].offset


def _counts(segment: Segment, batch: Batch, volume: Volume) -> bool:
    cut = volume.journal.cut_lsn
    return segment.owns(batch) and (segment.item.sealed or cut is None or batch.last_lsn < cut)


def _check_checkpoints(volume: Volume, may_lack: Thinned) -> None:
    extents, done = ExtentMap(), 0
    for item in sorted(volume.manifest.checkpoints.values(), key=lambda item: item.lsn):
        if not volume.history.path(item.lsn).holds(done):  # a rollback led away from what the map shows
            extents, done = ExtentMap(), 0
        for entry in volume.entries_at(item.lsn, behind=done):
            extents.apply(entry)
        done = item.lsn
        if (file := _file(volume, item)) is not None:
            check_checkpoint(volume, item, file, extents, may_lack)


def _file(volume: Volume, item: CheckpointItem | RunItem) -> StoredFile | None:
    file = volume.files[item.file_name]
    if file is None:
        volume.report.damage(item.file_name, "the manifest names it, but there is no such file")
    return file


def _check_folder(volume: Volume) -> None:
    for path in sorted(volume.folder.iterdir()):
        if path.name in volume.files or path.name in _FIXED_NAMES:
            continue
        if path.name.endswith(".tmp") or _JOURNAL_NAME.fullmatch(path.name):
            volume.report.note(path.name, "the manifest does not name it, as a crash leaves it or a writer is about to")
        else:
            volume.report.note(path.name, "no file of the format")

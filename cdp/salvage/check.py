"""Every checksum of every file of a volume, and whether what is stored twice says the same."""

from __future__ import annotations

import re
from pathlib import Path

from cdp.errors import NotFound
from cdp.salvage.batch import CONTROL, DATA, Batch, PayloadError, checked_payload, rule_broken
from cdp.salvage.checkpoint import check_checkpoint
from cdp.salvage.extents import ExtentMap
from cdp.salvage.files import PAGE, StoredFile
from cdp.salvage.footer import check_footer
from cdp.salvage.manifest import CheckpointItem
from cdp.salvage.recovery import Kept
from cdp.salvage.report import Report
from cdp.salvage.segment import Segment
from cdp.salvage.volume import Volume, open_volume

_ATTEMPTS = 3
_FIXED_NAMES = ("volume.0", "volume.1", "manifest.0", "manifest.1", "lock")
_JOURNAL_NAME = re.compile(r"(segment|checkpoint)-[0-9a-f]{8}")


def check_volume(folder: Path) -> Report:
    """Checks a volume. Where a running writer reused a file meanwhile, checks anew. Raises what open_volume raises."""
    for _ in range(_ATTEMPTS):
        volume = open_volume(folder)
        try:
            _check(volume)
            if not volume.report.damaged or volume.unchanged():
                break
        finally:
            volume.close()
    return volume.report


def _check(volume: Volume) -> None:
    for piece in volume.journal.pieces:
        if isinstance(piece, Kept):
            _check_piece(volume, piece)
    for segment in volume.journal.segments.values():
        _check_end(segment, volume)
        _check_echoes(segment, volume)
        if segment.item.sealed:
            check_footer(segment, volume.journal, volume.history, volume.report)
    _check_checkpoints(volume)
    _check_folder(volume)


def _check_piece(volume: Volume, piece: Kept) -> None:
    segment = piece.segment
    directory = segment.directory(piece.batch)
    if broken := rule_broken(piece.batch, directory):
        text = f"batch at {piece.batch.offset}: {broken}"
        volume.report.damage(segment.name, text, segment=segment.item.id, lsn=piece.batch.first_lsn)
    for entry in piece.entries():
        try:
            if entry.kind == DATA:
                volume.content(entry)
            elif entry.kind == CONTROL and segment.file is not None:
                checked_payload(segment.file, segment.nonce, entry)
        except PayloadError as error:
            where = (entry.start, entry.sectors) if entry.kind == DATA else (None, None)
            volume.report.damage(
                segment.name, str(error), segment=segment.item.id, lsn=entry.lsn, start=where[0], sectors=where[1]
            )


def _check_end(segment: Segment, volume: Volume) -> None:
    """A sealed segment's footer follows its last batch; a page between them held a batch that is lost."""
    end = max((batch.end for batch in segment.batches if _counts(segment, batch, volume)), default=PAGE)
    if segment.item.sealed and end + PAGE <= segment.item.footer_offset:
        text = f"no valid batch between {end} and the footer at {segment.item.footer_offset}"
        volume.report.damage(segment.name, text, segment=segment.item.id)


def _check_echoes(segment: Segment, volume: Volume) -> None:
    """Each batch is echoed once, in the next batch whose header lies in a page behind its directory's last."""
    if any(trouble for trouble in segment.troubles):
        return
    batches = [batch for batch in segment.batches if _counts(segment, batch, volume)]
    kept = {batch.offset for batch in batches}
    found = sorted((echoed.offset, holder.offset) for echoed, holder in segment.echoes if holder.offset in kept)
    wanted = []
    at = 0
    for batch in batches:
        last_page = (batch.directory_end - 1) // PAGE
        while at < len(batches) and batches[at].offset // PAGE <= last_page:
            at += 1
        if at < len(batches):
            wanted.append((batch.offset, batches[at].offset))
    for offset, holder in sorted(set(wanted) ^ set(found)):
        text = f"the echo of the batch at {offset} is not, once, in the batch at {holder}"
        volume.report.damage(segment.name, text, segment=segment.item.id)


def _counts(segment: Segment, batch: Batch, volume: Volume) -> bool:
    last = segment.item.last_lsn if segment.item.sealed else (volume.journal.cut_lsn or 1 << 64) - 1
    return batch.first_lsn <= last or (not batch.entry_count and batch.previous_lsn <= last)


def _check_checkpoints(volume: Volume) -> None:
    extents = ExtentMap()
    entries = volume.journal.entries()
    waiting = next(entries, None)
    for item in sorted(volume.manifest.checkpoints.values(), key=lambda item: item.lsn):
        while waiting is not None and waiting.lsn <= item.lsn:
            extents.apply(waiting)
            waiting = next(entries, None)
        _check_one(volume, item, extents)


def _check_one(volume: Volume, item: CheckpointItem, extents: ExtentMap) -> None:
    try:
        file = StoredFile(volume.folder / item.file_name)
    except NotFound:
        volume.report.damage(item.file_name, "the manifest names it, but there is no such file")
        return
    try:
        check_checkpoint(volume, item, file, extents)
    finally:
        file.close()


def _check_folder(volume: Volume) -> None:
    manifest = volume.manifest
    named = {item.file_name for item in manifest.segments.values()}
    named |= {item.file_name for item in manifest.checkpoints.values()}
    for path in sorted(volume.folder.iterdir()):
        if path.name in named or path.name in _FIXED_NAMES:
            continue
        if path.name.endswith(".tmp") or _JOURNAL_NAME.fullmatch(path.name):
            volume.report.note(path.name, "the manifest does not name it, as a crash leaves it or a writer is about to")
        else:
            volume.report.note(path.name, "no file of the format")

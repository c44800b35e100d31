"""A volume opened for looking: description, manifest, segments, journal, timeline.

Every segment is opened before any is read and stays open, so that a running writer cannot take one away meanwhile. A
file that it dropped between the manifest and the opening is told by a manifest that has changed: then all is read anew.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from cdp.errors import NotFound
from cdp.salvage.batch import Entry, content_of
from cdp.salvage.catalog import Description, read_description
from cdp.salvage.files import StoredFile
from cdp.salvage.header import SEGMENT_MAGIC, is_own_file
from cdp.salvage.history import History, read_history
from cdp.salvage.manifest import Manifest, read_manifest
from cdp.salvage.rebuild import rebuild_manifest
from cdp.salvage.recovery import Journal, recover
from cdp.salvage.report import Report
from cdp.salvage.scan import scan
from cdp.salvage.segment import Segment

_ATTEMPTS = 5


@dataclass(slots=True)
class Volume:
    """A volume, open for reading; `report` holds what was found on the way."""

    folder: Path
    report: Report
    description: Description
    manifest: Manifest
    journal: Journal
    history: History

    def content(self, entry: Entry) -> bytes:
        """What a data entry wrote. Raises batch.PayloadError."""
        segment = self.journal.segments[entry.segment]
        assert segment.file is not None, "an entry was read from this file"
        return content_of(segment.file, segment.volume_nonce, entry)

    def unchanged(self) -> bool:
        """Whether the manifest still names the same files, so that what was read is no reused file's."""
        manifest = read_manifest(self.folder, self.description.size, Report())
        return manifest is None or manifest.segments.items() >= self._fixed_items()

    def _fixed_items(self) -> set[tuple[int, object]]:
        return {(number, item) for number, item in self.manifest.segments.items() if item.sealed}

    def close(self) -> None:
        """Closes the files."""
        _close(list(self.journal.segments.values()))


def open_volume(folder: Path) -> Volume:
    """Opens a volume. Raises Corrupt without a valid description, Invalid for a later format, Io."""
    for attempt in range(_ATTEMPTS):
        report = Report()
        description = read_description(folder, report)
        manifest = read_manifest(folder, description.size, report) or rebuild_manifest(folder, report)
        segments = [_open_segment(folder, item_number, manifest, report) for item_number in sorted(manifest.segments)]
        missing = any(segment.file is None for segment in segments)
        if not missing or attempt == _ATTEMPTS - 1 or _same(folder, description, manifest):
            break
        _close(segments)
    for segment in segments:
        scan(segment)
    state = manifest.state
    journal = recover(segments, state.lsn_floor if state and state.clean else None, report)
    history = read_history(journal, description.size, description.created, report)
    return Volume(folder, report, description, manifest, journal, history)


def _same(folder: Path, description: Description, manifest: Manifest) -> bool:
    again = read_manifest(folder, description.size, Report())
    return manifest.rebuilt or again is None or again.segments == manifest.segments


def _open_segment(folder: Path, number: int, manifest: Manifest, report: Report) -> Segment:
    item = manifest.segments[number]
    volume = bytes.fromhex(folder.name)
    try:
        file = StoredFile(folder / item.file_name)
    except NotFound:
        report.damage(item.file_name, "the manifest names it, but there is no such file", segment=number)
        return Segment(item, volume, None)
    if not is_own_file(file, SEGMENT_MAGIC, folder.name, number, item.nonce, report):
        file.close()
        return Segment(item, volume, None)
    return Segment(item, volume, file)


def _close(segments: list[Segment]) -> None:
    for segment in segments:
        if segment.file is not None:
            segment.file.close()

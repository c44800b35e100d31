"""A volume opened for looking: description, manifest, segments, journal, timeline.

Every file that the manifest names is opened before any is read and stays open, so that a running writer cannot take one
away meanwhile. A file that it dropped between the manifest and the opening (compaction replaces segments, merges replace
runs) is told by a manifest that has changed: then all is read anew.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from cdp.errors import NotFound
from cdp.salvage.batch import Entry, content_of
from cdp.salvage.catalog import Description, read_description
from cdp.salvage.files import StoredFile
from cdp.salvage.header import SEGMENT_MAGIC, is_own_file
from cdp.salvage.history import History, read_history
from cdp.salvage.items import Manifest, SegmentItem
from cdp.salvage.lineage import Lineage
from cdp.salvage.manifest import read_manifest
from cdp.salvage.rebuild import rebuild_manifest
from cdp.salvage.recovery import Journal, recover
from cdp.salvage.report import Report
from cdp.salvage.scan import scan
from cdp.salvage.segment import Segment

_ATTEMPTS = 20

Files = dict[str, StoredFile | None]  # by name; None for one that the manifest names and that is not there


@dataclass(slots=True)
class Volume:
    """A volume, open for reading; `report` holds what was found on the way."""

    folder: Path
    report: Report
    description: Description
    manifest: Manifest
    lineage: Lineage
    files: Files
    journal: Journal
    history: History

    def content(self, entry: Entry) -> bytes:
        """What a data entry wrote. Raises batch.PayloadError."""
        segment = self.journal.segments[entry.segment]
        assert segment.file is not None, "an entry was read from this file"
        return content_of(segment.file, self.lineage.payload_nonce(entry.lsn), entry)

    def entries_at(self, lsn: int, behind: int = 0) -> Iterator[Entry]:
        """The entries on the path of an LSN, in the order in which they cover each other; those behind an LSN."""
        path = self.history.path(lsn)
        for piece in self.journal.pieces:
            if path.meets(max(piece.first_lsn, behind + 1), piece.last_lsn):
                yield from (entry for entry in piece.entries() if entry.lsn > behind and path.holds(entry.lsn))

    def unchanged(self) -> bool:
        """Whether the manifest still names the same files, so that what was read is no reused file's."""
        manifest = read_manifest(self.folder, self.description.size, Report())
        return manifest is None or manifest.segments.items() >= self._fixed_items()

    def _fixed_items(self) -> set[tuple[int, object]]:
        return {(number, item) for number, item in self.manifest.segments.items() if item.sealed}

    def close(self) -> None:
        """Closes the files."""
        _close(self.files)


def open_volume(folder: Path) -> Volume:
    """Opens a volume. Raises Corrupt without a valid description, Invalid for a later format, Io."""
    for attempt in range(_ATTEMPTS):
        report = Report()
        description = read_description(folder, report)
        manifest = read_manifest(folder, description.size, report) or rebuild_manifest(folder, report)
        files = _open_files(folder, manifest)
        if None not in files.values() or attempt == _ATTEMPTS - 1 or _same(folder, description, manifest):
            break
        _close(files)
    ancestors = sorted(manifest.ancestors.values(), key=lambda ancestor: ancestor.floor_lsn)
    lineage = Lineage(folder.name, tuple(ancestors))
    segments = [_segment(item, files, lineage, report) for _, item in sorted(manifest.segments.items())]
    for segment in segments:
        scan(segment)
    state = manifest.state
    horizon_lsn = manifest.horizon.lsn if manifest.horizon else 0
    journal = recover(segments, lineage, horizon_lsn, state.lsn_floor if state and state.clean else None, report)
    history = read_history(journal, lineage, manifest, description.size, description.created, report)
    return Volume(folder, report, description, manifest, lineage, files, journal, history)


def _same(folder: Path, description: Description, manifest: Manifest) -> bool:
    again = read_manifest(folder, description.size, Report())
    return manifest.rebuilt or again is None or _named(again) == _named(manifest)


def _named(manifest: Manifest) -> list[str]:
    """The names of the files that make up the volume's journal."""
    names = [item.file_name for item in manifest.segments.values()]
    names += [item.file_name for item in manifest.checkpoints.values()]
    return names + [item.file_name for item in manifest.runs.values()]


def _open_files(folder: Path, manifest: Manifest) -> Files:
    files: Files = {}
    for name in _named(manifest):
        try:
            files[name] = StoredFile(folder / name)
        except NotFound:
            files[name] = None
    return files


def _segment(item: SegmentItem, files: Files, lineage: Lineage, report: Report) -> Segment:
    file = files[item.file_name]
    if file is None:
        report.damage(item.file_name, "the manifest names it, but there is no such file", segment=item.id)
    elif not is_own_file(
        file,
        SEGMENT_MAGIC,
        {lineage.writer(item.first_lsn) if item.sealed else lineage.volume},
        item.id,
        item.nonce,
        report,
    ):
        file = None
    return Segment(item, lineage, file)


def _close(files: Files) -> None:
    for file in files.values():
        if file is not None:
            file.close()

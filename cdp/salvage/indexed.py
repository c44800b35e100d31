"""The footer as a third copy: records of a sealed segment whose directory is lost together with its echo.

The run says where each payload lies and what it covers, and CTRL holds the control records; only their stamps are not
known, so they get the earliest that is possible. It is believed as a whole or not at all: with a block missing, nobody
knows what else there was.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

from cdp.salvage import sections
from cdp.salvage.batch import Entry
from cdp.salvage.index import IndexFile
from cdp.salvage.report import Report
from cdp.salvage.segment import Segment


@dataclass(frozen=True, slots=True)
class Indexed:
    """The records at LSNs first..last, as far as the footer has them; `controls` are (LSN, stamp, JSON bytes).

    `stamp`: the earliest that the first one can have.
    """

    segment: Segment
    first_lsn: int
    last_lsn: int
    stamp: int
    found: tuple[Entry, ...]
    controls: tuple[tuple[int, int, bytes], ...]
    clock_epoch: int

    def entries(self) -> Iterator[Entry]:
        """The entries in the order of their LSNs, without control records."""
        return iter(self.found)


def read_indexed(segment: Segment, first_lsn: int, last_lsn: int, stamp: int) -> Indexed | None:
    """The records first..last of a sealed segment from its footer; None where that is damaged, too."""
    item = segment.item
    if segment.file is None or not item.sealed or not item.first_lsn <= first_lsn <= last_lsn <= item.last_lsn:
        return None
    report = Report()
    index = IndexFile(segment.file, segment.nonce, report)
    trailer = index.trailer(b"CDPFOOT1")
    if trailer is None or trailer.index_offset != item.footer_offset:
        return None
    blocks = index.blocks(trailer.index_offset, trailer.narrow_blocks + trailer.wide_blocks)
    bodies = index.sections(trailer.sections_offset, sections.FOOTER_TAGS).bodies
    if report.damaged:
        return None
    entries = sorted(
        Entry(e.lsn, stamp, e.kind, e.start, e.sectors, e.offset, e.stored, item.id)
        for block in blocks
        for e in block or ()
        if first_lsn <= e.lsn <= last_lsn
    )
    controls = [row for row in sections.controls(bodies[b"CTRL"]) if first_lsn <= row[0] <= last_lsn]
    return Indexed(segment, first_lsn, last_lsn, stamp, tuple(entries), tuple(controls), item.clock_epoch)

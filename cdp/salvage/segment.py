"""One segment of the journal, open for reading, with the batches that were found in it."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, field

from cdp.salvage.batch import HEADER_BYTES, Batch, Entry, checked_payload, entries_of
from cdp.salvage.compacted import PackedBatch
from cdp.salvage.files import PAGE, StoredFile
from cdp.salvage.items import SegmentItem
from cdp.salvage.lineage import Lineage


@dataclass(frozen=True, slots=True)
class Trouble:
    """Something wrong with a batch, to be judged when the last durable LSN is known.

    It is damage at or below the last LSN of a sealed segment (`lsn`), at or below the durable LSN of an open one
    (`open_lsn`); above, it is what a crash leaves.
    """

    text: str
    lsn: int
    open_lsn: int


@dataclass(slots=True)
class Segment:
    """A segment. `file` is None where it is missing or foreign.

    `batches`, or `packed` of a compacted segment, stand in the order of their offsets; `echoes` pairs each echoed batch
    with the one that holds its echo.
    """

    item: SegmentItem
    lineage: Lineage
    file: StoredFile | None
    batches: list[Batch] = field(default_factory=list)
    packed: list[PackedBatch] = field(default_factory=list)
    echoes: list[tuple[Batch, Batch]] = field(default_factory=list)
    troubles: list[Trouble] = field(default_factory=list)

    @property
    def name(self) -> str:
        """The file's name."""
        return self.item.file_name

    @property
    def nonce(self) -> bytes:
        """The segment nonce, as it enters checksums."""
        return self.item.nonce.to_bytes(8, "little")

    @property
    def batches_end(self) -> int:
        """Where batches end at the latest: at the footer of a sealed segment, else with the page in which the file ends."""
        size = self.file.size if self.file else 0
        return min(self.item.footer_offset, size) if self.item.sealed else -(-size // PAGE) * PAGE

    def read(self, offset: int, count: int) -> bytes:
        """Up to `count` bytes before `batches_end`. What the last page of an open segment lacks is zeros, which the footer makes of it."""
        if self.file is None:
            return b""
        found = self.file.read(offset, count)
        return found.ljust(min(count, max(self.batches_end - offset, 0)), b"\0")

    def directory(self, batch: Batch) -> bytes:
        """The directory of one of this segment's batches."""
        if batch.directory is not None or self.file is None:
            return batch.directory or b""
        start = batch.offset + HEADER_BYTES
        return self.read(start, batch.directory_end - start)

    def entries(self, batch: Batch | PackedBatch) -> Iterator[Entry]:
        """The entries of one of this segment's batches."""
        if isinstance(batch, Batch):
            return entries_of(batch, self.directory(batch))
        assert self.file is not None, "the batch was read from it"
        return batch.read_entries(self.file)

    def payload(self, entry: Entry) -> bytes:
        """The stored bytes of an entry's payload, behind its checksum. Raises PayloadError."""
        assert self.file is not None, "the entry was read from it"
        return checked_payload(self.file, self.lineage.payload_nonce(entry.lsn), entry)

    def owns(self, batch: Batch) -> bool:
        """Whether a batch of a sealed segment counts; a recovery leaves behind it what it cut."""
        item = self.item
        if not item.sealed:
            return True
        if not batch.entry_count:
            return item.previous_lsn <= batch.previous_lsn <= item.last_lsn
        return batch.first_lsn <= item.last_lsn and batch.last_lsn >= item.first_lsn

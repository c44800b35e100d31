"""The data plane. Conversions only: what the calls mean is said in native/engine and native/nbd.

Every call that may wait releases the GIL. Errors are those of `cdp.errors`, one class a kind. Stamps are nanoseconds since 1970 (int).
"""

from collections.abc import Callable, Sequence
from typing import Any, Protocol, TypedDict, final

class OriginReader(Protocol):
    """What an origin that Python reads (an NBD export, through libnbd) offers to the engine."""

    def size(self) -> int: ...
    def pread(self, length: int, offset: int) -> bytes | bytearray: ...

def format_version() -> int: ...
def create(folder: str, volume_id: bytes, size: int, created: int) -> None:
    """Lays an empty journal (both manifests) into an existing folder."""

@final
class Instant:
    """A state of the volume: the one after the record `lsn` (0: before the first)."""

    lsn: int
    stamp: int
    """Of the record; of the creation for LSN 0."""
    clock_epoch: int
    other: int | None
    """For a time that two clock epochs hold: the LSN in the older one."""

@final
class Volume:
    @staticmethod
    def open(
        folder: str,
        *,
        read_only: bool = False,
        origin_path: str | None = None,
        origin_reader: OriginReader | None = None,
        cache_bytes: int = 134217728,
    ) -> Volume:
        """Opens the journal; a writer takes the lock (Busy) and recovers. `read_only` changes nothing on disk and needs no lock."""

    def close(self) -> None:
        """Appends what was admitted, seals, writes the clean manifest, lets go of the lock. Later calls fail with Closed. Idempotent."""

    @property
    def size(self) -> int: ...
    @property
    def read_only(self) -> bool: ...
    def status(self) -> dict[str, int | str | bool | None]:
        """size, created, epoch, clock_epoch, oldest_lsn, oldest_stamp, latest_lsn, latest_stamp, durable_lsn, segments, payloads, payloads_raw (data payloads written since the opening, and those stored as they are), journal_bytes (on disk, all files),
        poisoned (reason or None), ring_bytes, ring_bytes_max, ring_requests, ring_requests_max (what waits to be appended, and its bounds), read_only, clean (stopped cleanly before this opening), cached_extents, cached_bytes."""

    def latest(self) -> Instant: ...
    def oldest(self) -> Instant: ...
    def instant_of_lsn(self, lsn: int) -> Instant:
        """NotFound, naming the reachable range, for an LSN that no record has."""

    def instant_at(self, stamp: int) -> Instant:
        """The state at a time, waiting until all records stamped at or before it are visible. NotFound, naming the range, before creation or in the future."""

    def view(self, lsn: int) -> View: ...
    def live(self) -> View: ...
    def write(self, offset: int, data: bytes) -> int:
        """Admits and commits; the LSN."""

    def zero(self, offset: int, length: int, trim: bool = False) -> int: ...
    def flush(self) -> None: ...
    def append_control(self, document: bytes) -> int:
        """Appends a control record (JSON) and makes it durable; its LSN."""

    def controls(self) -> list[tuple[int, int, bytes]]:
        """(LSN, stamp, JSON) of every control record, ascending."""

    def activity(self, since_lsn: int, until_lsn: int) -> list[tuple[int, int, int, int, int]]:
        """(minute since 1970, data records, zero and trim records, raw bytes, stored bytes), of the records after `since_lsn` up to `until_lsn`, ascending."""

    def timeline(
        self, since_lsn: int, until_lsn: int, length: int
    ) -> tuple[int, list[tuple[int, int, int, int, int, int | None, int, int | None]]]:
        """The length of an interval in nanoseconds (a minute at least where some of the time was compacted), and by interval (stamp of its begin, data records, zero and trim records, raw bytes, stored bytes, distinct bytes or None
        where there are too many entries to tell, flush points, LSN of the last one), of the records after `since_lsn` up to `until_lsn`, ascending. Silent ones are left out.
        Invalid if that makes too many."""

    def stamps(self, lsns: list[int]) -> list[tuple[int, int]]:
        """(LSN, stamp) of those of the records, ascending, that the journal has."""

    def flush_points(self, since_lsn: int, until_lsn: int) -> list[int]: ...
    def rollback(self, to_lsn: int) -> int:
        """The live volume becomes what it was at `to_lsn`; durable. The LSN of the rollback. NotFound if that instant cannot be reached."""

    def last_rollback(self) -> tuple[int, int]:
        """(LSN of the newest rollback of this timeline, LSN of the record before it: where an undo goes back to). NotFound if there was none."""

    def fork(self, base: int, folder: str, new_id: bytes, created: int) -> None:
        """Lays a clone of the instant `base` into an empty folder of the same file system: hard links and a manifest, durable. NotFound if it cannot be reached;
        Invalid if the volume is open for looking only and was not closed cleanly."""

    def resize(self, size: int) -> int | None:
        """Makes the volume larger, to `size` bytes; durable. The LSN of the record; None: it has that size. Invalid for less, and for what no volume can have."""

    def branches(self) -> list[tuple[int, int]]:
        """(LSN, LSN gone back to) of every rollback, and of the branch that a clone begins with; ascending."""

    def retain(self, horizon_lsn: int, points: list[int]) -> None:
        """From now on the instants are: every record from the horizon on, the points below it, and what is held. One durable commit. The horizon never goes back, and not above what is durable."""

    def reach(self) -> dict[str, Any]:
        """horizon (LSN), horizon_stamp, settled (the LSN above which no horizon can lie yet), points: [(LSN, stamp, clock epoch)] ascending."""

    def compact(self, max_bytes: int = 0) -> dict[str, int]:
        """One cycle of compaction: rewrites the segments below the horizon that give back most until `max_bytes` are free; with 0, those that are at least half dead.
        segments_in, segments_out, written, freed (bytes of files), dead (bytes that rewriting more would free)."""

    def pins(self) -> list[tuple[int, int]]:
        """(LSN, holders) of the instants that open views hold, ascending."""

    def close_views(self, lsn: int) -> int:
        """Takes an instant away from who holds it: their reads fail (Io) from now on. How many there were."""

    def space(self) -> dict[str, Any]:
        """What the volume is charged and what holds writes back, in bytes: used (of a clone: what only it holds), budget, soft, hard (where delay begins,
        where writes wait or fail; None: no bound is known), segments_bytes, index_bytes, manifest_bytes, shared (files that another volume holds too), dead (what
        no instant needs, by compaction's last look), looked_at (the horizon and the number of points of that look), reserve (kept free of the budget), reserve_file (kept free on the disk); written since opening:
        foreground_bytes, compaction_bytes, index_written_bytes; delayed_ns; stalled (writes wait for room now); disk_full. A system call for each file."""

    def set_budget(self, budget: int | None, policy: str) -> None:
        """Bytes that the volume's files may have, and `drop-oldest`, `stall` or `fail` (Invalid for another). At once, for this opening."""

    def faults(self) -> list[str]:
        """Damage and anomalies that opening met: one sentence each."""

    def verify(self, progress: Callable[[int, int], None] | None = None) -> list[dict[str, int | str | None]]:
        """Checks every byte of the volume's journal and index: findings {file, what, segment, lsn, offset, length, repairable, until_lsn, live}. `progress(done_bytes, total_bytes)`."""

    def scrub(
        self,
        tell: Callable[[int, int, tuple[int, int, int], list[dict[str, int | str | None]]], None],
        position: tuple[int, int, int] = (0, 0, 0),
        reads: Callable[[int], None] | None = None,
    ) -> None:
        """The same from a position on. `tell(done_bytes, total_bytes, position, findings)` after each file; `reads(bytes)` as they come from the disk: who wants it slower
        sleeps in there. What either raises ends the work, at the end of the file at the latest."""

class Restored(TypedDict):
    """What `View.restore` did. `cleared_bytes`: made zeros without being written. `faults`: (offset, bytes, why) of what could not be read, the first 1,000."""

    written_bytes: int
    cleared_bytes: int
    found_done_bytes: int
    fault_bytes: int
    faults: list[tuple[int, int, str]]

@final
class View:
    @property
    def size(self) -> int: ...
    @property
    def lsn(self) -> int | None: ...
    def read(self, offset: int, length: int) -> bytes:
        """Corrupt, naming place and extent, where a block cannot be read."""

    def extents(self, offset: int, length: int) -> list[tuple[int, bool]]:
        """(bytes, zero) from `offset` on, covering `length`."""

    def restore(
        self,
        fd: int,
        report: Callable[[tuple[int, int, int] | None, int, int], None] | None = None,
        *,
        ranges: Sequence[tuple[int, int]] | None = None,
        done: Sequence[tuple[int, int, int]] = (),
    ) -> Restored:
        """Makes the file or device, open for reading and writing and at least as large, hold the view from offset 0 on; writes only where it differs.
        No fsync. Zeros stand where a block cannot be read.

        `report(stretch, handled_bytes, total_bytes)` is called from this thread; a stretch (start, end, sum) is written when it is told of. An exception ends the work.
        `done`: stretches of an earlier restore of this instant, ascending; they are checked by their sums. `ranges` (start, end): nothing else may differ."""

    def changed(self, since: View, offset: int, length: int, most: int = ...) -> list[tuple[int, int]]:
        """(offset, bytes) of what was written in one of the two histories since they parted, inside the range: whole sectors, ascending, neighbours merged. At most `most`, each whole;
        fewer are all. Between views of one volume, or of volumes that share history (else Invalid). Damaged and lost count as changed."""

    def compare(self, fd: int, progress: Callable[[int, int], None] | None = None) -> int | None:
        """The offset of the first byte that differs from the file, or None."""

@final
class Server:
    """The transmission phase for many sessions: a fixed set of native threads over epoll."""

    def __init__(
        self, *, workers: int = 16, memory_bytes: int = 134217728, stall_seconds: float = 30.0, sessions_max: int = 1024
    ) -> None: ...
    def attach(
        self,
        fd: int,
        leftover: bytes,
        export: Volume | View,
        *,
        structured: bool,
        extended: bool,
        contexts: Sequence[tuple[int, str | View]],
        on_end: Callable[[int, str], None] | None = None,
        account: str = "",
        tls: TlsConnection | None = None,
    ) -> int:
        """Takes over a connected socket (the caller gives the descriptor away) after the reply to NBD_OPT_GO or EXPORT_NAME; `leftover`: bytes already read past the handshake.
        `contexts`: (id, `base:allocation`), or (id, a view) for what changed since that instant. A View is read-only; a Volume is writable. `on_end(session, reason)` is called from a native thread. `account`: under what its requests are counted.
        `tls`: spoken over the socket from here on; its handshake is done and its output sent, and `leftover` is decrypted. Returns the session's number."""

    def sessions(self) -> list[dict[str, int | str | bool]]:
        """id, requests, bytes_in, bytes_out, errors, pending_bytes a live session."""

    def totals(self) -> dict[str, int]:
        """sessions (ever), live, requests, bytes_in, bytes_out, errors, memory_bytes in use."""

    def accounts(self) -> dict[str, dict[str, Any]]:
        """By account: sessions (live), errors, and commands: name → (requests, bytes of the volume that they were about, sum of their latencies in nanoseconds, answered requests by latency
        bucket). A latency runs from the last byte of the request to the handing over of its reply to the socket."""

    @staticmethod
    def latency_bounds() -> list[int]:
        """Upper bounds of the buckets but the last, in nanoseconds."""

    def disconnect(self, session: int) -> None:
        """Ends a session: its admitted writes are finished, nothing more is read. Returns when it has ended. Unknown: no error."""

    def stop(self, grace_seconds: float = 5.0) -> None:
        """Reads no more requests, answers the admitted ones, closes all."""

@final
class TlsCredentials:
    def __init__(self, certificates: bytes, key: bytes, client_ca: bytes | None = None) -> None:
        """PEM: the server's certificate and those between it and its authority; its key, without a passphrase; the authorities of clients (None: clients are asked
        for no certificate). Invalid, with what is wrong."""

    def connection(self) -> TlsConnection: ...

@final
class TlsConnection:
    """The server's end of a TLS connection without I/O, until a session takes it over; after that every call fails with Closed."""

    def receive(self, data: bytes) -> bytes:
        """Takes bytes from the wire; the plain bytes in them. Invalid where the client is refused or breaks the protocol: `output` then has what it is to be told, and nothing else may be called."""

    def send(self, data: bytes) -> None:
        """Takes plain bytes to send."""

    def close(self) -> None:
        """Says that no more will be sent."""

    def output(self) -> bytes:
        """Takes what is to be sent over the wire."""

    @property
    def handshaking(self) -> bool: ...
    @property
    def at_end(self) -> bool:
        """The client has said that it sends no more."""

    @property
    def agreed(self) -> str | None:
        """Version and cipher suite."""

    def peer(self) -> tuple[str, list[str]] | None:
        """The client's distinguished name (RFC 4514), and every name that an access rule may call it by: `subject:…`, `cn:…`, `dns:…`, `email:…`, `uri:…`, `sha256:…`. None without a certificate."""

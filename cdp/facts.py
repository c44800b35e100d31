"""What the store tells about itself: plain values, the same whether they come from the daemon or from the files.

Invariants:
- Only values that JSON has; a field that ends in `stamp` is nanoseconds since 1970, one that ends in `bytes` or `size` is bytes.
- The field names are the keys of `--json` and of the control API: adding is allowed, renaming is not.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, fields, is_dataclass
from typing import Any

from cdp.when import rfc3339


@dataclass(frozen=True, slots=True)
class OriginFacts:
    """The disk under a volume; `kind` is file, device or nbd, `identity` what it was recognised by."""

    kind: str
    path: str
    size: int
    identity: str
    changed_stamp: int


@dataclass(frozen=True, slots=True)
class ParentFacts:
    """Whose clone a volume is, and from which instant; `name` as it was then."""

    id: str
    name: str
    lsn: int
    stamp: int


@dataclass(frozen=True, slots=True)
class AttachmentFacts:
    """A block device of this machine, and what it shows: the live volume, or the instant `lsn`, or a scratch view of that.

    `state`: ok; lost, when nothing answers behind it, or what is there cannot open the volume; detached. `mount`: the folder on which `cdp attach --mount` mounts it.
    """

    device: str
    volume_id: str
    volume: str
    lsn: int | None
    stamp: int | None
    scratch_id: str | None
    read_only: bool
    driver: str
    mount: str | None
    state: str
    made_stamp: int


@dataclass(frozen=True, slots=True)
class FileFacts:
    """A file in a file system that an instant shows. `mode` as ls prints it; `changed_stamp`: when its content last did; `link`: where a symbolic link leads."""

    name: str
    mode: str
    uid: int
    gid: int
    size: int
    changed_stamp: int
    link: str | None


@dataclass(frozen=True, slots=True)
class VolumeFacts:
    """A line of `cdp list`. `state`: ok, deleted, failed or damaged; of a damaged volume only id and problems are known, a failed one could not be opened when it was last asked for."""

    id: str
    state: str
    name: str | None = None
    size: int | None = None
    block_size: int | None = None
    created_stamp: int | None = None
    deleted_stamp: int | None = None
    origin: OriginFacts | None = None
    problems: tuple[str, ...] = ()
    parent: ParentFacts | None = None
    attached: tuple[AttachmentFacts, ...] = ()
    """Told by `cdp list` alone."""


@dataclass(frozen=True, slots=True)
class InstantFacts:
    """The state of a volume after the record `lsn`. `other_lsn`: for a time that two clock epochs hold, the LSN in the older one.

    `kept_point`: it stands for a time below the horizon, whose own instant may be gone.
    """

    lsn: int
    stamp: int
    clock_epoch: int
    other_lsn: int | None = None
    kept_point: bool = False


@dataclass(frozen=True, slots=True)
class RollbackFacts:
    """A rollback, the record `lsn`. `before`: the newest record before it, to which an undo goes back; `to`: the instant from which the volume goes on."""

    volume: str
    before: InstantFacts
    to: InstantFacts
    lsn: int
    stamp: int
    connections_ended: int


@dataclass(frozen=True, slots=True)
class ResizeFacts:
    """A volume that was made larger by the record `lsn`; None: it had that size. Sizes in bytes."""

    volume: VolumeFacts
    size_before: int
    lsn: int | None
    stamp: int | None


@dataclass(frozen=True, slots=True)
class ScratchFacts:
    """A scratch view with an ID, of the instant `lsn`; `made_stamp` tells when it was made."""

    id: str
    lsn: int
    stamp: int
    made_stamp: int
    connections: int


@dataclass(frozen=True, slots=True)
class BookmarkFacts:
    """A name for an instant; `lsn` and `stamp` are the instant's, `made_stamp` tells when the name was given."""

    name: str
    lsn: int
    stamp: int
    made_stamp: int
    held: bool = False
    """Never given up for space."""
    expires_stamp: int | None = None
    """When it goes by itself; None: never."""
    common_stamp: int | None = None
    """For one of a group's bookmarks: the instant of all its volumes, at or after `stamp`."""


@dataclass(frozen=True, slots=True)
class EventFacts:
    """Something that happened to the volume, recorded in its journal as record `lsn`."""

    lsn: int
    stamp: int
    event: str
    details: Mapping[str, Any]


@dataclass(frozen=True, slots=True)
class PolicyFacts:
    """What a volume keeps (cdp/retention/policy.py). Spans in seconds, None: for ever; `budget_bytes` None: as much as the disk has."""

    every_write_seconds: int | None
    minutes_seconds: int | None
    hours_seconds: int | None
    days_seconds: int | None
    minimum_seconds: int
    budget_bytes: int | None
    full: str
    thin: bool
    set_stamp: int | None
    """When it was set; None: it is the default."""
    settings: Mapping[str, str]
    """The same as text, as `cdp retention` takes it."""


@dataclass(frozen=True, slots=True)
class PinFacts:
    """Something keeps the instant `lsn`: an open view or a bookmark (`name`). `held_bytes`: what it keeps from being freed, uncompressed and
    at most; None: nothing yet, since it lies above the horizon, or more than was counted."""

    lsn: int
    kind: str
    stamp: int | None = None
    name: str | None = None
    held_bytes: int | None = None


@dataclass(frozen=True, slots=True)
class SpaceFacts:
    """Bytes on disk. `allowed_bytes`: the budget that counts now, the volume's own or its share of the store's; None: the disk's.

    Writes are slowed down above `soft_bytes`, and wait or fail at `hard_bytes`. `dead_bytes`: what compaction could free as things are,
    estimated; `shared_bytes`: in files that clones have too.
    """

    used_bytes: int
    allowed_bytes: int | None
    soft_bytes: int | None
    hard_bytes: int | None
    dead_bytes: int
    shared_bytes: int
    reserve_bytes: int
    disk_free_bytes: int | None
    seconds_until_full: int | None
    """At the pace of the last hour; None: nothing was written, or there is no end in sight."""
    write_amplification: float | None
    """Bytes written to files, by the bytes of clients' writes as they are stored, since the volume was opened; None: nobody wrote."""
    space_amplification: float | None
    """Bytes used, by those that the instants that are kept need at least; None: they need none."""


@dataclass(frozen=True, slots=True)
class RetentionFacts:
    """What `cdp retention` prints: the policy, and what it means now."""

    volume: VolumeFacts
    policy: PolicyFacts
    horizon: InstantFacts
    """From here on every write can be reached."""
    oldest: InstantFacts
    points: int
    """Instants kept below the horizon."""
    promised_seconds: int | None
    """How far back history reaches while there is space; None: to the beginning."""
    reached_seconds: int
    """How far back it reaches now, from the newest record."""
    condition: str
    """ok, slowing (writes are slowed down), stalled (they wait), full (they fail)."""
    shortened: bool
    """History was given up for space, and does not yet reach back as promised again."""
    minimum_broken: bool
    space: SpaceFacts
    pins: tuple[PinFacts, ...]


@dataclass(frozen=True, slots=True)
class StoreVolumeFacts:
    """What a volume, deleted ones included, takes of its store: `used_bytes` in its files, `own_bytes` of them in files that no other volume has."""

    id: str
    name: str | None
    used_bytes: int
    own_bytes: int


@dataclass(frozen=True, slots=True)
class StoreRetentionFacts:
    """What `cdp retention` prints without a volume. `budget_bytes` None: the volumes share no budget; `used_bytes` counts a shared file once."""

    budget_bytes: int | None
    thin: bool
    used_bytes: int
    disk_free_bytes: int
    volumes: tuple[StoreVolumeFacts, ...]


@dataclass(frozen=True, slots=True)
class CompactFacts:
    """What `cdp compact` did. `rounds`: how often it looked for something to free."""

    volume: VolumeFacts
    horizon: InstantFacts
    points: int
    rounds: int
    freed_bytes: int
    written_bytes: int
    used_bytes: int
    """Afterwards."""


@dataclass(frozen=True, slots=True)
class ShowFacts:
    """What `cdp show` prints. `status` is the engine's (cdp/_native.pyi, Volume.status), None if the journal cannot be opened."""

    volume: VolumeFacts
    open: bool
    uses: int
    """Sessions of NBD clients, on the volume itself and on views of it."""
    oldest: InstantFacts | None
    latest: InstantFacts | None
    status: Mapping[str, int | str | bool | None] | None
    bookmarks: tuple[BookmarkFacts, ...]
    faults: tuple[str, ...]
    """Damage and anomalies that opening the journal met."""
    retention: RetentionFacts | None = None
    """None if the journal cannot be opened."""


@dataclass(frozen=True, slots=True)
class IntervalFacts:
    """What happened in the interval that begins at `stamp`. `raw_bytes` were written by clients, `stored_bytes` is what they take."""

    stamp: int
    data_records: int
    zero_records: int
    raw_bytes: int
    stored_bytes: int
    overwritten_bytes: int | None
    """Of the raw bytes, those that lie over bytes which the same interval wrote before. None: too many records to tell."""
    flush_points: int
    last_flush_lsn: int | None


@dataclass(frozen=True, slots=True)
class FlushFacts:
    """The LSN that a client's FLUSH or FUA made durable."""

    lsn: int
    stamp: int


@dataclass(frozen=True, slots=True)
class LogFacts:
    """What `cdp log` prints, each list in the order of its stamps."""

    volume: VolumeFacts
    since: InstantFacts
    until: InstantFacts
    interval_seconds: int
    intervals: tuple[IntervalFacts, ...]
    """Those in which something was written or flushed."""
    flush_points: tuple[FlushFacts, ...]
    """Listed where they were asked for, the newest."""
    flush_points_left_out: int
    """How many there are besides."""
    bookmarks: tuple[BookmarkFacts, ...]
    events: tuple[EventFacts, ...]
    events_left_out: int
    """Older ones, beyond the most that are listed."""


@dataclass(frozen=True, slots=True)
class DiffFacts:
    """What `cdp diff` compared; `size` is that of the later volume. The extents are told apart from it: there may be millions."""

    since_volume: str
    since: InstantFacts
    until_volume: str
    until: InstantFacts
    size: int


@dataclass(frozen=True, slots=True)
class FindingFacts:
    """Something that `cdp verify` found. `file` is a path; segment, lsn, offset and length where they are known."""

    file: str
    what: str
    segment: int | None = None
    lsn: int | None = None
    offset: int | None = None
    length: int | None = None
    repairable: bool = False
    until_lsn: int | None = None
    """The first LSN after which those bytes are not seen any more, on the branch of record `lsn`. None: not known, or its end sees them."""
    live: bool | None = None
    """Whether the live volume shows them."""


@dataclass(frozen=True, slots=True)
class VerifyFacts:
    """What `cdp verify` found. `resumed_stamp`: when the check began that was gone on with, None for one that ran from begin to end."""

    volume: str
    findings: tuple[FindingFacts, ...]
    resumed_stamp: int | None = None


@dataclass(frozen=True, slots=True)
class HealthFacts:
    """The daemon's answer to "are you there?"."""

    version: str
    pid: int
    store: str
    started_stamp: int
    listening: tuple[str, ...]
    """NBD URIs without an export name."""
    open_volumes: int
    sessions: int
    requests: int
    errors: int


def document(facts: Any) -> Any:
    """The facts as JSON values. Beside each `…stamp` stands a `…time`, the same instant as RFC 3339 with nine decimals."""
    if is_dataclass(facts) and not isinstance(facts, type):
        return document({field.name: getattr(facts, field.name) for field in fields(facts)})
    if isinstance(facts, Mapping):
        result: dict[str, Any] = {}
        for key, value in facts.items():
            result[key] = document(value)
            if key == "stamp" or key.endswith("_stamp"):
                time = key.removesuffix("stamp") + "time"
                result[time] = rfc3339(value) if isinstance(value, int) else None
        return result
    if isinstance(facts, tuple | list):
        return [document(item) for item in facts]
    return facts

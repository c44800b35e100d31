"""What can be done with a store: one interface, whether the daemon does it (cdp/control/client.py) or we do it on the files.

Invariants:
- The verbs of the command line know only `Store`; they do not know who does the work.
- `LocalStore` asks an `Opener` for each volume it needs: `Transient` opens it for the one call, the daemon's table keeps it open.
- Looking opens for reading, and changes nothing on disk.
- A volume is deleted only while nobody has it open.
"""

from __future__ import annotations

import os
import secrets
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import AbstractContextManager, ExitStack, contextmanager, nullcontext, suppress
from dataclasses import asdict, replace
from pathlib import Path
from typing import TYPE_CHECKING, Protocol

from cdp import files, scrub, shared_budget, timeline
from cdp.attach.left import Attaching, Left, Wish
from cdp.branching import make_clone, roll_back, undo_instant
from cdp.catalog import Catalog, Damaged, Entry
from cdp.changes import Differences, Point, compare
from cdp.description import SECTOR, Description, Origin, check_size
from cdp.errors import Busy, CdpError, Closed, Corrupt, Invalid, Io, NotFound
from cdp.facts import (
    AttachmentFacts,
    BookmarkFacts,
    CompactFacts,
    FindingFacts,
    InstantFacts,
    LogFacts,
    OriginFacts,
    ParentFacts,
    ResizeFacts,
    RetentionFacts,
    RollbackFacts,
    ScratchFacts,
    ShowFacts,
    StoreRetentionFacts,
    StoreVolumeFacts,
    VerifyFacts,
    VolumeFacts,
)
from cdp.group_verbs import GroupVerbs, LocalGroups
from cdp.names import is_volume_id
from cdp.origin import open_accepted, open_origin
from cdp.retention import policy
from cdp.standing import compacted, retention_facts
from cdp.volume import OpenVolume, instant_facts
from cdp.when import When

if TYPE_CHECKING:
    from cdp.scratch import ScratchViews

Progress = Callable[[int, int], None]
"""Told (done, total) in bytes, now and then; what it raises ends the work."""


class Store(Protocol):
    """The verbs. A volume is given by its name, or by its ID. Errors are those of `cdp.errors`."""

    @property
    def groups(self) -> GroupVerbs:
        """The verbs about groups of volumes."""

    def list(self) -> list[VolumeFacts]: ...
    def show(self, volume: str) -> ShowFacts: ...
    def create(self, name: str, size: int | None, block_size: int, origin: str | None) -> VolumeFacts:
        """`size` in bytes, None: the origin's."""

    def rename(self, volume: str, name: str) -> VolumeFacts: ...
    def resize(self, volume: str, size: int) -> ResizeFacts:
        """Makes a volume larger, `size` in bytes. Older instants keep their size; connections learn of it when they connect anew."""

    def delete(self, volume: str, *, now: bool) -> VolumeFacts:
        """`now`: for good, at once; also of a volume that was deleted before."""

    def undelete(self, volume: str) -> VolumeFacts: ...
    def log(
        self, volume: str, since: When, until: When, *, interval: int | None = None, list_flushes: bool = False
    ) -> LogFacts:
        """`interval` in seconds, None: what suits the time between the two."""

    def bookmark(
        self, volume: str, name: str, at: When, *, force: bool, held: bool = False, expires_stamp: int | None = None
    ) -> BookmarkFacts: ...
    def remove_bookmark(self, volume: str, name: str) -> BookmarkFacts: ...
    def resolve(self, volume: str, wanted: When) -> InstantFacts: ...
    def hold(self, volume: str, lsn: int) -> AbstractContextManager[None]:
        """Keeps an instant reachable for a `with` block, if somebody has the volume open for writing by then who could give it up."""

    def diff(self, volume: str, since: Point, until: Point) -> AbstractContextManager[Differences]:
        """Where two instants differ; the pages can be read inside the `with` block, once."""

    def verify(
        self, volume: str, progress: Progress | None, *, rate: int | None = None, restart: bool = False
    ) -> VerifyFacts:
        """`rate`: bytes a second, 0: no bound, None: what suits. `restart`: not from where an earlier check stopped."""

    def accept_origin(self, volume: str) -> VolumeFacts: ...
    def retention(self, volume: str) -> RetentionFacts: ...
    def set_retention(self, volume: str, settings: Mapping[str, str]) -> RetentionFacts:
        """Changes settings of the volume's policy (cdp/retention/policy.py), given as text under their names."""

    def store_retention(self) -> StoreRetentionFacts: ...
    def set_store_budget(self, budget: int | None, *, thin: bool) -> StoreRetentionFacts:
        """`budget` in bytes, None: the volumes share none."""

    def rollback(self, volume: str, to: When | None, *, force: bool) -> RollbackFacts:
        """`to` None: undoes the newest rollback. `force`: ends the connections that could write first; Busy if there are some without it."""

    def clone(self, volume: str, at: When, name: str) -> VolumeFacts: ...
    def scratch_views(self, volume: str) -> tuple[ScratchFacts, ...]:
        """Those that have an ID."""

    def release_scratch(self, volume: str, scratch_id: str, *, force: bool) -> ScratchFacts:
        """Throws one away; `force`: with its connections."""

    def attach(self, wish: Wish) -> AttachmentFacts:
        """Makes a block device of a volume, an instant or a scratch view of it. Closed without a daemon, which owns the device."""

    def detach(self, device: str) -> AttachmentFacts:
        """Takes a device away; Busy, with the mount, while it is in use."""

    def attachments(self) -> tuple[AttachmentFacts, ...]: ...
    def compact(self, volume: str) -> CompactFacts:
        """Gives up what the policy does not keep, and frees what nobody can reach."""


class Opener(Protocol):
    """Who opens volumes for a `LocalStore`."""

    def looking(self, entry: Entry) -> AbstractContextManager[OpenVolume]:
        """The volume, to look at its journal; no block of it is read."""

    def writing(self, entry: Entry) -> AbstractContextManager[OpenVolume]:
        """The volume, to append to its journal."""

    def closed(self, entry: Entry | Damaged) -> AbstractContextManager[None]:
        """Nobody has the volume open meanwhile, in any process; Busy if somebody does."""

    def quiet(self, entry: Entry, *, force: bool) -> AbstractContextManager[int]:
        """No NBD client writes to the volume meanwhile; how many were made to go. Busy if some do and `force` does not say to end them."""

    def renamed(self, entry: Entry) -> None:
        """Takes note of a new description."""

    def uses(self, entry: Entry) -> tuple[bool, int]:
        """Whether this process has the volume open, and for how many sessions."""

    def failure(self, volume_id: str) -> str | None:
        """Why this process could not open the volume when it was last asked to; None: it could, or was not."""


class Transient:
    """Opens a volume for one call: the command line without a daemon."""

    def __init__(self, catalog: Catalog) -> None:
        self._catalog = catalog

    @contextmanager
    def looking(self, entry: Entry) -> Iterator[OpenVolume]:
        volume = OpenVolume(entry, read_only=True, with_origin=False)
        try:
            yield volume
        finally:
            volume.close()

    @contextmanager
    def writing(self, entry: Entry) -> Iterator[OpenVolume]:
        volume = OpenVolume(self._catalog.heal(entry), with_origin=False)
        try:
            yield volume
        finally:
            volume.close()

    @contextmanager
    def closed(self, entry: Entry | Damaged) -> Iterator[None]:
        with files.locked(entry.folder / "lock", wait=False, busy=_in_use(entry), create=True):
            yield

    def quiet(self, entry: Entry, *, force: bool) -> AbstractContextManager[int]:
        return nullcontext(0)

    def renamed(self, entry: Entry) -> None:
        """Nothing is open between calls."""

    def uses(self, entry: Entry) -> tuple[bool, int]:
        return False, 0

    def failure(self, volume_id: str) -> str | None:
        return None


class LocalStore:
    """The verbs, on the files of a store."""

    def __init__(
        self,
        path: Path,
        opener: Opener | None = None,
        scratch: ScratchViews | None = None,
        attaching: Attaching | None = None,
        retention: Mapping[str, str] | None = None,
    ) -> None:
        """`scratch`, `attaching`: None where there is no daemon, and so no scratch view and nobody to own a device.
        `retention`: settings of new volumes; None: what the store's configuration says."""
        self.catalog = Catalog(path)
        self._retention = retention
        self._scratch = scratch
        self._attaching = attaching or Left(path)
        self.opener: Opener = opener or Transient(self.catalog)
        self.groups = LocalGroups(self.catalog, self.opener, self._attaching)

    def list(self) -> list[VolumeFacts]:
        attached: Sequence[AttachmentFacts] = ()
        with suppress(Corrupt):
            # Damaged notes are told by cdp detach; the volumes are listed all the same.
            attached = self._attaching.facts()
        return [
            replace(self._standing(entry), attached=tuple(it for it in attached if it.volume_id == entry.id))
            for entry in self.catalog.entries()
        ]

    def show(self, volume: str) -> ShowFacts:
        entry = self._any(volume)
        if isinstance(entry, Damaged):
            return ShowFacts(volume_facts(entry), False, 0, None, None, None, (), ())
        is_open, uses = self.opener.uses(entry)
        try:
            with self.opener.looking(entry) as opened:
                native = opened.native
                # Asked after the opening: one that failed is looked at without its writer.
                failure = None if entry.deleted else self.opener.failure(entry.id)
                trouble = [failure] if failure is not None else [] if is_open else _origin_trouble(entry)
                return ShowFacts(
                    volume=replace(volume_facts(entry), size=native.size, state=_state(entry, failure)),
                    open=is_open,
                    uses=uses,
                    oldest=instant_facts(native.oldest()),
                    latest=instant_facts(native.latest()),
                    status=native.status(),
                    bookmarks=tuple(opened.bookmarks()),
                    faults=(*native.faults(), *trouble),
                    retention=retention_facts(opened, volume_facts(entry)),
                )
        except CdpError as error:
            # What is known without the journal is still told: the command is how one learns of the damage.
            passing = isinstance(error, (Busy, Closed))
            known = replace(volume_facts(entry), state=_state(entry, None if passing else str(error)))
            return ShowFacts(known, is_open, uses, None, None, None, (), (str(error),))

    def _standing(self, entry: Entry | Damaged) -> VolumeFacts:
        """A volume as `cdp list` tells of it. Opens nothing."""
        facts, failure = volume_facts(entry), self.opener.failure(entry.id)
        if failure is None or facts.state != "ok":
            return facts
        told = (*facts.problems, f"{facts.name} cannot be opened: {failure}")
        return replace(facts, state="failed", problems=told)

    def create(self, name: str, size: int | None, block_size: int, origin: str | None) -> VolumeFacts:
        found = _look_at_origin(origin) if origin is not None else None
        if size is None:
            if found is None:
                raise Invalid("a volume needs a size, or an origin whose size it takes")
            size = -(-found.size // SECTOR) * SECTOR
        retention = self._retention if self._retention is not None else self._configured()
        policy.check_budget(policy.changed(policy.DEFAULT, retention), size)
        description = Description(secrets.token_hex(16), name, size, block_size, time.time_ns(), None, found)
        entry = self.catalog.create(description, _lay_journal)
        if retention:
            with self.opener.writing(entry) as opened:
                opened.set_policy(retention)
        with suppress(CdpError):
            self.catalog.sweep()
        return volume_facts(entry)

    def rename(self, volume: str, name: str) -> VolumeFacts:
        entry = self.catalog.rename(self.catalog.find(volume), name)
        self.opener.renamed(entry)
        return volume_facts(entry)

    def resize(self, volume: str, size: int) -> ResizeFacts:
        check_size(size)
        entry = self.catalog.find(volume)
        self._check_shared_budget(entry, size)
        with self.opener.writing(entry) as opened:
            before = opened.native.size
            lsn = opened.resize(size)
            self._attaching.resized(entry.id, opened.native.size)
            stamp = None if lsn is None else opened.native.instant_of_lsn(lsn).stamp
            return ResizeFacts(volume_facts(self._note_size(entry, opened)), before, lsn, stamp)

    def _check_shared_budget(self, grown: Entry, size: int) -> None:
        shared = shared_budget.read(self.catalog.store)
        if shared.budget is not None and not shared.thin and size > grown.description.shown_size:
            shared_budget.check(shared.budget, [size, *self._sizes(besides=grown.id)])

    def _sizes(self, besides: str = "") -> tuple[int, ...]:
        entries = [it for it in self.catalog.entries() if isinstance(it, Entry) and not it.deleted]
        return tuple(it.description.shown_size for it in entries if it.id != besides)

    def _note_size(self, entry: Entry, opened: OpenVolume) -> Entry:
        noted = self.catalog.note_size(entry, opened.native.size)
        self.opener.renamed(noted)
        return noted

    def delete(self, volume: str, *, now: bool) -> VolumeFacts:
        if not now:
            entry = self.catalog.find(volume)
            self._refuse_if_scratched(entry)
            self._attaching.refuse(entry.id, "deleted")
            self.groups.refuse(entry.id, "deleted")
            with self.opener.closed(entry):
                return volume_facts(self.catalog.delete(entry, time.time_ns()))
        doomed = self._any(volume)
        if isinstance(doomed, Entry):
            self._refuse_if_scratched(doomed)
            self._attaching.refuse(doomed.id, "deleted")
        self.groups.refuse(doomed.id, "deleted")
        with self.opener.closed(doomed):
            self.catalog.purge(doomed)
        return volume_facts(doomed)

    def undelete(self, volume: str) -> VolumeFacts:
        # A live volume that has the name is no reason to say "it is not deleted": the deleted one is meant.
        gone = self.catalog.find_deleted(volume)
        return volume_facts(self.catalog.undelete(gone))

    def log(
        self, volume: str, since: When, until: When, *, interval: int | None = None, list_flushes: bool = False
    ) -> LogFacts:
        entry = self.catalog.find(volume, deleted=True)
        with self.opener.looking(entry) as opened:
            return timeline.gather(
                opened, volume_facts(entry), since, until, interval=interval, list_flushes=list_flushes
            )

    def bookmark(
        self, volume: str, name: str, at: When, *, force: bool, held: bool = False, expires_stamp: int | None = None
    ) -> BookmarkFacts:
        with self.opener.writing(self.catalog.find(volume)) as opened:
            return opened.add_bookmark(name, at, force=force, held=held, expires_stamp=expires_stamp)

    def remove_bookmark(self, volume: str, name: str) -> BookmarkFacts:
        with self.opener.writing(self.catalog.find(volume)) as opened:
            return opened.remove_bookmark(name)

    def resolve(self, volume: str, wanted: When) -> InstantFacts:
        with self.opener.looking(self.catalog.find(volume, deleted=True)) as opened:
            return opened.instant(wanted)

    @contextmanager
    def hold(self, volume: str, lsn: int) -> Iterator[None]:
        with self.opener.looking(self.catalog.find(volume, deleted=True)) as opened:
            # The view is the pin (native/engine/src/reach.rs).
            view = opened.native.view(lsn)
            try:
                yield
            finally:
                del view

    @contextmanager
    def diff(self, volume: str, since: Point, until: Point) -> Iterator[Differences]:
        entries = [self.catalog.find(point.volume or volume, deleted=True) for point in (since, until)]
        with ExitStack() as held:
            opened = {
                entry.id: held.enter_context(self.opener.looking(entry))
                for entry in {entry.id: entry for entry in entries}.values()
            }
            ends = [(opened[entry.id], point.when) for entry, point in zip(entries, (since, until), strict=True)]
            yield compare(ends[0], ends[1])

    def verify(
        self, volume: str, progress: Progress | None, *, rate: int | None = None, restart: bool = False
    ) -> VerifyFacts:
        scrub.check_rate(rate)
        entry = self._any(volume)
        found = [FindingFacts(str(entry.folder), problem) for problem in entry.problems]
        if isinstance(entry, Damaged):
            return VerifyFacts(volume, tuple(found))
        resumed = None
        try:
            with self.opener.looking(entry) as opened:
                damage, resumed = scrub.check(opened, progress, rate=rate, restart=restart)
                found += damage
        except (Corrupt, Invalid, NotFound, Io) as error:
            # It could not even be opened, or read to its end.
            found.append(FindingFacts(str(entry.folder), str(error)))
        return VerifyFacts(volume, tuple(found), resumed)

    def accept_origin(self, volume: str) -> VolumeFacts:
        entry = self.catalog.find(volume)
        before = entry.description.origin
        if before is None:
            raise Invalid(f"{entry.name} has no origin")
        now = _look_at_origin(before.path, claim=False)
        if now == before:
            return volume_facts(entry)
        with self.opener.closed(entry):
            pass
        # The event first: an acceptance without its record would be silent, a record without effect is only repeated.
        with Transient(self.catalog).writing(entry) as opened:
            opened.append_event("origin-accepted", path=now.path, **_origin_change(before, now))
        return volume_facts(self.catalog.accept_origin(entry, now))

    def retention(self, volume: str) -> RetentionFacts:
        entry = self.catalog.find(volume, deleted=True)
        with self.opener.looking(entry) as opened:
            return retention_facts(opened, volume_facts(entry))

    def set_retention(self, volume: str, settings: Mapping[str, str]) -> RetentionFacts:
        entry = self.catalog.find(volume)
        with self.opener.writing(entry) as opened:
            opened.set_policy(settings)
            return retention_facts(opened, volume_facts(entry))

    def store_retention(self) -> StoreRetentionFacts:
        shared = shared_budget.read(self.catalog.store)
        entries = self.catalog.entries()
        taken, together = shared_budget.measure(entry.folder for entry in entries)
        disk = os.statvfs(self.catalog.store)
        volumes = [
            StoreVolumeFacts(entry.id, volume_facts(entry).name, taken[entry.id].used, taken[entry.id].own)
            for entry in entries
        ]
        return StoreRetentionFacts(shared.budget, shared.thin, together, disk.f_bavail * disk.f_frsize, tuple(volumes))

    def set_store_budget(self, budget: int | None, *, thin: bool) -> StoreRetentionFacts:
        if budget is not None:
            shared_budget.check(budget, () if thin else self._sizes())
        with self.catalog.changing():
            shared_budget.write(self.catalog.store, shared_budget.SharedBudget(budget, thin))
        return self.store_retention()

    def compact(self, volume: str) -> CompactFacts:
        entry = self.catalog.find(volume)
        with self.opener.writing(entry) as opened:
            return compacted(opened, volume_facts(entry))

    def rollback(self, volume: str, to: When | None, *, force: bool) -> RollbackFacts:
        entry = self.catalog.find(volume)
        # Not even with `force`: a mounted file system would go on with what it remembers, on another state of the disk.
        self._attaching.refuse(entry.id, "rolled back")
        with self.opener.writing(entry) as opened:
            # What cannot be reached ends nobody's connection.
            instant = undo_instant(opened) if to is None else opened.resolve(to)
            with self.opener.quiet(entry, force=force) as ended:
                done = roll_back(opened, instant, ended)
                # A size is an instant's, too.
                self._note_size(entry, opened)
                return done

    def clone(self, volume: str, at: When, name: str) -> VolumeFacts:
        entry = self.catalog.find(volume, deleted=True)
        source = self.opener.looking(entry) if entry.deleted else self.opener.writing(entry)
        with source as opened:
            made = make_clone(self.catalog, opened, at, name)
        with suppress(CdpError):
            self.catalog.sweep()
        return volume_facts(made)

    def scratch_views(self, volume: str) -> tuple[ScratchFacts, ...]:
        entry = self.catalog.find(volume)
        return () if self._scratch is None else self._scratch.views(entry)

    def release_scratch(self, volume: str, scratch_id: str, *, force: bool) -> ScratchFacts:
        entry = self.catalog.find(volume)
        if self._scratch is None:
            raise NotFound(f"{entry.name} has no scratch views: the store is not served")
        self._attaching.refuse(entry.id, "released", scratch_id)
        return self._scratch.release(entry, scratch_id, force=force)

    def attach(self, wish: Wish) -> AttachmentFacts:
        return self._attaching.attach(wish)

    def detach(self, device: str) -> AttachmentFacts:
        return self._attaching.detach(device)

    def attachments(self) -> tuple[AttachmentFacts, ...]:
        return tuple(self._attaching.facts())

    def _refuse_if_scratched(self, entry: Entry) -> None:
        views = () if self._scratch is None else self._scratch.views(entry)
        if views:
            listed = ", ".join(view.id for view in views)
            raise Busy(f"{entry.name} has scratch views ({listed}): cdp scratch {entry.name} --release ID ends them")

    def _configured(self) -> Mapping[str, str]:
        from cdp import configuration  # noqa: PLC0415 (no other verb needs it)

        return configuration.for_store(self.catalog.store).retention

    def _any(self, volume: str) -> Entry | Damaged:
        if is_volume_id(volume):
            for entry in self.catalog.entries():
                if isinstance(entry, Damaged) and entry.id == volume:
                    return entry
        return self.catalog.find(volume, deleted=True)


def volume_facts(entry: Entry | Damaged) -> VolumeFacts:
    """A catalog entry as plain values."""
    if isinstance(entry, Damaged):
        return VolumeFacts(entry.id, "damaged", problems=entry.problems)
    it = entry.description
    origin = OriginFacts(**asdict(it.origin)) if it.origin is not None else None
    return VolumeFacts(
        id=it.id,
        state="deleted" if entry.deleted else "ok",
        name=it.name,
        size=it.shown_size,
        block_size=it.block_size,
        created_stamp=it.created_stamp,
        deleted_stamp=it.deleted_stamp,
        origin=origin,
        problems=entry.problems,
        parent=ParentFacts(**asdict(it.parent)) if it.parent is not None else None,
    )


def _state(entry: Entry, failure: str | None) -> str:
    state = volume_facts(entry).state
    return "failed" if state == "ok" and failure is not None else state


def _lay_journal(folder: Path, description: Description) -> None:
    from cdp import _native  # noqa: PLC0415 (most verbs do without it)

    _native.create(str(folder), bytes.fromhex(description.id), description.size, description.created_stamp)


def _look_at_origin(text: str, *, claim: bool = True) -> Origin:
    opened = open_origin(text, claim=claim)
    opened.close()
    return opened.found


def _origin_trouble(entry: Entry) -> list[str]:
    """Why the volume's origin cannot be used now. An NBD server is not asked: that may take long, and looking should not."""
    accepted = entry.description.origin
    if accepted is None or accepted.kind == "nbd":
        return []
    try:
        open_accepted(accepted, entry.name, claim=False).close()
    except CdpError as error:
        return [str(error)]
    return []


def _origin_change(before: Origin, now: Origin) -> dict[str, str | int]:
    return {
        "size": now.size,
        "identity": now.identity,
        "changed": now.changed_stamp,
        "size_before": before.size,
        "identity_before": before.identity,
        "changed_before": before.changed_stamp,
    }


def _in_use(entry: Entry | Damaged) -> str:
    name = entry.name if isinstance(entry, Entry) else entry.id
    return f"{name} is open in another process that does not answer"

"""Scratch views: writable views of an instant, thrown away (docs/decisions/0005-history.md, "Clones").

Invariants:
- A scratch view is a clone in a folder `.scratch-…`, which no listing shows; nothing of it outlives the daemon.
- One without an ID belongs to one connection and goes with it. One with an ID is shared by its connections and stays until it is released, or until the daemon
  ends; one that no connection entered goes at once.
- It takes nothing from its volume: the volume's history is shared by links, and what is written goes to the view's own files.
"""

from __future__ import annotations

import shutil
import threading
from contextlib import suppress
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

from cdp.branching import clone_of, lay_clone
from cdp.catalog import SCRATCH, Catalog, Entry
from cdp.errors import CdpError, Invalid, NotFound
from cdp.facts import ScratchFacts
from cdp.files import os_errors
from cdp.volume import OpenVolume
from cdp.when import relative, rfc3339

if TYPE_CHECKING:
    from cdp.when import When
    from cdp.writers import Writers


@dataclass(eq=False, slots=True)
class Scratch:
    """A scratch view that is open. `uses`: exports that are open on it."""

    scratch_id: str
    parent_id: str
    volume: OpenVolume
    lsn: int
    stamp: int
    uses: int = 0
    entered: bool = False
    names: set[str] = field(default_factory=set)
    """How its instant was called: one that was given up since still means this view."""

    @property
    def volume_id(self) -> str:
        return self.volume.entry.id


class ScratchViews:
    """The scratch views of a daemon. Every method may be called from any thread."""

    def __init__(self, catalog: Catalog, writers: Writers) -> None:
        self._catalog = catalog
        self._writers = writers
        self._lock = threading.Lock()
        self._shared: dict[tuple[str, str], Scratch] = {}
        self._opening = threading.Lock()
        self._cleaners: list[threading.Thread] = []

    def open(self, parent: OpenVolume, at: When, scratch_id: str) -> Scratch:
        """One use of a scratch view of `parent`, until `let_go`. Invalid if the ID is in use for another instant."""
        if not scratch_id:
            return self._made(parent, at, scratch_id)
        # Two first connections get one view.
        with self._opening:
            with self._lock:
                known = self._shared.get((parent.entry.id, scratch_id))
                if known is not None:
                    known.uses += 1
            if known is None:
                made = self._made(parent, at, scratch_id)
                with self._lock:
                    self._shared[parent.entry.id, scratch_id] = made
                return made
        try:
            self._check_same(known, parent, at)
        except BaseException:
            self.let_go(known)
            raise
        return known

    def enter(self, scratch: Scratch) -> None:
        """A connection got through: from now on a view with an ID stays."""
        scratch.entered = True

    def let_go(self, scratch: Scratch) -> None:
        """Ends one use. Does not wait."""
        with self._lock:
            scratch.uses -= 1
            if scratch.uses or (scratch.scratch_id and scratch.entered):
                return
            self._forget(scratch)
        self._throw_away(scratch)

    def views(self, parent: Entry) -> tuple[ScratchFacts, ...]:
        """Those of a volume that have an ID, by ID."""
        with self._lock:
            found = [it for (parent_id, _), it in sorted(self._shared.items()) if parent_id == parent.id]
        return tuple(self._facts(it) for it in found)

    def release(self, parent: Entry, scratch_id: str, *, force: bool) -> ScratchFacts:
        """Throws a view away. NotFound if there is none; Busy if connections use it and `force` does not say to end them."""
        with self._lock:
            scratch = self._shared.get((parent.id, scratch_id))
        if scratch is None:
            raise NotFound(f"{parent.name} has no scratch view {scratch_id[:200]!r}")
        facts = self._facts(scratch)
        with self._writers.barred(scratch.volume_id, force=force), self._lock:
            scratch.entered = False
            # Who is still negotiating keeps it for as long as that takes; nobody new finds it.
            idle = self._shared.get((parent.id, scratch_id)) is scratch and not scratch.uses
            self._forget(scratch)
        if idle:
            self._throw_away(scratch)
        return facts

    def close(self) -> None:
        """Throws all of them away; returns when they are gone."""
        with self._lock:
            left, self._shared = list(self._shared.values()), {}
            cleaners = self._cleaners
        for scratch in left:
            cleaners = self._throw_away(scratch)
        for cleaner in cleaners:
            cleaner.join()

    def _made(self, parent: OpenVolume, at: When, scratch_id: str) -> Scratch:
        base = parent.resolve(at)
        description = clone_of(parent, base, parent.entry.name)
        folder = self._catalog.volumes / f"{SCRATCH}{description.id}"
        try:
            with os_errors(f"making a scratch view of {parent.entry.name}"):
                folder.mkdir(mode=0o700)
            lay_clone(parent, folder, description)
            volume = OpenVolume(Entry(folder, description))
        except BaseException:
            shutil.rmtree(folder, ignore_errors=True)
            raise
        made = Scratch(scratch_id, parent.entry.id, volume, base.lsn, base.stamp, uses=1)
        made.names.add(str(at))
        return made

    def _check_same(self, known: Scratch, parent: OpenVolume, at: When) -> None:
        if relative(at) or str(at) in known.names:
            return
        if parent.resolve(at).lsn != known.lsn:
            raise Invalid(
                f"the scratch view {known.scratch_id} of {parent.entry.name} is of lsn:{known.lsn} ({rfc3339(known.stamp)}): "
                f"release it (cdp scratch {parent.entry.name} --release {known.scratch_id}), or take another ID"
            )
        known.names.add(str(at))

    def _forget(self, scratch: Scratch) -> None:
        key = (scratch.parent_id, scratch.scratch_id)
        if self._shared.get(key) is scratch:
            del self._shared[key]

    def _throw_away(self, scratch: Scratch) -> list[threading.Thread]:
        def clean() -> None:
            with suppress(CdpError):
                scratch.volume.close()
            shutil.rmtree(scratch.volume.entry.folder, ignore_errors=True)

        thread = threading.Thread(target=clean, name="scratch")
        thread.start()
        with self._lock:
            self._cleaners = [it for it in self._cleaners if it.is_alive()] + [thread]
            return self._cleaners

    def _facts(self, scratch: Scratch) -> ScratchFacts:
        description = scratch.volume.entry.description
        connections = self._writers.count(scratch.volume_id)
        return ScratchFacts(scratch.scratch_id, scratch.lsn, scratch.stamp, description.created_stamp, connections)

"""The devices of a store: made by its daemon, which owns them, and found again by its next run.

Invariants:
- A device is noted (cdp/attach/notes.py) before anybody is told of it, and as long as it is there.
- The live volume is on one device at most, and so is a scratch view: two caches over one disk would tear it.
- What somebody uses is not taken away. What cannot be detached stays noted.
- One change at a time. Nothing here is on the way of a block.
"""

from __future__ import annotations

import logging
import os
import secrets
import threading
import time
from contextlib import suppress
from typing import TYPE_CHECKING

from cdp.attach import memory, notes, place
from cdp.attach.kernel_nbd import Link
from cdp.attach.left import (
    TIMEOUT_SECONDS_MAX,
    Driver,
    Wish,
    attachment_facts,
    drivers,
    end_device,
    find_device,
    refuse_attached,
    state_of,
)
from cdp.attach.notes import Attachment
from cdp.errors import Busy, CdpError, Invalid, NotFound
from cdp.exports import parse_export
from cdp.facts import AttachmentFacts
from cdp.when import relative

if TYPE_CHECKING:
    from cdp.catalog import Catalog, Entry
    from cdp.exports import ExportName, StoreExports
    from cdp.scratch import ScratchViews

log = logging.getLogger("cdp.attach")


class Attachments:
    """The devices of a daemon. Every method may be called from any thread, and may wait."""

    def __init__(self, catalog: Catalog, exports: StoreExports, scratch: ScratchViews, link: Link) -> None:
        self._store = catalog.store
        self._catalog = catalog
        self._exports = exports
        self._scratch = scratch
        self._drivers = drivers(catalog.store, link)
        self._lock = threading.Lock()
        self._attached: list[Attachment] = []

    def attach(self, wish: Wish) -> AttachmentFacts:
        """Makes a device. Invalid, NotFound or Busy with what stands in the way."""
        _require_root()
        if not 0 <= wish.timeout_seconds <= TIMEOUT_SECONDS_MAX:
            raise Invalid(f"a time-out of {wish.timeout_seconds} s is not between 0 and {TIMEOUT_SECONDS_MAX}")
        place.refuse_own_device(self._store)
        with self._lock:
            driver = self._choose(wish.driver)
            entry, planned = self._plan(wish, driver.name)
            self._refuse_second(planned)
            # Open until the device has its own connections: the instant cannot be given up in between.
            export = self._exports.open_now(planned.export)
            try:
                made = driver.make(planned, _sectors(entry, export.size), export.size)
            finally:
                export.release()
            self._keep(driver, made)
        log.info("%s shows %s", made.device, made.shown)
        return attachment_facts(made, "ok")

    def detach(self, device: str) -> AttachmentFacts:
        """Takes a device away. NotFound if it is none of ours; Busy, with the mount, if it is in use."""
        with self._lock:
            one = find_device(self._attached, device)
            end_device(self._drivers[one.driver], one)
            self._drop(one)
        log.info("%s is detached", one.device)
        return attachment_facts(one, "detached")

    def facts(self) -> list[AttachmentFacts]:
        """All of them, in the order in which they were attached."""
        return [attachment_facts(one, self._state(one), self._name(one)) for one in list(self._attached)]

    def _state(self, one: Attachment) -> str:
        # Its helper would wait, and the daemon refuses: that is no answer either.
        failed = self._exports.failure(one.volume_id) is not None
        return "lost" if failed else state_of(self._drivers[one.driver], one)

    def resized(self, volume_id: str, size: int) -> None:
        """Tells the device of the live volume, if there is one, its new size in bytes."""
        for one in list(self._attached):
            if one.volume_id == volume_id and one.kind == "live":
                try:
                    self._drivers[one.driver].resized(one, size)
                except CdpError as error:
                    log.error("%s keeps its old size: %s", one.device, error)

    def refuse(self, volume_id: str, what: str, scratch_id: str | None = None) -> None:
        """Busy if `what` cannot be done because a device shows the volume, or that scratch view of it."""
        refuse_attached(self._attached, volume_id, what, scratch_id)

    def resume(self) -> None:
        """Takes over what an earlier daemon left: what still works goes on, what does not is taken away if nobody uses it."""
        with self._lock:
            for one in self._noted():
                driver = self._drivers.get(one.driver)
                if driver is None or not driver.there(one):
                    log.warning("%s does not show %s any more", one.device, one.shown)
                    if driver is not None:
                        with suppress(CdpError):
                            driver.end(one)
                    continue
                self._take_over(driver, one)
            if self._attached:
                memory.lock()
            if notes.path(self._store).exists():
                notes.write(self._store, self._attached)

    def close(self) -> None:
        """Leaves the devices to the daemon's next run, but for scratch views that nobody uses: these end with it."""
        with self._lock:
            for one in [one for one in self._attached if one.kind == "scratch"]:
                with suppress(CdpError):
                    end_device(self._drivers[one.driver], one)
                    self._drop(one)
            for driver in self._drivers.values():
                driver.leave()

    def _noted(self) -> list[Attachment]:
        try:
            return notes.read(self._store)
        except CdpError as error:
            log.error("%s", error)
            return []

    def _take_over(self, driver: Driver, one: Attachment) -> None:
        # A scratch view went with its daemon; one that is opened by the same name would be another one.
        if one.kind != "scratch" and driver.works(one):
            driver.resume(one)
            self._attached.append(one)
            self._watch(driver, one)
            return
        try:
            end_device(driver, one)
        except CdpError as error:
            log.warning("%s showed %s and answers no more; it stays: %s", one.device, one.shown, error)
            driver.cut(one)
            self._attached.append(one)

    def _choose(self, wanted: str | None) -> Driver:
        if wanted is not None and wanted not in self._drivers:
            raise Invalid(f"there is no driver {wanted[:50]!r}: {', '.join(self._drivers)}")
        reasons = []
        for driver in self._drivers.values():
            if wanted in (None, driver.name):
                reason = driver.missing()
                if reason is None:
                    return driver
                reasons.append(f"{driver.name}: {reason}")
        raise NotFound(f"no block device can be made here. {'; '.join(reasons)}")

    def _plan(self, wish: Wish, driver: str) -> tuple[Entry, Attachment]:
        wanted = parse_export(wish.export)
        entry = self._catalog.find(wanted.volume)
        scratch_id, owns = wanted.scratch, False
        if wanted.when is not None and (scratch_id == "" or (scratch_id is None and wish.mount is not None)):
            scratch_id, owns = f"attach-{secrets.token_hex(4)}", True
        lsn, stamp = self._instant(entry, wanted)
        instant = "" if lsn is None else f"@lsn:{lsn}"
        planned = Attachment(
            id=secrets.token_hex(4),
            driver=driver,
            device="",
            volume_id=entry.id,
            name=entry.name,
            export=entry.id + instant + ("" if scratch_id is None else f"+scratch={scratch_id}"),
            lsn=lsn,
            stamp=stamp,
            scratch_id=scratch_id,
            owns_scratch=owns,
            read_only=wish.read_only or (lsn is not None and scratch_id is None),
            mount=wish.mount,
            timeout_seconds=wish.timeout_seconds,
            made_stamp=time.time_ns(),
        )
        return entry, planned

    def _instant(self, entry: Entry, wanted: ExportName) -> tuple[int | None, int | None]:
        if wanted.when is None:
            return None, None
        if wanted.scratch and (known := self._known_scratch(entry, wanted)) is not None:
            return known
        _, volume = self._exports.acquire(entry.id)
        try:
            found = volume.resolve(wanted.when)
            return found.lsn, found.stamp
        finally:
            self._exports.let_go(entry.id, None)

    def _known_scratch(self, entry: Entry, wanted: ExportName) -> tuple[int, int] | None:
        """A relative WHEN means the instant that a view with this ID has already (cdp/scratch.py)."""
        assert wanted.when is not None
        if not relative(wanted.when):
            return None
        return next(((it.lsn, it.stamp) for it in self._scratch.views(entry) if it.id == wanted.scratch), None)

    def _refuse_second(self, planned: Attachment) -> None:
        if planned.kind == "view":
            return
        for one in self._attached:
            if (one.volume_id, one.kind, one.scratch_id) == (planned.volume_id, planned.kind, planned.scratch_id):
                raise Busy(f"{one.shown} is attached already, as {one.device}")

    def _keep(self, driver: Driver, made: Attachment) -> None:
        self._attached.append(made)
        try:
            notes.write(self._store, self._attached)
        except CdpError:
            self._attached.remove(made)
            driver.end(made)
            raise
        if len(self._attached) == 1:
            memory.lock()
        self._watch(driver, made)

    def _drop(self, one: Attachment) -> None:
        self._attached.remove(one)
        if not self._attached:
            memory.unlock()
        notes.write(self._store, self._attached)
        if one.owns_scratch and one.scratch_id is not None:
            with suppress(CdpError):
                self._scratch.release(self._catalog.get(one.volume_id), one.scratch_id, force=True)

    def _watch(self, driver: Driver, one: Attachment) -> None:
        def watch() -> None:
            driver.wait(one)
            if one in self._attached and not self._lock.locked():
                log.error("nothing answers behind %s any more, which shows %s: detach it", one.device, one.shown)

        threading.Thread(target=watch, name=f"attach {one.device}", daemon=True).start()

    def _name(self, one: Attachment) -> str:
        with suppress(CdpError):
            return self._catalog.get(one.volume_id).name
        return one.name


def _sectors(entry: Entry, size: int) -> int:
    """The size of a device's sectors: the volume's, unless they would not fill it."""
    wanted = entry.description.block_size
    return 512 if size % wanted else wanted


def _require_root() -> None:
    if os.geteuid() != 0:
        raise Invalid(
            f"attaching takes root: the daemon runs as user {os.geteuid()} (any NBD client can open the export)"
        )

"""Where a timeline branches: a rollback goes on from an earlier instant, a clone begins at one.

Invariants:
- A rollback is one record more: nothing that lay after the instant is lost, and what was read of views stays.
- A clone's description says whose it is and from where; it has the same origin, and no bookmarks.
"""

from __future__ import annotations

import secrets
import time
from pathlib import Path
from typing import TYPE_CHECKING

from cdp.catalog import Entry
from cdp.description import Description, Parent
from cdp.errors import NotFound
from cdp.facts import RollbackFacts
from cdp.volume import OpenVolume, instant_facts

if TYPE_CHECKING:
    from cdp import _native
    from cdp.catalog import Catalog
    from cdp.when import Moment, When


def undo_instant(volume: OpenVolume) -> _native.Instant:
    """The instant to which an undo of the newest rollback goes back. NotFound if there was none, or if it was given up."""
    try:
        _, before = volume.native.last_rollback()
        return volume.native.instant_of_lsn(before)
    except NotFound as error:
        raise NotFound(f"{volume.entry.name}: {error}") from error


def roll_back(volume: OpenVolume, to: Moment, ended: int) -> RollbackFacts:
    """Appends the rollback, durably. `ended`: connections that were ended for it."""
    before = volume.native.latest()
    made = volume.native.rollback(to.lsn)
    return RollbackFacts(
        volume=volume.entry.name,
        before=instant_facts(before),
        to=instant_facts(to),
        lsn=made,
        stamp=volume.native.instant_of_lsn(made).stamp,
        connections_ended=ended,
    )


def clone_of(volume: OpenVolume, base: Moment, name: str) -> Description:
    """The description of a clone that begins at `base`."""
    parent = volume.entry.description
    return Description(
        id=secrets.token_hex(16),
        name=name,
        size=volume.native.view(base.lsn).size,
        block_size=parent.block_size,
        created_stamp=time.time_ns(),
        origin=parent.origin,
        parent=Parent(parent.id, parent.name, base.lsn, base.stamp),
    )


def lay_clone(volume: OpenVolume, folder: Path, clone: Description) -> None:
    """Links what the clone shares into its folder, and writes its manifest; durable."""
    assert clone.parent is not None
    volume.native.fork(clone.parent.lsn, str(folder), bytes.fromhex(clone.id), clone.created_stamp)


def make_clone(catalog: Catalog, volume: OpenVolume, at: When, name: str) -> Entry:
    """A volume of its own that begins as `volume` was. NotFound if that cannot be reached, Invalid if the name is taken."""
    description = clone_of(volume, volume.resolve(at), name)
    return catalog.create(description, lambda folder, clone: lay_clone(volume, folder, clone))

"""Restoring a group: all its volumes as they were at one instant, each into a file of its own.

Invariants:
- The instant is looked up once, and held on all volumes until the last one is restored.
- No file is begun before it is known that all of them may be.
"""

from __future__ import annotations

import os
from collections.abc import Iterable
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path

from cdp import files
from cdp.errors import Invalid
from cdp.restore import Order, RestoreFacts, Stage, restore
from cdp.store import Store
from cdp.when import AtLsn, When

SUFFIX = ".img"


@dataclass(frozen=True, slots=True)
class GroupOrder:
    """What to restore, into which folder; the rest as in `cdp.restore.Order`."""

    group: str
    at: When
    folder: Path
    force: bool = False
    verify: bool = False
    allow_damage: bool = False


@dataclass(frozen=True, slots=True)
class GroupRestoreFacts:
    """What was restored: every volume of the group at the one instant `stamp`."""

    group: str
    stamp: int
    folder: str
    volumes: tuple[RestoreFacts, ...]


def restore_group(store: Store, path: Path, order: GroupOrder, stage: Stage) -> GroupRestoreFacts:
    """Restores each volume to FOLDER/VOLUME.img; the folder is made if it is not there. Errors as of `cdp.restore.restore`."""
    found = store.groups.resolve(order.group, order.at)
    targets = {it.id: order.folder / f"{it.volume}{SUFFIX}" for it in found.volumes}
    _check(order, targets.values(), path)
    with ExitStack() as held:
        for it in found.volumes:
            held.enter_context(store.hold(it.id, it.instant.lsn))
        done = [
            restore(
                store,
                path,
                Order(it.id, AtLsn(it.instant.lsn), str(targets[it.id]), order.force, order.verify, order.allow_damage),
                stage,
            )
            for it in found.volumes
        ]
    return GroupRestoreFacts(found.group, found.stamp, str(order.folder), tuple(done))


def _check(order: GroupOrder, targets: Iterable[Path], store: Path) -> None:
    if order.folder.resolve().is_relative_to(store.resolve()):
        raise Invalid(f"{order.folder} lies inside the store {store}")
    there = [str(target) for target in targets if os.path.lexists(target)]
    if there and not order.force:
        raise Invalid(f"{there[0]} exists (--force overwrites it, where it differs)")
    with files.os_errors(f"making the folder {order.folder}"):
        order.folder.mkdir(parents=True, exist_ok=True)

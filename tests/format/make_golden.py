"""Makes the golden stores: `python -m tests.format.make_golden [NAME …]`, from the repository's root.

They are made once, by the native engine of the version that their format names, and stay as they are: every later
reader must read them. Beside each store stands what it must read as. The engine of format version 1 made `clean` (stopped
cleanly), `killed` (by kill -9; nobody has recovered it) and `epochs` (stopped, killed, recovered and stopped).
"""

from __future__ import annotations

import hashlib
import io
import json
import random
import shutil
import sys
import tarfile
import tempfile
import time
from collections.abc import Callable
from pathlib import Path

from tests.format.native_branches import Driven
from tests.format.native_history import lay_volume
from tests.format.stores import branched_volume

GOLDEN = Path(__file__).parent / "golden"
States = dict[int, bytes]
Volumes = dict[str, States]  # by id


def _branches(store: Path) -> Volumes:
    """Twenty segments with rollbacks, merged and a checkpoint made; then a horizon, points, and compaction."""
    draw = random.Random(6)
    driven = Driven(lay_volume(store, time.time_ns()))
    for _ in range(20):
        driven.drive(draw, 4, thin=False)
        driven.reopen()
    _wait_for_runs(driven.folder)
    instants = sorted(driven.states)
    driven.retain(instants[len(instants) // 2], instants[3 : len(instants) // 2 : 9])
    driven.volume.compact(1 << 20)
    driven.drive(draw, 8, thin=False)
    driven.volume.close()
    return {driven.folder.name: driven.states}


def _wait_for_runs(folder: Path) -> None:
    """The engine merges in a thread of its own."""
    while not list(folder.glob("run-*")):
        time.sleep(0.01)


def _clones(store: Path) -> Volumes:
    """A clone of a clone. The others are gone; it has compacted what they wrote."""
    draw = random.Random(8)
    made = [Driven(lay_volume(store, time.time_ns()))]
    made[0].drive(draw, 30, thin=False)
    for name, identity in (("child", "c" * 32), ("grandchild", "d" * 32)):
        made.append(made[-1].fork(draw, name, identity))
        made[-1].drive(draw, 20, thin=False)
    *gone, last = made
    for parent in gone:
        parent.volume.close()
        shutil.rmtree(parent.folder)
    last.state[:] = bytes(draw.randbytes(len(last.state)))
    last.states[last.volume.write(0, bytes(last.state))] = bytes(last.state)
    last.retain(max(last.states), [min(last.states)])
    last.volume.compact(1 << 20)
    last.drive(draw, 8, thin=False)
    last.volume.close()
    return {last.folder.name: last.states}


def _written(store: Path) -> Volumes:
    """By tests/format/writer_history.py: every new kind of file, byte by byte from the page."""
    made = branched_volume()
    made.volume.save(store)
    return {made.volume.id: made.states}


STORES: dict[str, Callable[[Path], Volumes]] = {"branches": _branches, "clones": _clones, "written": _written}


def make(name: str) -> None:
    """Writes golden/NAME.tar.xz and golden/NAME.json."""
    with tempfile.TemporaryDirectory() as base:
        store = Path(base, "store")
        volumes = STORES[name](store)
        packed = io.BytesIO()
        with tarfile.open(fileobj=packed, mode="w:xz") as archive:
            archive.add(store, "store")
        (GOLDEN / f"{name}.tar.xz").write_bytes(packed.getvalue())
    told = {
        "format": 2,
        "volumes": {
            volume: {str(lsn): hashlib.sha256(content).hexdigest() for lsn, content in sorted(states.items())}
            for volume, states in volumes.items()
        },
    }
    (GOLDEN / f"{name}.json").write_text(json.dumps(told, indent=1) + "\n")


if __name__ == "__main__":
    for wanted in sys.argv[1:] or STORES:
        make(wanted)

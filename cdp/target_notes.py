"""What a restore remembers of its target between runs: a small file in the user's state folder, never in the store.

Invariants:
- A note speeds things up and is needed for nothing: without one, or with one that does not fit what is there, the target is read and compared.
- A note says "complete" only of content that was durable before, and is taken back durably before the first byte of it changes.
- A note that is damaged, or of another version, counts as none.
"""

from __future__ import annotations

import hashlib
import json
import os
import time
from contextlib import suppress
from dataclasses import asdict, dataclass, replace
from pathlib import Path

from cdp import config, files

NOTES_MAX = 256
"""Notes kept: the oldest go first."""
_VERSION = 1
_CLOCK_REALTIME_COARSE = 5
"""The clock that file systems stamp changes with (Linux, time.h); Python has no name for it."""
_STEPS_MAX = 200

Stretch = tuple[int, int, int]
"""(start, end, sum): bytes of the target that were written, and their checksum (`_native.View.restore`)."""


@dataclass(frozen=True, slots=True)
class Content:
    """What bytes a target is to hold: an instant of a volume. A copy of a store may have gone on by itself, hence the stamp; what lies under the
    volume shows through, hence the origin."""

    volume: str
    lsn: int
    stamp: int
    size: int
    origin: str


@dataclass(frozen=True, slots=True)
class Identity:
    """Which file or device it was. Stamps in nanoseconds; 0 for devices, which have none for their content."""

    device: str
    inode: int
    modified: int = 0
    changed: int = 0


@dataclass(frozen=True, slots=True)
class Note:
    """`complete`: the target holds `content`. Else `done` are the stretches of it that were durable."""

    identity: Identity
    content: Content
    complete: bool
    done: tuple[Stretch, ...] = ()

    def is_of(self, identity: Identity) -> bool:
        """Whether it is the same file or device, whatever it holds by now."""
        return (self.identity.device, self.identity.inode) == (identity.device, identity.inode)


def load(target: str) -> Note | None:
    """The note of a target, by its name."""
    with suppress(OSError, ValueError, KeyError, TypeError):
        told = json.loads(_path(target).read_text())
        body = told["note"]
        if told["sum"] != _sum(target, body):
            return None
        done = tuple((int(start), int(end), int(total)) for start, end, total in body["done"])
        return Note(Identity(**body["identity"]), Content(**body["content"]), bool(body["complete"]), done)
    return None


def save(target: str, note: Note) -> None:
    """Replaces the note of a target, durably. What the state folder refuses is not missed: the note is only a help."""
    path = _path(target)
    body = asdict(note)
    with suppress(OSError):
        path.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
        files.replace(path, json.dumps({"note": body, "sum": _sum(target, body)}).encode())
        _sweep(path.parent)


def forget(target: str) -> None:
    """Takes the note back, durably. OSError if there is one that stays: it would tell what is not so."""
    path = _path(target)
    with suppress(FileNotFoundError):
        path.unlink()
        files.sync_folder(path.parent)


def settled(descriptor: int, identity: Identity) -> Identity | None:
    """The identity of a file once a later change is sure to show in it; None if that cannot be had.

    A change within the same tick of the file system's clock would leave the same stamp. So that tick has to pass.
    """
    for _ in range(_STEPS_MAX):
        status = os.fstat(descriptor)
        # Whole seconds: a file system without finer stamps.
        if status.st_ctime_ns % 1_000_000_000 == 0:
            return None
        if time.clock_gettime_ns(_CLOCK_REALTIME_COARSE) > status.st_ctime_ns:
            return replace(identity, modified=status.st_mtime_ns, changed=status.st_ctime_ns)
        time.sleep(0.001)
    return None


def _path(target: str) -> Path:
    name = hashlib.blake2b(os.fsencode(target), digest_size=16).hexdigest()
    return config.state_folder() / "restores" / f"{name}.json"


def _sum(target: str, body: object) -> str:
    text = json.dumps([_VERSION, target, body], sort_keys=True)
    return hashlib.blake2b(text.encode(errors="surrogateescape"), digest_size=16).hexdigest()


def _sweep(folder: Path) -> None:
    notes = sorted(folder.glob("*.json"), key=lambda path: path.stat().st_mtime_ns)
    for path in notes[:-NOTES_MAX]:
        path.unlink(missing_ok=True)

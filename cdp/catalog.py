"""Which volumes a store has: the folders of `volumes/` and their descriptions (docs/format.md, "The store").

Invariants:
- Looking (`entries`, `find`) takes no lock and writes nothing; it works on a store that is read-only.
- Every change holds the lock of `volumes/` (a flock on the folder itself), so that names stay unique whichever process changes them.
- A folder gets its ID for a name only when the volume in it is complete, and loses it before any file of it is removed: a crash
  leaves a `.new-ID` or a `.trash-ID`, which readers ignore and the next writer sweeps away. A clone is made like any volume: its links first, then its name.
- One damaged volume is one `Damaged` in the list, and takes no other with it.
- A description of a newer format version is never written over.
"""

from __future__ import annotations

import os
import shutil
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, replace
from pathlib import Path

from cdp import files
from cdp.description import COPY_BYTES_MAX, Description, Origin, check_block_size, check_size, decode, encode
from cdp.errors import CdpError, Corrupt, Invalid, NotFound
from cdp.names import check_name, is_volume_id
from cdp.when import rfc3339

SCRATCH = ".scratch-"
"""Begins the folder names of scratch views (cdp/scratch.py)."""

COPIES = ("volume.0", "volume.1")
_MAY_STAND_IN_A_NEW_STORE = {"lost+found", "daemon.lock", "control.sock", "nbd.sock", "attach.sock", "cdp.toml"}

Lay = Callable[[Path, Description], None]
"""Lays a volume's empty journal into its new folder."""


@dataclass(frozen=True, slots=True)
class Entry:
    """A volume that can be named. `problems`: a sentence for each copy of the description that is not as it should be."""

    folder: Path
    description: Description
    problems: tuple[str, ...] = ()

    @property
    def id(self) -> str:
        return self.description.id

    @property
    def name(self) -> str:
        return self.description.name

    @property
    def deleted(self) -> bool:
        return self.description.deleted_stamp is not None


@dataclass(frozen=True, slots=True)
class Damaged:
    """A folder with a volume's ID, but no description to go by. `newer`: because a newer version of cdp wrote it."""

    folder: Path
    problems: tuple[str, ...]
    newer: bool = False

    @property
    def id(self) -> str:
        return self.folder.name


class Catalog:
    """The volumes of one store. Any number of processes may have one open; none of it is kept in memory."""

    def __init__(self, store: Path) -> None:
        self.store = store
        self.volumes = store / "volumes"

    def entries(self) -> list[Entry | Damaged]:
        """Every volume, deleted and damaged ones included: by name, damaged ones last. NotFound if there is no store."""
        found = [entry for folder in self._folders() if (entry := self._read(folder)) is not None]
        return sorted(found, key=lambda e: (isinstance(e, Damaged), e.name if isinstance(e, Entry) else "", e.id))

    def find(self, volume: str, *, deleted: bool = False) -> Entry:
        """The volume of that name, else of that ID; with `deleted` also among the deleted ones, after the others.

        NotFound if there is none, or with what is wrong with it if it is damaged; Invalid if several deleted ones had the name.
        """
        entries = self.entries()
        named = [e for e in entries if isinstance(e, Entry) and not e.deleted and e.name == volume]
        if named:
            return named[0]
        for entry in entries:
            if entry.id == volume and (isinstance(entry, Damaged) or deleted or not entry.deleted):
                return _usable(entry)
        gone = _deleted(entries, volume)
        if gone and deleted:
            return _only(gone, volume)
        hint = " (it was deleted: cdp undelete brings it back)" if gone else ""
        raise NotFound(f"there is no volume {volume[:200]!r} in {self.store}{hint}")

    def find_deleted(self, volume: str) -> Entry:
        """The deleted volume that had that name, or has that ID. NotFound if there is none, Invalid if there are several."""
        gone = _deleted(self.entries(), volume)
        if not gone:
            raise NotFound(f"there is no deleted volume {volume[:200]!r} in {self.store}")
        return _only(gone, volume)

    def get(self, volume_id: str) -> Entry:
        """The volume of that ID, deleted or not, as its description says now."""
        entry = self._read(self.volumes / volume_id)
        if entry is None:
            raise NotFound(f"there is no volume {volume_id} in {self.store} any more")
        return _usable(entry)

    def create(self, description: Description, lay: Lay) -> Entry:
        """Makes a volume, and the store if there is none yet. Invalid if the name is taken or a value is impossible."""
        check_name(description.name, "volume")
        check_size(description.size)
        check_block_size(description.block_size)
        self.ensure_store()
        with self.changing():
            self._check_free(description.name)
            fresh = self.volumes / f".new-{description.id}"
            try:
                with files.os_errors(f"creating {description.name} in {self.store}"):
                    fresh.mkdir(mode=0o700)
                    lay(fresh, description)
                    _write(fresh, description)
                    os.rename(fresh, self.volumes / description.id)
                    files.sync_folder(self.volumes)
            finally:
                # What a failure left; the links of a clone would keep the space of what its parent gives up.
                shutil.rmtree(fresh, ignore_errors=True)
        return self.get(description.id)

    def rename(self, entry: Entry, name: str) -> Entry:
        """Invalid if the name is taken."""
        check_name(name, "volume")
        with self.changing():
            current = self.get(entry.id)
            if name != current.name:
                self._check_free(name)
            return self._update(current, replace(current.description, name=name))

    def delete(self, entry: Entry, now: int) -> Entry:
        """Marks a volume as deleted at the stamp `now`: its name is free, its history is kept."""
        with self.changing():
            current = self.get(entry.id)
            if current.deleted:
                raise NotFound(
                    f"{current.name} was already deleted (cdp delete --now {current.id} removes it for good)"
                )
            return self._update(current, replace(current.description, deleted_stamp=now))

    def undelete(self, entry: Entry) -> Entry:
        """Takes the mark away. Invalid if the name was taken since, or if the volume is not deleted."""
        with self.changing():
            current = self.get(entry.id)
            if not current.deleted:
                raise Invalid(f"{current.name} is not deleted")
            self._check_free(current.name)
            return self._update(current, replace(current.description, deleted_stamp=None))

    def purge(self, entry: Entry | Damaged) -> None:
        """Removes a volume and its history for good. The caller sees to it that nobody has it open."""
        trash = self.volumes / f".trash-{entry.id}"
        with self.changing(), files.os_errors(f"removing {entry.folder}"):
            os.rename(entry.folder, trash)
            files.sync_folder(self.volumes)
        shutil.rmtree(trash, ignore_errors=True)

    def note_size(self, entry: Entry, size: int) -> Entry:
        """Records what the size of the live volume is now, in bytes."""
        with self.changing():
            current = self.get(entry.id)
            if current.description.shown_size == size:
                return current
            return self._update(current, replace(current.description, live_size=size))

    def accept_origin(self, entry: Entry, origin: Origin) -> Entry:
        """Records what the origin is from now on."""
        with self.changing():
            current = self.get(entry.id)
            return self._update(current, replace(current.description, origin=origin))

    def heal(self, entry: Entry) -> Entry:
        """Makes both copies of a description whole again, from the valid one. Called by a writer, never to look."""
        if not entry.problems:
            return entry
        with self.changing():
            current = self.get(entry.id)
            return self._update(current, current.description) if current.problems else current

    def sweep(self) -> None:
        """Removes what an interrupted creation or removal left behind. What cannot be removed now is left for the next time."""
        with self.changing():
            for leftover in self.volumes.glob(".new-*"):
                shutil.rmtree(leftover, ignore_errors=True)
            for leftover in self.volumes.glob(".trash-*"):
                shutil.rmtree(leftover, ignore_errors=True)

    def sweep_scratch(self) -> None:
        """Removes the scratch views of a daemon that is gone. For the one daemon of the store, at its start."""
        for leftover in self.volumes.glob(f"{SCRATCH}*"):
            shutil.rmtree(leftover, ignore_errors=True)

    @contextmanager
    def changing(self) -> Iterator[None]:
        """Holds the store's lock: names do not change meanwhile. Short work only, others wait."""
        with files.locked(self.volumes, wait=True, busy=f"{self.volumes} is being changed"):
            yield

    def _folders(self) -> list[Path]:
        try:
            names = os.listdir(self.volumes)
        except (FileNotFoundError, NotADirectoryError) as error:
            raise NotFound(f"there is no store in {self.store} (cdp create makes one)") from error
        except OSError as error:
            raise files.os_error(f"looking into {self.volumes}", error) from error
        return [self.volumes / name for name in names if is_volume_id(name)]

    def _read(self, folder: Path) -> Entry | Damaged | None:
        if not folder.is_dir():
            return None
        found: list[Description] = []
        problems: list[str] = []
        for copy in COPIES:
            try:
                description = decode(_content(folder / copy))
                if description.id != folder.name:
                    raise Corrupt(f"it describes the volume {description.id}")
                found.append(description)
            except Invalid as error:
                # Neither copy counts then: the other one may be what a newer program was about to replace.
                return Damaged(folder, (f"{folder / copy}: {error}",), newer=True)
            except CdpError as error:
                problems.append(f"{folder / copy}: {error}")
        if not folder.is_dir():
            return None  # Removed while we looked.
        if not found:
            return Damaged(folder, tuple(problems))
        newest = max(found, key=lambda d: d.generation)
        if len(found) == 2 and found[0] != found[1]:
            problems.append(
                f"{folder}: its two descriptions differ, which a crash during a change leaves; the newer one counts"
            )
        return Entry(folder, newest, tuple(problems))

    def _check_free(self, name: str) -> None:
        for entry in self.entries():
            if isinstance(entry, Entry) and not entry.deleted and entry.name == name:
                raise Invalid(f"there is already a volume {name!r} in {self.store}")

    def _update(self, entry: Entry, description: Description) -> Entry:
        with files.os_errors(f"writing the description of {entry.name} in {entry.folder}"):
            _write(entry.folder, replace(description, generation=entry.description.generation + 1))
        return self.get(entry.id)

    def ensure_store(self) -> None:
        """Makes the store's folders if they are not there. Invalid if the folder holds something else."""
        with files.os_errors(f"making the store {self.store}"):
            self.store.mkdir(mode=0o700, parents=True, exist_ok=True)
            if not self.volumes.is_dir():
                strangers = sorted(set(os.listdir(self.store)) - _MAY_STAND_IN_A_NEW_STORE)
                if strangers:
                    raise Invalid(f"{self.store} is not a store: it holds other files ({strangers[0]})")
                self.volumes.mkdir(mode=0o700, exist_ok=True)
                files.sync_folder(self.store)


def _usable(entry: Entry | Damaged) -> Entry:
    if isinstance(entry, Damaged):
        kind = Invalid if entry.newer else Corrupt
        raise kind(f"the volume {entry.id} has no usable description: {'; '.join(entry.problems)}")
    return entry


def _deleted(entries: list[Entry | Damaged], volume: str) -> list[Entry]:
    return [e for e in entries if isinstance(e, Entry) and e.deleted and volume in (e.name, e.id)]


def _only(gone: list[Entry], volume: str) -> Entry:
    if len(gone) > 1:
        listed = ", ".join(f"{e.id} (deleted {rfc3339(e.description.deleted_stamp or 0)})" for e in gone)
        raise Invalid(f"{len(gone)} deleted volumes were called {volume!r}, name one by its ID: {listed}")
    return gone[0]


def _content(path: Path) -> bytes:
    with files.os_errors("reading it"), open(path, "rb") as file:
        return file.read(COPY_BYTES_MAX)


def _write(folder: Path, description: Description) -> None:
    content = encode(description)
    for copy in COPIES:
        files.replace(folder / copy, content)

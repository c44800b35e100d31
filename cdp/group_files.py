"""Groups as files: STORE/groups/ID.json says what a group is, STORE/groups/ID.notes up to when nothing of its volumes can be lost.

Invariants:
- Both are replaced atomically and durably; each is a line of JSON and its SHA-256, as a volume's description is.
- Volumes are named by ID: a rename of a volume changes nothing here.
- Every change of a group holds the lock of `volumes/` (cdp/catalog.py), so that names stay unique and no change is lost.
- Notes that are missing or damaged count as none: the gap after a crash is longer then, never shorter.
- A group of a newer format version is never written over.
"""

from __future__ import annotations

import hashlib
import json
import os
import secrets
from collections.abc import Callable, Mapping
from contextlib import suppress
from dataclasses import asdict, dataclass, field, replace
from functools import cache
from pathlib import Path
from typing import TYPE_CHECKING, Any

from cdp import files
from cdp.catalog import Catalog
from cdp.errors import CdpError, Corrupt, Invalid, NotFound
from cdp.names import check_name, is_name, is_volume_id

if TYPE_CHECKING:
    from pydantic import TypeAdapter

FORMAT = 1
FILE_BYTES_MAX = 1 << 20
GAPS_MAX = 1000
"""Kept for a group; beyond that the two oldest become one, which lacks nothing but the time between them."""


@dataclass(frozen=True, slots=True)
class Gap:
    """No instant from `since` on and before `until` (stamps); `volume`: the ID of the one whose journal tells of it, if one does."""

    since: int
    until: int
    kind: str
    volume: str | None = None


@dataclass(frozen=True, slots=True)
class Pending:
    """What was begun with all volumes, and may not have reached all of them. `lsns`: each volume's instant, by ID.

    `kind`: rollback, to the common instant `stamp`, begun at `begun`; or bookmark, `name` at `stamp`.
    """

    kind: str
    stamp: int
    begun: int
    lsns: Mapping[str, int]
    name: str = ""
    held: bool = False
    expires: int | None = None


@dataclass(frozen=True, slots=True)
class Group:
    """A group. `volumes`: IDs, in the order of their adding. `seen`: by ID, up to which LSN a volume's events are among the gaps.

    `undo`: the stamp before the newest rollback of the group.
    """

    id: str
    name: str
    made: int
    volumes: tuple[str, ...]
    gaps: tuple[Gap, ...] = ()
    seen: Mapping[str, int] = field(default_factory=dict)
    undo: int | None = None
    pending: Pending | None = None


@dataclass(frozen=True, slots=True)
class DamagedGroup:
    """A file of a group that cannot be read, and why."""

    id: str
    problem: str


@cache
def _readers() -> tuple[TypeAdapter[Group], TypeAdapter[dict[str, int]]]:
    from pydantic import TypeAdapter  # noqa: PLC0415 (slow to load, and most stores have no groups)

    return TypeAdapter(Group), TypeAdapter(dict[str, int])


class GroupFiles:
    """The groups of a store. None of it is kept in memory."""

    def __init__(self, catalog: Catalog) -> None:
        self._catalog = catalog
        self._folder = catalog.store / "groups"

    def entries(self) -> list[Group | DamagedGroup]:
        """All of them, by name, damaged ones last."""
        try:
            names = os.listdir(self._folder)
        except FileNotFoundError:
            return []
        except OSError as error:
            raise files.os_error(f"looking into {self._folder}", error) from error
        ids = [name.removesuffix(".json") for name in names if name.endswith(".json")]
        found = [one for id_ in ids if is_volume_id(id_) and (one := self._read(id_)) is not None]
        return sorted(found, key=lambda g: (isinstance(g, DamagedGroup), g.name if isinstance(g, Group) else "", g.id))

    def groups(self) -> list[Group]:
        """Those that can be read."""
        return [one for one in self.entries() if isinstance(one, Group)]

    def find(self, group: str) -> Group:
        """The group of that name, else of that ID. NotFound if there is none, Corrupt if it is damaged."""
        entries = self.entries()
        for one in entries:
            if isinstance(one, Group) and one.name == group:
                return one
        for one in entries:
            if one.id == group:
                if isinstance(one, DamagedGroup):
                    raise Corrupt(f"the group {one.id} cannot be read: {one.problem}")
                return one
        raise NotFound(f"there is no group {group[:200]!r} in {self._catalog.store}")

    def of_volume(self, volume_id: str) -> list[Group]:
        """The groups that a volume belongs to."""
        return [group for group in self.groups() if volume_id in group.volumes]

    def create(self, name: str, volumes: tuple[str, ...], made: int) -> Group:
        """Invalid if the name is taken."""
        check_name(name, "group")
        group = Group(secrets.token_hex(16), name, made, volumes)
        with self._catalog.changing(), files.os_errors(f"writing the group {name} in {self._folder}"):
            self._check_free(name)
            if not self._folder.is_dir():
                self._folder.mkdir(mode=0o700, exist_ok=True)
                files.sync_folder(self._catalog.store)
            self._write(group)
        return group

    def change(self, group_id: str, how: Callable[[Group], Group]) -> Group:
        """What `how` makes of the group as it is now; NotFound if it is gone."""
        with self._catalog.changing():
            current = self.find(group_id)
            changed = how(current)
            if changed.name != current.name:
                check_name(changed.name, "group")
                self._check_free(changed.name)
            if changed != current:
                with files.os_errors(f"writing the group {changed.name} in {self._folder}"):
                    self._write(changed)
            return changed

    def delete(self, group_id: str) -> None:
        """Removes the group, damaged or not; its volumes stay."""
        with self._catalog.changing(), files.os_errors(f"removing the group {group_id} from {self._folder}"):
            (self._folder / f"{group_id}.json").unlink()
            (self._folder / f"{group_id}.notes").unlink(missing_ok=True)
            files.sync_folder(self._folder)

    def notes(self, group_id: str) -> dict[str, int]:
        """By volume: a stamp up to which nothing that was answered can be lost."""
        path = self._folder / f"{group_id}.notes"
        # A ValidationError is a ValueError.
        with suppress(CdpError, ValueError, KeyError):
            return _readers()[1].validate_python(_decode(path)["safe"])
        return {}

    def write_notes(self, group_id: str, safe: Mapping[str, int]) -> None:
        """Durably. For the daemon alone."""
        with files.os_errors(f"writing the notes of a group in {self._folder}"):
            files.replace(self._folder / f"{group_id}.notes", _encode({"format": FORMAT, "safe": dict(safe)}))

    def _write(self, group: Group) -> None:
        files.replace(self._folder / f"{group.id}.json", _encode({"format": FORMAT, **asdict(group)}))

    def _read(self, group_id: str) -> Group | DamagedGroup | None:
        path = self._folder / f"{group_id}.json"
        try:
            group = _readers()[0].validate_python(_decode(path))
        except NotFound:
            return None  # Deleted while we looked.
        except CdpError as error:
            return DamagedGroup(group_id, f"{path}: {error}")
        except ValueError as error:
            return DamagedGroup(group_id, f"{path}: it is not a group's: {str(error).splitlines()[0]}")
        if group.id != group_id or not is_name(group.name) or not all(map(is_volume_id, group.volumes)):
            return DamagedGroup(group_id, f"{path}: its name or an ID in it cannot be one")
        return group

    def _check_free(self, name: str) -> None:
        if any(group.name == name for group in self.groups()):
            raise Invalid(f"there is already a group {name!r} in {self._catalog.store}")


def with_gaps(group: Group, gaps: tuple[Gap, ...]) -> Group:
    """The group with these gaps instead, as many as are kept."""
    kept = sorted(gaps, key=lambda gap: (gap.since, gap.until))
    while len(kept) > GAPS_MAX:
        first, second, *rest = kept
        kept = [replace(first, until=max(first.until, second.until)), *rest]
    return replace(group, gaps=tuple(kept))


def _encode(document: dict[str, Any]) -> bytes:
    line = json.dumps(document).encode()
    return line + b"\nsha256:" + hashlib.sha256(line).hexdigest().encode() + b"\n"


def _decode(path: Path) -> dict[str, Any]:
    with files.os_errors(f"reading {path}"), open(path, "rb") as file:
        line, _, rest = file.read(FILE_BYTES_MAX).partition(b"\n")
    if rest != b"sha256:" + hashlib.sha256(line).hexdigest().encode() + b"\n":
        raise Corrupt("its checksum does not match")
    try:
        document = json.loads(line)
    except (ValueError, RecursionError) as error:
        raise Corrupt("its first line is not JSON") from error
    if not isinstance(document, dict) or not isinstance(document.get("format"), int):
        raise Corrupt("it is not a group's")
    if document["format"] > FORMAT:
        raise Invalid(f"format version {document['format']} is newer than this program, which knows up to {FORMAT}")
    return document

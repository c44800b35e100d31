"""Which volumes a store has: `volumes/ID/volume.0` and `volume.1` (docs/format.md, "volume.0, volume.1")."""

from __future__ import annotations

import hashlib
import json
import re
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from cdp.errors import Corrupt, Invalid, NotFound
from cdp.salvage.files import SECTOR, read_whole
from cdp.salvage.report import Report

FORMAT = 1
COPIES = ("volume.0", "volume.1")
SECTORS_MAX = 2**48 - 1
_ID = re.compile(r"[0-9a-f]{32}")
_NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]{0,127}")
_ORIGIN_KINDS = ("file", "device", "nbd")


@dataclass(frozen=True, slots=True)
class Origin:
    """The disk under a volume. `size` in bytes, `changed` a stamp."""

    kind: str
    path: str
    size: int
    identity: str
    changed: int


@dataclass(frozen=True, slots=True)
class Description:
    """A volume as its description tells. `size` in bytes at creation; `created` and `deleted` are stamps."""

    folder: Path
    generation: int
    id: str
    name: str
    size: int
    block_size: int
    created: int
    deleted: int | None
    origin: Origin | None


class _InvalidCopyError(Exception):
    """Why a copy does not count."""


def volume_folders(store: Path) -> list[Path]:
    """The folders of a store whose names are volume ids. Raises NotFound where there is no store."""
    root = store / "volumes"
    if not root.is_dir():
        raise NotFound(f"{store}: no cdp store here (no folder {root})")
    return sorted(path for path in root.iterdir() if _ID.fullmatch(path.name) and path.is_dir())


def read_description(folder: Path, report: Report) -> Description:
    """The copy that counts; findings go to `report`. Raises Corrupt where no copy is valid, Invalid for a later format."""
    valid: dict[str, Description] = {}
    raw: dict[str, bytes] = {}
    for name in COPIES:
        content = read_whole(folder / name)
        try:
            if content is None:
                raise _InvalidCopyError("the file is missing")
            raw[name] = content
            valid[name] = _decode(folder, name, content)
        except _InvalidCopyError as error:
            report.damage(name, str(error))
    if not valid:
        raise Corrupt(f"{folder}: neither {COPIES[0]} nor {COPIES[1]} is valid")
    if len(valid) == len(COPIES):
        _compare(valid, raw, report)
    return max(valid.values(), key=lambda description: description.generation)


def find_volume(store: Path, wanted: str) -> Path:
    """The folder of the volume with this name or id. A name means the volume that is not deleted, if there is one."""
    folders = volume_folders(store)
    named: list[Description] = []
    for folder in folders:
        if folder.name == wanted:
            return folder
        try:
            description = read_description(folder, Report())
        except (Corrupt, Invalid):
            continue
        if description.name == wanted:
            named.append(description)
    alive = [description for description in named if description.deleted is None] or named
    if len(alive) > 1:
        raise Invalid(f"{len(alive)} deleted volumes were named {wanted}; say which by id: {_ids(alive)}")
    if not alive:
        raise NotFound(f"{store} has no volume {wanted}")
    return alive[0].folder


def _ids(descriptions: list[Description]) -> str:
    return ", ".join(description.id for description in descriptions)


def _compare(valid: dict[str, Description], raw: dict[str, bytes], report: Report) -> None:
    ahead = valid[COPIES[0]].generation - valid[COPIES[1]].generation
    if ahead == 0 and raw[COPIES[0]] != raw[COPIES[1]]:
        report.damage(COPIES[1], f"differs from {COPIES[0]} in the same generation")
    elif ahead == 1:
        report.note(COPIES[1], f"one generation behind {COPIES[0]}, as a crash leaves it")
    elif ahead != 0:
        report.damage(COPIES[0 if ahead < 0 else 1], f"{abs(ahead)} generations behind the other copy")


def _decode(folder: Path, name: str, content: bytes) -> Description:
    fields = _checked_object(content)
    version = fields.get("format")
    if not isinstance(version, int) or isinstance(version, bool) or version < 1:
        raise _InvalidCopyError(f"format is {version!r}")
    if version > FORMAT:
        raise Invalid(f"{folder / name}: format {version}; this reader knows {FORMAT}")
    try:
        return _description(folder, fields)
    except KeyError as error:
        raise _InvalidCopyError(f"the key {error} is missing") from None


def _checked_object(content: bytes) -> dict[str, Any]:
    lines = content.split(b"\n")
    if len(lines) != 3 or lines[2]:
        raise _InvalidCopyError("not two lines")
    if lines[1] != b"sha256:" + hashlib.sha256(lines[0]).hexdigest().encode():
        raise _InvalidCopyError("the checksum is wrong")
    try:
        fields = json.loads(lines[0])
    except ValueError:
        raise _InvalidCopyError("the first line is not JSON") from None
    if not isinstance(fields, dict):
        raise _InvalidCopyError("the first line is no JSON object")
    return fields


def _description(folder: Path, fields: dict[str, Any]) -> Description:
    if fields["id"] != folder.name:
        raise _InvalidCopyError(f"it belongs to volume {fields['id']}: a foreign file")
    name = fields["name"]
    if not isinstance(name, str) or not _NAME.fullmatch(name):
        raise _InvalidCopyError(f"{name!r} is no volume name")
    size = _integer(fields, "size")
    if size % SECTOR or not 1 <= size // SECTOR <= SECTORS_MAX:
        raise _InvalidCopyError(f"the size of {size} bytes is impossible")
    block_size = _integer(fields, "block_size")
    if block_size not in (512, 4096):
        raise _InvalidCopyError(f"the block size of {block_size} bytes is impossible")
    deleted = None if fields["deleted"] is None else _integer(fields, "deleted")
    generation, created = _integer(fields, "generation"), _integer(fields, "created")
    origin = None if fields["origin"] is None else _origin(fields["origin"])
    return Description(folder, generation, folder.name, name, size, block_size, created, deleted, origin)


def _origin(fields: object) -> Origin:
    if not isinstance(fields, dict) or fields["kind"] not in _ORIGIN_KINDS:
        raise _InvalidCopyError("the origin is of no known kind")
    path, identity = fields["path"], fields["identity"]
    if not isinstance(path, str) or not isinstance(identity, str):
        raise _InvalidCopyError("the origin's path or identity is no text")
    return Origin(fields["kind"], path, _integer(fields, "size"), identity, _integer(fields, "changed"))


def _integer(fields: dict[str, Any], key: str) -> int:
    value = fields[key]
    if not isinstance(value, int) or isinstance(value, bool) or value < 0:
        raise _InvalidCopyError(f"{key} is {value!r}")
    return value

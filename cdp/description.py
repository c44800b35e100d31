"""What a volume is: the files volume.0 and volume.1 (docs/format.md, "volume.0, volume.1"), as bytes and as a value.

Invariants:
- Pure: no file is touched here.
- `decode` accepts exactly what `encode` makes of a valid description, with unknown keys left aside; everything else is Corrupt,
  a larger format version is Invalid, and nothing else is ever raised.
"""

from __future__ import annotations

import hashlib
import json
from dataclasses import asdict, dataclass
from typing import Any

from cdp.errors import Corrupt, Invalid
from cdp.names import is_name, is_volume_id

FORMAT = 1
SECTOR = 512
SIZE_MAX = ((1 << 48) - 1) * SECTOR
BLOCK_SIZES = (512, 4096)
STAMP_MAX = (1 << 64) - 1
COPY_BYTES_MAX = 1 << 20
"""More than a description can have: a path is at most 4096 bytes. Keeps a foreign file from being read whole."""


@dataclass(frozen=True, slots=True)
class Origin:
    """The disk under a volume, as it was when it was last accepted. `size` in bytes; `changed_stamp` 0 where the kind has none."""

    kind: str
    path: str
    size: int
    identity: str
    changed_stamp: int


@dataclass(frozen=True, slots=True)
class Parent:
    """Whose clone a volume is, and from which instant; `name` as it was then."""

    id: str
    name: str
    lsn: int
    stamp: int


@dataclass(frozen=True, slots=True)
class Description:
    """A volume's description. `size` in bytes, at creation; stamps in nanoseconds since 1970.

    `live_size`: the live volume's when it last changed, for listings; the journal is what counts (None: it never grew).
    """

    id: str
    name: str
    size: int
    block_size: int
    created_stamp: int
    deleted_stamp: int | None = None
    origin: Origin | None = None
    generation: int = 1
    parent: Parent | None = None
    live_size: int | None = None

    @property
    def shown_size(self) -> int:
        """What a listing tells: bytes."""
        return self.size if self.live_size is None else self.live_size


def check_size(size: int) -> int:
    """A volume's size in bytes, or Invalid."""
    if size % SECTOR or not SECTOR <= size <= SIZE_MAX:
        raise Invalid(
            f"a volume cannot have {size} bytes: a multiple of {SECTOR} from {SECTOR} to {SIZE_MAX} is needed"
        )
    return size


def check_block_size(block_size: int) -> int:
    """A volume's block size in bytes, or Invalid."""
    if block_size not in BLOCK_SIZES:
        raise Invalid(f"a block size of {block_size} bytes is not possible: 512 or 4096")
    return block_size


def encode(description: Description) -> bytes:
    """The bytes of one copy."""
    document: dict[str, Any] = {
        "format": FORMAT,
        "generation": description.generation,
        "id": description.id,
        "name": description.name,
        "size": description.size,
        "block_size": description.block_size,
        "created": description.created_stamp,
        "deleted": description.deleted_stamp,
        "origin": None,
    }
    if description.parent is not None:
        document["parent"] = asdict(description.parent)
    if description.live_size is not None:
        document["live_size"] = description.live_size
    if description.origin is not None:
        origin = asdict(description.origin)
        origin["changed"] = origin.pop("changed_stamp")
        document["origin"] = origin
    line = json.dumps(document, ensure_ascii=True).encode()
    return line + b"\nsha256:" + hashlib.sha256(line).hexdigest().encode() + b"\n"


def decode(data: bytes) -> Description:
    """The description in one copy's bytes. Corrupt if they are not one; Invalid if a newer version of cdp wrote them."""
    document = _document(data)
    version = _number(document, "format", 1)
    if version > FORMAT:
        raise Invalid(f"format version {version} is newer than this program, which knows up to {FORMAT}")
    name, volume_id = _text(document, "name"), _text(document, "id")
    if not is_name(name) or not is_volume_id(volume_id):
        raise Corrupt("its name or id cannot be one")
    size, block_size = _size(document, "size"), _number(document, "block_size")
    if block_size not in BLOCK_SIZES:
        raise Corrupt("its block size cannot be one")
    deleted = document.get("deleted")
    return Description(
        id=volume_id,
        name=name,
        size=size,
        block_size=block_size,
        created_stamp=_number(document, "created"),
        deleted_stamp=None if deleted is None else _number(document, "deleted"),
        origin=_origin(document.get("origin")),
        generation=_number(document, "generation"),
        parent=_parent(document.get("parent")),
        live_size=None if document.get("live_size") is None else _size(document, "live_size"),
    )


def _document(data: bytes) -> dict[str, Any]:
    line, newline, rest = data.partition(b"\n")
    if not data:
        raise Corrupt("it is empty")
    if not newline or not rest.startswith(b"sha256:"):
        raise Corrupt("it is not a volume's description, or was cut short")
    if rest != b"sha256:" + hashlib.sha256(line).hexdigest().encode() + b"\n":
        raise Corrupt("its checksum does not match")
    try:
        document = json.loads(line)
    except (ValueError, RecursionError) as error:
        raise Corrupt("its first line is not JSON") from error
    if not isinstance(document, dict):
        raise Corrupt("its first line is not a JSON object")
    return document


def _number(document: dict[str, Any], key: str, least: int = 0, most: int = STAMP_MAX) -> int:
    value = document.get(key)
    # bool is an int to Python, but not to JSON.
    if not isinstance(value, int) or isinstance(value, bool) or not least <= value <= most:
        raise Corrupt(f"its {key!r} is not a number from {least} to {most}")
    return value


def _size(document: dict[str, Any], key: str) -> int:
    size = _number(document, key, SECTOR, SIZE_MAX)
    if size % SECTOR:
        raise Corrupt(f"its {key!r} is not whole sectors")
    return size


def _text(document: dict[str, Any], key: str) -> str:
    value = document.get(key)
    if not isinstance(value, str):
        raise Corrupt(f"its {key!r} is not a text")
    return value


def _origin(value: object) -> Origin | None:
    if value is None:
        return None
    if not isinstance(value, dict) or value.get("kind") not in ("file", "device", "nbd"):
        raise Corrupt("its origin is not one")
    return Origin(
        kind=_text(value, "kind"),
        path=_text(value, "path"),
        size=_number(value, "size"),
        identity=_text(value, "identity"),
        changed_stamp=_number(value, "changed"),
    )


def _parent(value: object) -> Parent | None:
    if value is None:
        return None
    if not isinstance(value, dict):
        raise Corrupt("its parent is not one")
    parent = Parent(_text(value, "id"), _text(value, "name"), _number(value, "lsn"), _number(value, "stamp"))
    if not is_name(parent.name) or not is_volume_id(parent.id):
        raise Corrupt("the name or id of its parent cannot be one")
    return parent

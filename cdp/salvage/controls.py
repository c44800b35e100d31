"""Control records: what they say about sizes and bookmarks (docs/format.md, "The state at an LSN")."""

from __future__ import annotations

import json
from collections.abc import Iterable
from dataclasses import dataclass

from cdp.salvage.catalog import SECTORS_MAX
from cdp.salvage.files import SECTOR


@dataclass(frozen=True, slots=True)
class Control:
    """A control record. `fields` is its JSON object, or None where it is none; `text` its bytes as they are stored."""

    lsn: int
    stamp: int
    text: bytes
    fields: dict[str, object] | None


def decode_control(lsn: int, stamp: int, text: bytes) -> Control:
    """The record of these bytes."""
    try:
        fields = json.loads(text)
    except ValueError:
        fields = None
    return Control(lsn, stamp, text, fields if isinstance(fields, dict) else None)


def rollback_control(lsn: int, stamp: int, back: int) -> Control:
    """A rollback, as CTRL has it: the record itself has no payload."""
    return decode_control(lsn, stamp, b'{"type":"rollback","to":%d}' % back)


def rolled_back_to(control: Control) -> int | None:
    """The LSN that a rollback in CTRL goes back to; None for any other record."""
    fields = control.fields
    back = fields.get("to") if fields and fields.get("type") == "rollback" else None
    return back if isinstance(back, int) and back >= 0 else None


def resized_to(control: Control) -> int | None:
    """The size in bytes that a resize sets; None where the record is no valid resize."""
    fields = control.fields
    size = fields["size"] if fields and fields.keys() == {"type", "size"} and fields["type"] == "resize" else None
    valid = isinstance(size, int) and size % SECTOR == 0 and 1 <= size // SECTOR <= SECTORS_MAX
    return size if valid and isinstance(size, int) else None


def bookmarks_of(controls: Iterable[Control]) -> dict[str, int]:
    """The LSN of each bookmark: the newest of a name counts, unless it was removed later."""
    marks: dict[str, int] = {}
    for control in controls:
        fields = control.fields or {}
        name, lsn = fields.get("name"), fields.get("lsn")
        if fields.get("type") == "bookmark" and isinstance(name, str) and isinstance(lsn, int):
            marks[name] = lsn
        elif fields.get("type") == "bookmark-removed" and isinstance(name, str):
            marks.pop(name, None)
    return marks

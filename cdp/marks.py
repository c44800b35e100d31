"""Bookmarks and events: what the control records of a journal say (docs/format.md, kind 5).

    {"type": "bookmark", "name": NAME, "lsn": N, "stamp": STAMP}     the newest of a name counts; may also have
                                                                     "held": true, "expires": STAMP and
                                                                     "common": STAMP (of a group of volumes)
    {"type": "bookmark-removed", "name": NAME}
    {"type": "event", "event": WHAT, …}

Invariants:
- Pure: records in, values out. A record that cannot be understood is left aside, never an error: a later version may have written it.
"""

from __future__ import annotations

import json
from collections.abc import Iterable
from typing import Any

from cdp.facts import BookmarkFacts, EventFacts

Control = tuple[int, int, bytes]
"""LSN, stamp and JSON of a control record, as `_native.Volume.controls` gives it."""


def bookmark_record(
    name: str,
    lsn: int,
    stamp: int,
    *,
    held: bool = False,
    expires_stamp: int | None = None,
    common_stamp: int | None = None,
) -> bytes:
    """The record that names an instant."""
    record = {"type": "bookmark", "name": name, "lsn": lsn, "stamp": stamp}
    more = {"held": held or None, "expires": expires_stamp, "common": common_stamp}
    return _encode({**record, **{key: value for key, value in more.items() if value is not None}})


def removal_record(name: str) -> bytes:
    """The record that takes a name away."""
    return _encode({"type": "bookmark-removed", "name": name})


def event_record(event: str, **details: Any) -> bytes:
    """The record of something that happened."""
    return _encode({"type": "event", "event": event, **details})


def bookmarks(controls: Iterable[Control]) -> dict[str, BookmarkFacts]:
    """The bookmarks that the records, in the order of their LSNs, leave."""
    found: dict[str, BookmarkFacts] = {}
    for _, made, data in controls:
        record = _decode(data)
        name, lsn, stamp = record.get("name"), record.get("lsn"), record.get("stamp")
        if not isinstance(name, str):
            continue
        if record.get("type") == "bookmark-removed":
            found.pop(name, None)
        elif record.get("type") == "bookmark" and isinstance(lsn, int) and isinstance(stamp, int):
            held = record.get("held") is True
            found[name] = BookmarkFacts(
                name, lsn, stamp, made, held, _stamp(record, "expires"), _stamp(record, "common")
            )
    return found


def condition(controls: Iterable[Control], begins: str, ends: str) -> bool:
    """Whether the newest of two events is the one that begins a condition."""
    found = False
    for event in events(
        control for control in controls if begins.encode() in control[2] or ends.encode() in control[2]
    ):
        found = event.event == begins if event.event in (begins, ends) else found
    return found


def events(controls: Iterable[Control]) -> list[EventFacts]:
    """What happened, in the order of the records. Bookmarks are no events; the name of an unknown type is one."""
    found = []
    for lsn, stamp, data in controls:
        record = _decode(data)
        kind = record.pop("type", None)
        if kind == "event":
            found.append(EventFacts(lsn, stamp, str(record.pop("event", "unnamed")), record))
        elif kind not in ("bookmark", "bookmark-removed"):
            found.append(EventFacts(lsn, stamp, str(kind or "unreadable"), record))
    return found


def _stamp(record: dict[str, Any], key: str) -> int | None:
    value = record.get(key)
    return value if isinstance(value, int) else None


def _encode(record: dict[str, Any]) -> bytes:
    return json.dumps(record, separators=(",", ":")).encode()


def _decode(data: bytes) -> dict[str, Any]:
    try:
        record = json.loads(data)
    except (ValueError, RecursionError):
        return {}
    return record if isinstance(record, dict) else {}

"""What the commands tell about a volume: as JSON objects, and as lines for people."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

from cdp.salvage.instants import Instant, latest, oldest
from cdp.salvage.volume import Volume
from cdp.salvage.when import show_stamp

_POINTS_SHOWN = 8


def instant_facts(instant: Instant) -> dict[str, Any]:
    """LSN, stamp (ns) and time of an instant."""
    return {"lsn": instant.lsn, "stamp": instant.stamp, "time": show_stamp(instant.stamp)}


def reach_facts(volume: Volume) -> dict[str, Any]:
    """What can be reached, and what the volume was cloned from, its parent first."""
    history = volume.history
    marks = [instant_facts(Instant(mark.lsn, mark.stamp)) for mark in history.marks]
    return {
        "oldest": instant_facts(oldest(history)),
        "latest": instant_facts(latest(history)),
        "horizon": marks[-1],
        "points": marks[:-1],
        "rollbacks": len(history.rollbacks),
        "ancestors": [
            {"volume": ancestor.volume, "base_lsn": ancestor.base_lsn, "floor_lsn": ancestor.floor_lsn}
            for ancestor in reversed(volume.lineage.ancestors)
        ],
    }


def reach_lines(facts: dict[str, Any]) -> Iterator[str]:
    """The same for people."""
    for edge in ("oldest", "horizon", "latest"):
        yield f"{edge}: {facts[edge]['time']} (LSN {facts[edge]['lsn']})"
    points = facts["points"]
    for point in points[-_POINTS_SHOWN:]:
        yield f"point {point['time']} (LSN {point['lsn']})"
    if len(points) > _POINTS_SHOWN:
        yield f"and {len(points) - _POINTS_SHOWN} older points (--json lists them)"
    if facts["rollbacks"]:
        yield f"rollbacks: {facts['rollbacks']}"
    for ancestor, kinship in zip(
        facts["ancestors"], ("cloned", *["which was cloned"] * len(facts["ancestors"])), strict=False
    ):
        yield f"{kinship} from volume {ancestor['volume']} at LSN {ancestor['base_lsn']}"


def volume_facts(volume: Volume) -> dict[str, Any]:
    """What `list` tells."""
    description, history = volume.description, volume.history
    return {
        "id": description.id,
        "name": description.name,
        "size": history.size_at(latest(history).lsn),
        **reach_facts(volume),
        "deleted": None if description.deleted is None else show_stamp(description.deleted),
        "bookmarks": history.bookmarks(),
        "stopped_cleanly": volume.manifest.clean,
        "findings": [finding.json() for finding in volume.report.findings],
    }


def volume_lines(facts: dict[str, Any]) -> Iterator[str]:
    """The same for people."""
    if "error" in facts:
        yield f"{facts['id']}: {facts['error']}"
        return
    gone = f", deleted {facts['deleted']}" if facts["deleted"] else ""
    yield f"{facts['name']} ({facts['id']}): {facts['size']} bytes{gone}"
    yield from (f"  {line}" for line in reach_lines(facts))
    for name, lsn in sorted(facts["bookmarks"].items()):
        yield f"  bookmark {name}: LSN {lsn}"
    for finding in facts["findings"]:
        yield f"  {finding['severity']}: {finding['file']}: {finding['text']}"

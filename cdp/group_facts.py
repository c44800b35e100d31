"""What the store tells about groups of volumes: plain values, as in cdp/facts.py.

Invariant:
- The field names are the keys of `--json` and of the control API: adding is allowed, renaming is not.
"""

from __future__ import annotations

from dataclasses import dataclass

from cdp.facts import InstantFacts, RollbackFacts


@dataclass(frozen=True, slots=True)
class GroupMemberFacts:
    """A volume of a group. `name` None: its description cannot be read, or it is gone."""

    id: str
    name: str | None


@dataclass(frozen=True, slots=True)
class GroupFacts:
    """A line of `cdp group list`. `state`: ok, unfinished (a rollback or a bookmark of all its volumes was begun) or damaged (only its ID is known)."""

    id: str
    state: str
    name: str | None = None
    made_stamp: int | None = None
    volumes: tuple[GroupMemberFacts, ...] = ()
    problems: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True)
class GroupGapFacts:
    """Times at which the group has no instant: from `since_stamp` on, and before `until_stamp` (None: it has not ended).

    `kind`: crash (writes that were answered may be lost), clock (it was set back), rollback (not all volumes were rolled back yet).
    `volume`: whose journal tells of it; None: the group's own notes do.
    """

    since_stamp: int
    until_stamp: int | None
    kind: str
    volume: str | None


@dataclass(frozen=True, slots=True)
class GroupBookmarkFacts:
    """A bookmark that all volumes of a group have at the one instant `stamp`."""

    name: str
    stamp: int
    held: bool = False
    expires_stamp: int | None = None


@dataclass(frozen=True, slots=True)
class GroupShowFacts:
    """What `cdp group show` prints. `oldest_stamp`, `latest_stamp`: the first and the last common instant; None: there is none, `problems` says why."""

    group: GroupFacts
    oldest_stamp: int | None
    latest_stamp: int | None
    gaps: tuple[GroupGapFacts, ...]
    bookmarks: tuple[GroupBookmarkFacts, ...]
    undo_stamp: int | None
    """Where `cdp rollback --group … --undo` goes back to; None: there was no rollback of the group."""
    unfinished: str | None
    """What was begun and not completed, and what completes it."""
    problems: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True)
class GroupVolumeInstantFacts:
    """A volume at the instant of its group: `export` is the name under which it is served."""

    id: str
    volume: str
    export: str
    instant: InstantFacts


@dataclass(frozen=True, slots=True)
class GroupInstantFacts:
    """All volumes of a group at the one instant `stamp`: every record that is stamped at or before it, of each."""

    group: str
    stamp: int
    volumes: tuple[GroupVolumeInstantFacts, ...]


@dataclass(frozen=True, slots=True)
class GroupRollbackFacts:
    """A rollback of all volumes of a group to the instant `to_stamp`; an undo goes back to `before_stamp`."""

    group: str
    to_stamp: int
    before_stamp: int
    volumes: tuple[RollbackFacts, ...]

"""Groups on the files of a store: what a kill in the middle leaves and how it is completed, failures that are undone, files that are damaged."""

from __future__ import annotations

import os
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from cdp.branching import roll_back
from cdp.errors import Busy, CdpError, Invalid, NoSpace, NotFound
from cdp.group_keeping import GroupKeeper
from cdp.group_verbs import LocalGroups
from cdp.store import LocalStore
from cdp.table import Table
from cdp.volume import OpenVolume
from cdp.when import Ago, At, AtBookmark, AtLsn, Latest, Oldest

NAMES = ("a", "b", "c")
BLOCK = 4096


class Killed(BaseException):
    """Stands for the end of the process: nothing of ours handles it."""


class Rig:
    """A store with a group of three volumes, without a daemon."""

    def __init__(self, store: Path) -> None:
        self.path = store
        self.store = LocalStore(store, retention={})
        for name in NAMES:
            self.store.create(name, 1 << 20, 4096, None)
        self.groups.create("g", NAMES)

    @property
    def groups(self) -> LocalGroups:
        return self.store.groups

    def write(self, count: int) -> int:
        """Writes a number to all volumes, one after the other; the stamp of the last one."""
        for name in NAMES:
            with self.store.opener.writing(self.store.catalog.find(name)) as volume:
                lsn = volume.native.write(0, bytes([count]) * BLOCK)
                stamp = volume.native.instant_of_lsn(lsn).stamp
        return stamp

    def read(self) -> list[int]:
        found = []
        for name in NAMES:
            with self.store.opener.looking(self.store.catalog.find(name)) as volume:
                found.append(volume.native.live().read(0, 1)[0] if volume.native.size else -1)
        return found

    def marks(self, name: str) -> list[str]:
        """Which volumes have a bookmark of that name."""
        return [it for it in NAMES if any(mark.name == name for mark in self.store.show(it).bookmarks)]


@pytest.fixture
def rig(store: Path) -> Rig:
    return Rig(store)


def on_call(number: int, error: BaseException, work: Callable[..., Any]) -> Callable[..., Any]:
    """`work`, but its call of that number (from 1) fails."""
    calls = 0

    def called(*args: Any, **named: Any) -> Any:
        nonlocal calls
        calls += 1
        if calls == number:
            raise error
        return work(*args, **named)

    return called


def test_a_rollback_that_was_killed_is_seen_and_completed(rig: Rig, monkeypatch: pytest.MonkeyPatch) -> None:
    first = rig.write(1)
    second = rig.write(2)
    with monkeypatch.context() as patched:
        patched.setattr("cdp.group_verbs.roll_back", on_call(3, Killed(), roll_back))
        with pytest.raises(Killed):
            rig.groups.rollback("g", At(first), force=False)
    assert rig.read() == [1, 1, 2]

    shown = rig.groups.show("g")
    assert shown.group.state == "unfinished"
    assert shown.unfinished is not None
    assert "cdp rollback --group g" in shown.unfinished
    assert [(gap.kind, gap.until_stamp) for gap in shown.gaps] == [("rollback", None)]
    with pytest.raises(NotFound, match="a rollback of the group was under way"):
        rig.groups.resolve("g", Latest())
    with pytest.raises(Busy, match="begun and not completed"):
        rig.groups.bookmark("g", "name", At(first), force=False)
    assert rig.groups.resolve("g", At(second)).stamp == second

    done = rig.groups.rollback("g", At(first), force=False)
    assert rig.read() == [1, 1, 1]
    assert done.before_stamp == second
    shown = rig.groups.show("g")
    assert (shown.group.state, shown.unfinished, shown.undo_stamp) == ("ok", None, second)
    (gap,) = shown.gaps
    assert (gap.since_stamp, gap.until_stamp) == (second + 1, done.volumes[-1].stamp)
    assert rig.groups.rollback("g", None, force=False).to_stamp == second
    assert rig.read() == [2, 2, 2]


def test_a_rollback_that_fails_is_undone(rig: Rig, monkeypatch: pytest.MonkeyPatch) -> None:
    first = rig.write(1)
    rig.write(2)
    monkeypatch.setattr("cdp.group_verbs.roll_back", on_call(3, NoSpace("the disk is full"), roll_back))
    with pytest.raises(NoSpace):
        rig.groups.rollback("g", At(first), force=False)
    assert rig.read() == [2, 2, 2]
    shown = rig.groups.show("g")
    assert (shown.unfinished, shown.undo_stamp, [gap.kind for gap in shown.gaps]) == (None, None, ["rollback"])
    assert rig.groups.resolve("g", Latest())
    with pytest.raises(NotFound, match="no rollback"):
        rig.groups.rollback("g", None, force=False)


def test_a_bookmark_that_was_killed_is_completed(rig: Rig, monkeypatch: pytest.MonkeyPatch) -> None:
    stamp = rig.write(1)
    with monkeypatch.context() as patched:
        patched.setattr(OpenVolume, "add_bookmark", on_call(2, Killed(), OpenVolume.add_bookmark))
        with pytest.raises(Killed):
            rig.groups.bookmark("g", "m", Latest(), force=False, held=True)
    assert rig.marks("m") == ["a"]
    assert rig.groups.show("g").unfinished is not None
    with pytest.raises(NotFound, match="b, c has none"):
        rig.groups.resolve("g", AtBookmark("m"))
    rig.write(2)
    rig.groups.complete("g")
    assert rig.marks("m") == list(NAMES)
    assert rig.groups.resolve("g", AtBookmark("m")).stamp == stamp
    (mark,) = rig.groups.show("g").bookmarks
    assert (mark.name, mark.stamp, mark.held) == ("m", stamp, True)
    assert rig.groups.show("g").unfinished is None


def test_a_bookmark_that_fails_is_on_none(rig: Rig, monkeypatch: pytest.MonkeyPatch) -> None:
    rig.write(1)
    rig.store.bookmark("a", "m", Oldest(), force=False, held=True)
    with pytest.raises(Invalid, match="already, on a"):
        rig.groups.bookmark("g", "m", Latest(), force=False)
    before = rig.store.show("a").bookmarks[0]
    with monkeypatch.context() as patched:
        patched.setattr(OpenVolume, "add_bookmark", on_call(2, NoSpace("full"), OpenVolume.add_bookmark))
        with pytest.raises(NoSpace):
            rig.groups.bookmark("g", "m", Latest(), force=True)
    assert rig.marks("m") == ["a"]
    after = rig.store.show("a").bookmarks[0]
    assert (after.lsn, after.held, after.common_stamp) == (before.lsn, True, None)
    assert rig.groups.show("g").unfinished is None
    rig.groups.bookmark("g", "m", Latest(), force=True)
    assert [it.name for it in rig.groups.show("g").bookmarks] == ["m"]


def test_instants_that_a_group_does_not_have(rig: Rig) -> None:
    rig.write(1)
    for wanted, why in (
        (At(1), "keeps every write from"),
        (Ago(86400 * 10**9), "keeps every write from"),
        (At(1 << 63), "future"),
        (AtBookmark("none"), "no bookmark"),
    ):
        with pytest.raises(NotFound, match=why):
            rig.groups.resolve("g", wanted)
    with pytest.raises(Invalid, match="one volume"):
        rig.groups.resolve("g", AtLsn(1))
    oldest = rig.groups.resolve("g", Oldest())
    assert oldest.stamp == max(rig.store.show(name).volume.created_stamp or 0 for name in NAMES)


def test_what_a_member_gave_up_is_left_to_bookmarks_of_the_group(rig: Rig) -> None:
    stamp = rig.write(1)
    rig.groups.bookmark("g", "m", Latest(), force=False)
    later = rig.write(2)
    rig.write(3)
    with rig.store.opener.writing(rig.store.catalog.find("b")) as volume:
        kept = volume.bookmarks()[0].lsn
        volume.native.retain(volume.native.latest().lsn, [kept])
    with pytest.raises(NotFound, match="b keeps every write"):
        rig.groups.resolve("g", At(later))
    assert rig.groups.resolve("g", AtBookmark("m")).stamp == stamp
    # Its time, too: exports are named by it.
    assert rig.groups.resolve("g", At(stamp)).volumes == rig.groups.resolve("g", AtBookmark("m")).volumes
    assert rig.groups.rollback("g", AtBookmark("m"), force=False).to_stamp == stamp
    assert rig.read() == [1, 1, 1]


def test_a_damaged_group_takes_no_other_with_it(rig: Rig) -> None:
    rig.groups.create("h", ["a"])
    (broken,) = [it.id for it in rig.groups.list() if it.name == "h"]
    path = rig.path / "groups" / f"{broken}.json"
    path.write_bytes(path.read_bytes().replace(b'"h"', b'"i"'))
    assert [(it.state, it.name) for it in rig.groups.list()] == [("ok", "g"), ("damaged", None)]
    with pytest.raises(CdpError, match="checksum"):
        rig.groups.show(broken)
    assert rig.groups.resolve("g", Latest())
    rig.groups.delete(broken)
    assert [it.name for it in rig.groups.list()] == ["g"]


def test_notes_bound_the_gap_of_a_crash(rig: Rig) -> None:
    """Two runs of a daemon's table over the store: the first one is left as a crash would leave it."""
    rig.write(1)
    pid = os.fork()
    if pid == 0:
        try:
            table = Table(rig.store.catalog)
            groups = LocalStore(rig.path, table, retention={}).groups
            keeper = GroupKeeper(rig.store.catalog, groups, table)
            keeper.begin()
            for name in (*NAMES, ""):
                if not name:
                    # The second one finds them silent, and flushes.
                    keeper.round()
                    keeper.round()
                with table.writing(rig.store.catalog.find(name or "c")) as volume:
                    volume.native.write(0, b"x" * BLOCK)
        finally:
            os._exit(0)
    os.waitpid(pid, 0)
    (group,) = rig.groups.files.groups()
    safe = rig.groups.files.notes(group.id)
    assert len(safe) == len(NAMES)

    # Who only looks finds the gap open; who opens for writing ends it.
    assert rig.groups.show("g").gaps[0].until_stamp is None
    rig.groups.complete("g")
    shown = rig.groups.show("g")
    starts = {gap.volume: gap.since_stamp for gap in shown.gaps}
    (latest_c,) = [it for it in shown.gaps if it.volume == "c"]
    by_name = {rig.store.catalog.get(volume_id).name: stamp for volume_id, stamp in safe.items()}
    # The idle ones' last records are older than the notes, the last one's is newer.
    assert starts["a"] == by_name["a"] + 1
    assert starts["b"] == by_name["b"] + 1
    assert latest_c.since_stamp > by_name["c"] + 1
    assert rig.groups.resolve("g", At(min(starts.values()) - 1))
    for gap in shown.gaps:
        assert gap.until_stamp is not None
        with pytest.raises(NotFound, match="crash"):
            rig.groups.resolve("g", At(gap.until_stamp - 1))

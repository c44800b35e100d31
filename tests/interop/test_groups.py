"""Groups of volumes over a real daemon: libnbd clients that wait for one volume's reply before they write to the next, and instants at which
that order has to show; a crash that takes one volume's tail; rollbacks and restores of all volumes at once.
"""

from __future__ import annotations

import random
import shutil
import threading
import time
from collections.abc import Iterator
from pathlib import Path

import nbd
import pytest

from cdp import _native, when
from cdp.control.client import RemoteStore
from cdp.errors import NotFound
from cdp.group_facts import GroupInstantFacts
from cdp.when import At, AtBookmark, Latest
from tests.rig.daemon import Daemon

BLOCK = 4096
SIZE = 16 << 20
VOLUMES = ("one", "two", "three")
CHAINS = 3
ROUNDS = 200
INSTANTS = 40
"""Of each kind: random times, and stamps of records."""
LIVE = 60
"""The newest instant while clients write."""


def open_nbd(daemon: Daemon, export: str) -> nbd.NBD:
    handle = nbd.NBD()
    handle.set_export_name(export)
    handle.connect_unix(str(daemon.socket))
    return handle


def put(handle: nbd.NBD, slot: int, count: int) -> None:
    handle.pwrite(count.to_bytes(8, "little") * (BLOCK // 8), slot * BLOCK)


def got(handle: nbd.NBD, slot: int) -> int:
    content = bytes(handle.pread(BLOCK, slot * BLOCK))
    assert content == content[:8] * (BLOCK // 8), "half a write is shown"
    return int.from_bytes(content[:8], "little")


def count_at(daemon: Daemon, export: str, slot: int = 0) -> int:
    handle = open_nbd(daemon, export)
    try:
        return got(handle, slot)
    finally:
        handle.shutdown()


class Chain:
    """A client that writes its counter to one volume after the other, each after the reply of the one before; then the next number."""

    def __init__(self, served: Daemon, slot: int, order: list[str]) -> None:
        self.slot = slot
        self.order = order
        self.times: list[int] = []
        self.counted = 0
        self._served = served
        self._begun = threading.Event()
        self._stop = threading.Event()
        self._error: BaseException | None = None
        self._thread = threading.Thread(target=self._run, name=f"chain {slot}", daemon=True)
        self._thread.start()

    def _run(self) -> None:
        try:
            handles = [open_nbd(self._served, name) for name in self.order]
            while not self._stop.is_set():
                for handle in handles:
                    put(handle, self.slot, self.counted + 1)
                    self.times.append(time.time_ns())
                self.counted += 1
                if self.counted == ROUNDS:
                    self._begun.set()
            for handle in handles:
                handle.shutdown()
        except BaseException as error:
            self._error = error
            self._begun.set()

    def wait_begun(self) -> None:
        """Until it has gone round so often that a random instant falls between two of its writes."""
        self._begun.wait()
        assert self._error is None, self._error

    def end(self) -> None:
        self._stop.set()
        self._thread.join()
        assert self._error is None, self._error

    def check(self, counts: dict[str, int]) -> None:
        """In the order of the writes no count is larger than the one before, and none more than one behind."""
        seen = [counts[name] for name in self.order]
        assert seen == sorted(seen, reverse=True), (self.order, seen)
        assert seen[0] - seen[-1] <= 1, (self.order, seen)


@pytest.fixture
def verbs(daemon: Daemon) -> Iterator[RemoteStore]:
    store = RemoteStore(daemon.store)
    yield store
    store.close()


@pytest.fixture
def group(daemon: Daemon, verbs: RemoteStore) -> Daemon:
    """A daemon whose volumes are a group, `g`."""
    for name in VOLUMES:
        verbs.create(name, SIZE, BLOCK, None)
    verbs.groups.create("g", VOLUMES)
    return daemon


def check_order(daemon: Daemon, chains: list[Chain], exports: list[str]) -> None:
    handles = {export.partition("@")[0]: open_nbd(daemon, export) for export in exports}
    for chain in chains:
        chain.check({name: got(handle, chain.slot) for name, handle in handles.items()})
    for handle in handles.values():
        handle.shutdown()


def printed(found: GroupInstantFacts) -> list[str]:
    return [it.export for it in found.volumes]


def records(found: GroupInstantFacts) -> list[str]:
    """The same views by the record that each volume's instant was found to be: a time is looked up again, this is not."""
    return [f"{it.volume}@lsn:{it.instant.lsn}" for it in found.volumes]


def record_stamps(daemon: Daemon, rng: random.Random, count: int) -> list[int]:
    """Stamps of records, of whichever volume."""
    stamps: list[int] = []
    for folder in (daemon.store / "volumes").iterdir():
        volume = _native.Volume.open(str(folder), read_only=True)
        last = volume.latest().lsn
        stamps += [stamp for _, stamp in volume.stamps(sorted(rng.sample(range(1, last), min(count, last - 1))))]
        volume.close()
    return rng.sample(stamps, count)


def test_no_instant_shows_what_was_written_later_without_what_was_written_before(
    group: Daemon, verbs: RemoteStore, rng: random.Random
) -> None:
    chains = [Chain(group, slot, rng.sample(VOLUMES, len(VOLUMES))) for slot in range(CHAINS)]
    for chain in chains:
        chain.wait_begun()
    live = [verbs.groups.resolve("g", Latest()) for _ in range(LIVE)]
    for chain in chains:
        chain.end()

    for found in live:
        check_order(group, chains, records(found))
    first, last = min(chain.times[2] for chain in chains), max(chain.times[-1] for chain in chains)
    for stamp in [rng.randint(first, last) for _ in range(INSTANTS)] + record_stamps(group, rng, INSTANTS):
        found = verbs.groups.resolve("g", At(stamp))
        assert found.stamp == stamp
        check_order(group, chains, printed(found))
        check_order(group, chains, records(found))
    # What was replied to before the last look is in it.
    final = verbs.groups.resolve("g", Latest())
    for chain in chains:
        assert {count_at(group, it.export, chain.slot) for it in final.volumes} == {chain.counted}


def write_one_after_the_other(daemon: Daemon, count: int) -> None:
    """To volume one, then to volume two, after the reply."""
    for name in VOLUMES[:2]:
        handle = open_nbd(daemon, name)
        put(handle, 0, count)
        handle.flush()
        handle.shutdown()


def segments(folder: Path) -> list[Path]:
    return sorted(folder.glob("segment-*"))


def test_a_lost_tail_is_a_gap(group: Daemon, tmp_path: Path) -> None:
    ids = {it["name"]: it["id"] for it in group.cdp("list")}
    folder = group.store / "volumes" / ids["one"]
    write_one_after_the_other(group, 1)
    before = group.cdp("show", "one")["latest"]["stamp"]
    for path in segments(folder):
        shutil.copy(path, tmp_path)
    write_one_after_the_other(group, 2)
    later = group.cdp("show", "two")["latest"]["stamp"]
    assert count_at(group, f"one@@{later // 10**9}.{later % 10**9:09}") == 2
    group.kill()
    # A power cut, as a disk without its writes would show it: what volume one was told after the copy never reached it.
    for path in segments(folder):
        copy = tmp_path / path.name
        path.write_bytes(copy.read_bytes().ljust(path.stat().st_size, b"\0") if copy.exists() else b"")

    dirty = group.cdp("group", "show", "g")
    assert [(gap["kind"], gap["until_stamp"]) for gap in dirty["gaps"]][:1] == [("crash", None)]
    group.start()
    assert count_at(group, "one") == 1
    assert count_at(group, "two") == 2

    shown = group.cdp("group", "show", "g")
    lost = [gap for gap in shown["gaps"] if gap["volume"] == "one"]
    assert [gap["kind"] for gap in lost] == ["crash"]
    assert before < lost[0]["since_stamp"] <= later < lost[0]["until_stamp"]
    assert "crash" in group.cdp.run("group", "show", "g").stdout
    assert "group g has no instants from" in group.log
    at_later = when.rfc3339(later)
    for refused in (
        ("group", "show", "g", "--at", at_later),
        ("rollback", "--group", "g", "--to", at_later),
        ("bookmark", "--group", "g", "name", "--at", at_later),
        ("restore", "--group", "g", "--at", at_later, "--to", tmp_path / "out"),
    ):
        assert "a crash may have taken" in group.cdp.run(*refused, exit_code=NotFound.exit_code).stderr
    # Before the gap, and from the restart on, there are instants again.
    exports = group.cdp("group", "show", "g", "--at", when.rfc3339(before))["volumes"]
    assert count_at(group, exports[0]["export"]) == 1
    write_one_after_the_other(group, 3)
    exports = group.cdp("group", "show", "g", "--at", "latest")["volumes"]
    assert [count_at(group, it["export"]) for it in exports[:2]] == [3, 3]
    # The gap is the group's own note by now: it stays when the daemon has gone.
    group.stop()
    kept = [gap for gap in group.cdp("group", "show", "g")["gaps"] if gap["volume"] == "one"]
    assert kept == lost
    group.start()


def test_rollback_bookmark_and_restore(group: Daemon, tmp_path: Path) -> None:
    write_one_after_the_other(group, 1)
    named = group.cdp("bookmark", "--group", "g", "good", "--hold")
    write_one_after_the_other(group, 2)
    marks = {name: group.cdp("show", name)["bookmarks"] for name in VOLUMES}
    assert {mark["common_stamp"] for found in marks.values() for mark in found} == {named["stamp"]}
    assert group.cdp("group", "show", "g")["bookmarks"][0]["name"] == "good"

    restored = group.cdp("restore", "--group", "g", "--at", "bookmark:good", "--to", tmp_path / "out", "--verify")
    assert restored["stamp"] == named["stamp"]
    for name, wanted in zip(VOLUMES, (1, 1, 0), strict=True):
        assert (tmp_path / "out" / f"{name}.img").read_bytes()[:8] == wanted.to_bytes(8, "little")

    writer = open_nbd(group, "two")
    latest = [group.cdp("show", name)["latest"] for name in VOLUMES]
    group.cdp.run("rollback", "--group", "g", "--to", "bookmark:good", exit_code=4)
    assert [group.cdp("show", name)["latest"] for name in VOLUMES] == latest, "a refused rollback changed something"
    done = group.cdp("rollback", "--group", "g", "--to", "bookmark:good", "--force")
    assert [it["connections_ended"] for it in done["volumes"]] == [0, 1, 0]
    with pytest.raises(nbd.Error):
        got(writer, 0)
    assert [count_at(group, name) for name in VOLUMES] == [1, 1, 0]
    between = done["volumes"][0]["stamp"]
    group.cdp.run("group", "show", "g", "--at", when.rfc3339(between), exit_code=NotFound.exit_code)
    group.cdp("rollback", "--group", "g", "--undo")
    assert [count_at(group, name) for name in VOLUMES] == [2, 2, 0]


def test_membership(group: Daemon) -> None:
    said = group.cdp.run("delete", "one", exit_code=4).stderr
    assert "belongs to the group g" in said
    group.cdp("rename", "one", "uno")
    assert [it["name"] for it in group.cdp("group", "list")[0]["volumes"]] == ["uno", "two", "three"]
    group.cdp("group", "remove", "g", "uno")
    group.cdp("delete", "uno")
    group.cdp.run("group", "create", "g", "two", exit_code=2)
    group.cdp("group", "create", "other", "two", "three")
    assert [it["name"] for it in group.cdp("group", "list")] == ["g", "other"]
    group.cdp("group", "delete", "other")
    group.stop()
    # The same without the daemon.
    group.cdp("group", "rename", "g", "h")
    group.cdp.run("group", "remove", "h", "nothing", exit_code=3)
    group.cdp("group", "remove", "h", "two")
    group.cdp.run("group", "remove", "h", "three", exit_code=2)
    group.cdp("group", "add", "h", "two")
    assert [it["name"] for it in group.cdp("group", "show", "h")["group"]["volumes"]] == ["three", "two"]
    group.cdp("bookmark", "--group", "h", "b")
    group.cdp("bookmark", "--group", "h", "--remove", "b")
    group.cdp("group", "delete", "h")
    assert group.cdp("group", "list") == []
    group.start()


def test_bookmarks_that_only_look_alike_are_none_of_the_group(group: Daemon, verbs: RemoteStore) -> None:
    for name in VOLUMES:
        verbs.bookmark(name, "same", Latest(), force=False)
    with pytest.raises(NotFound, match="different instants"):
        verbs.groups.resolve("g", AtBookmark("same"))

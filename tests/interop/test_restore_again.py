"""A restore that was killed goes on, and one to another instant writes what differs, whatever happened to the target meanwhile."""

from __future__ import annotations

import json
import os
import random
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from cdp import target_notes
from tests.rig.cdp import CDP, Cdp, environment
from tests.rig.content import content
from tests.rig.daemon import Daemon
from tests.rig.process import SECONDS_MAX, run

MIB = 1 << 20
SIZE = 96 * MIB
BLOCK = 4096


class History:
    """A volume `disk` with bookmarks `one`, `two`, `three`, made with the engine itself, and what it held at each."""

    def __init__(self, store: Path, rng: random.Random) -> None:
        from cdp.catalog import Catalog  # noqa: PLC0415
        from cdp.store import LocalStore  # noqa: PLC0415
        from cdp.volume import OpenVolume  # noqa: PLC0415
        from cdp.when import Latest  # noqa: PLC0415

        self.cdp = Cdp(store)
        self.store = store
        self.states: dict[str, bytes] = {}
        LocalStore(store).create("disk", SIZE, 4096, None)
        volume = OpenVolume(Catalog(store).find("disk"))
        now = bytearray(SIZE)

        def write(offset: int, data: bytes) -> None:
            volume.native.write(offset, data)
            now[offset : offset + len(data)] = data

        def zero(offset: int, length: int) -> None:
            volume.native.zero(offset, length, True)
            now[offset : offset + length] = bytes(length)

        for start in range(0, SIZE, 8 * MIB):
            write(start, content(6 * MIB, rng.random().hex()))
        for name in ("one", "two", "three"):
            if name != "one":
                for _ in range(150):
                    write(rng.randrange(SIZE // BLOCK - 4) * BLOCK, rng.randbytes(BLOCK))
                write(rng.randrange(SIZE // 512 - 9) * 512, rng.randbytes(512 * 9))
                zero(rng.randrange(SIZE // BLOCK - 600) * BLOCK, 512 * BLOCK)
            volume.add_bookmark(name, Latest())
            self.states[name] = bytes(now)
        volume.close()

    def differing(self, one: str, other: str) -> int:
        """Bytes of the blocks in which two instants differ."""
        a, b = self.states[one], self.states[other]
        return sum(BLOCK for at in range(0, SIZE, BLOCK) if a[at : at + BLOCK] != b[at : at + BLOCK])

    def restore(self, target: object, at: str, *options: str) -> dict[str, Any]:
        words = ("disk", "--at", f"bookmark:{at}", "--to", str(target), *options, "--json")
        return dict(json.loads(self.cdp.run("restore", *words).stdout))

    def refused(self, target: object, at: str, *options: str) -> str:
        words = ("disk", "--at", f"bookmark:{at}", "--to", str(target), *options)
        return self.cdp.run("restore", *words, exit_code=2).stderr

    def is_at(self, target: Path, at: str) -> bool:
        return target.read_bytes() == self.states[at]


@pytest.fixture
def history(store: Path, rng: random.Random) -> History:
    return History(store, rng)


KILLED = """
import os, sys
from contextlib import contextmanager
from pathlib import Path
from cdp import file_target
from cdp.restore import Order, restore
from cdp.store import LocalStore
from cdp.when import parse

file_target.NOTE_SECONDS = 0.0
store, target, at, calls, force = Path(sys.argv[1]), sys.argv[2], sys.argv[3], int(sys.argv[4]), sys.argv[5] == "force"

@contextmanager
def stage(label):
    count = iter(range(1 << 30))
    yield lambda done, total: os._exit(9) if next(count) == calls else None

restore(LocalStore(store), store, Order("disk", parse("bookmark:" + at), target, force=force), stage)
"""


def killed(history: History, target: Path, at: str, calls: int, *, force: bool = False) -> None:
    """A restore that ends like a kill at its n-th report of progress; each one before was noted."""
    words = (history.store, target, at, str(calls), "force" if force else "")
    run(sys.executable, "-c", KILLED, *words, env=environment(), exit_code=9)


def test_a_killed_restore_goes_on_where_it_stopped(history: History, tmp_path: Path) -> None:
    target = tmp_path / "image"
    killed(history, target, "two", 2)
    assert [path.name for path in tmp_path.iterdir()] == ["image.cdp-partial"]
    facts = history.restore(target, "two", "--verify")
    assert history.is_at(target, "two")
    assert facts["resumed_bytes"] >= 32 * MIB
    assert facts["written_bytes"] < SIZE - facts["resumed_bytes"]
    assert [path.name for path in tmp_path.iterdir()] == ["image"]


def test_a_restore_to_another_instant_writes_what_differs(history: History, tmp_path: Path) -> None:
    target = tmp_path / "image"
    history.restore(target, "one")
    for before, at in (("one", "two"), ("two", "three"), ("three", "one")):
        facts = history.restore(target, at)
        assert history.is_at(target, at)
        assert 0 < facts["written_bytes"] <= 1.1 * history.differing(before, at)
    assert history.restore(target, "one")["written_bytes"] == 0
    assert [path.name for path in tmp_path.iterdir()] == ["image"]


def test_a_target_that_was_written_to_needs_force_and_is_compared(history: History, tmp_path: Path) -> None:
    target = tmp_path / "image"
    history.restore(target, "one")
    with target.open("r+b") as file:
        file.seek(10 * MIB)
        file.write(b"\xee" * BLOCK)
    assert "--force" in history.refused(target, "two")
    facts = history.restore(target, "two", "--force")
    assert history.is_at(target, "two")
    assert facts["written_bytes"] <= 1.1 * (history.differing("one", "two") + BLOCK)


def test_without_a_state_folder_the_target_is_compared(history: History, state: Path, tmp_path: Path) -> None:
    target = tmp_path / "image"
    killed(history, target, "one", 3)
    for note in (state / "cdp" / "restores").iterdir():
        note.unlink()
    assert history.restore(target, "one")["written_bytes"] < SIZE
    for note in (state / "cdp" / "restores").iterdir():
        note.write_text(note.read_text().replace('"complete": true', '"complete":  true'))
        note.write_bytes(note.read_bytes()[:-9] + b"forged" + note.read_bytes()[-3:])
    assert "--force" in history.refused(target, "two")
    facts = history.restore(target, "two", "--force")
    assert history.is_at(target, "two")
    assert facts["written_bytes"] <= 1.1 * history.differing("one", "two")


def test_another_volume_is_not_mixed_in(history: History, tmp_path: Path) -> None:
    target = tmp_path / "image"
    killed(history, target, "two", 2)
    history.cdp("create", "other", "--size", str(SIZE + MIB))
    history.cdp.run("restore", "other", "--at", "latest", "--to", target)
    assert target.read_bytes() == bytes(SIZE + MIB)
    assert "another volume" in history.refused(target, "two")
    history.restore(target, "two", "--force")
    assert history.is_at(target, "two")


def test_two_restores_to_one_target(history: History, tmp_path: Path) -> None:
    target = tmp_path / "image"
    gate = tmp_path / "gate"
    os.mkfifo(gate)
    script = KILLED.replace("os._exit(9)", f"open({str(gate)!r}).read()")
    words = [sys.executable, "-c", script, str(history.store), str(target), "one", "0", ""]
    first = subprocess.Popen(words, env=environment())
    try:
        with gate.open("w") as opened:
            # The first one waits in its first report; it has the file.
            assert "locked" in history.cdp.run("restore", "disk", "--at", "latest", "--to", target, exit_code=4).stderr
            opened.write("go")
        assert first.wait(SECONDS_MAX) == 0
    finally:
        first.kill()
        first.wait()
    assert history.is_at(target, "one")


def _truncate(partial: Path) -> None:
    os.truncate(partial, 5 * MIB + 77)


def _grow(partial: Path) -> None:
    os.truncate(partial, SIZE + 3 * MIB)


def _replace(partial: Path) -> None:
    partial.unlink()
    partial.write_bytes(b"\xaa" * (SIZE // 2))


def _scribble(partial: Path) -> None:
    with partial.open("r+b") as file:
        for offset in (3 * MIB, 7 * MIB, 40 * MIB, SIZE - 512):
            file.seek(offset)
            file.write(b"\xbb" * 512)


def _remove(partial: Path) -> None:
    partial.unlink()


def _nothing(partial: Path) -> None:
    assert partial.exists()


MEDDLING: list[Callable[[Path], None]] = [_nothing, _truncate, _grow, _replace, _scribble, _remove]


@pytest.mark.parametrize("meddle", MEDDLING)
@pytest.mark.parametrize("then", ["two", "three"])
def test_whatever_happens_to_what_was_left(
    history: History, tmp_path: Path, meddle: Callable[[Path], None], then: str
) -> None:
    target, partial = tmp_path / "image", tmp_path / "image.cdp-partial"
    killed(history, target, "two", 3)
    meddle(partial)
    history.restore(target, then)
    assert history.is_at(target, then)
    assert not partial.exists()


def test_killed_at_any_moment(history: History, tmp_path: Path, rng: random.Random) -> None:
    """Real kills of the real command, at random moments, with random instants; what has the name is whole, always."""
    target, partial = tmp_path / "image", tmp_path / "image.cdp-partial"
    for _ in range(12):
        at = rng.choice(list(history.states))
        words = ["restore", "disk", "--at", f"bookmark:{at}", "--to", str(target), "--force"]
        child = subprocess.Popen(
            [*CDP, *words, "--store", str(history.store)], env=environment(), stdout=subprocess.DEVNULL
        )
        try:
            # Long enough to be anywhere, from the start of Python to the end.
            child.wait(rng.random() * 2.0)
        except subprocess.TimeoutExpired:
            child.kill()
            child.wait()
        if target.exists():
            assert any(history.is_at(target, name) for name in history.states)
        if partial.exists() and rng.random() < 0.3:
            rng.choice(MEDDLING[:5])(partial)
    history.restore(target, "three", "--force")
    assert history.is_at(target, "three")


@pytest.fixture
def device(tmp_path: Path) -> Iterator[tuple[Path, Path]]:
    image = tmp_path / "device"
    image.write_bytes(b"\x55" * (SIZE + MIB))
    done = subprocess.run(["losetup", "-f", "--show", str(image)], check=False, capture_output=True, text=True)
    if done.returncode:
        pytest.skip(f"no loop device: {done.stderr.strip()}")
    path = Path(done.stdout.strip())
    try:
        yield path, image
    finally:
        subprocess.run(["losetup", "-d", str(path)], check=True)


def test_a_device_goes_on_too_and_gets_only_what_differs(history: History, device: tuple[Path, Path]) -> None:
    path, image = device
    killed(history, path, "one", 2)
    facts = history.restore(path, "one")
    assert facts["resumed_bytes"] >= 32 * MIB
    assert path.read_bytes() == history.states["one"] + b"\x55" * MIB
    facts = history.restore(path, "two")
    assert facts["written_bytes"] <= 1.1 * history.differing("one", "two")
    assert path.read_bytes() == history.states["two"] + b"\x55" * MIB
    assert image.exists()


def test_a_file_behind_a_loop_device_is_refused(history: History, device: tuple[Path, Path]) -> None:
    path, image = device
    said = history.cdp.run("restore", "disk", "--at", "latest", "--to", image, "--force", exit_code=4).stderr
    assert str(path) in said


def test_a_note_is_of_one_version_of_one_file(tmp_path: Path) -> None:
    content = target_notes.Content("v", 1, 2, 3, "")
    note = target_notes.Note(target_notes.Identity("1", 2, 3, 4), content, False, ((0, 5, 6),))
    target_notes.save(str(tmp_path / "a"), note)
    assert target_notes.load(str(tmp_path / "a")) == note
    assert target_notes.load(str(tmp_path / "b")) is None
    target_notes.forget(str(tmp_path / "a"))
    assert target_notes.load(str(tmp_path / "a")) is None


def test_a_running_restore_holds_its_instant(history: History, daemon: Daemon, tmp_path: Path) -> None:
    """Until it ends, however it ends, and no longer."""
    gate = tmp_path / "gate"
    os.mkfifo(gate)
    script = KILLED.replace("os._exit(9)", f"open({str(gate)!r}).read()")
    script = script.replace("LocalStore(store), store", "RemoteStore(store), store")
    script = script.replace("from cdp.store import LocalStore", "from cdp.control.client import RemoteStore")
    words = [sys.executable, "-c", script, str(history.store), str(tmp_path / "image"), "one", "0", ""]
    restoring = subprocess.Popen(words, env=environment())
    try:
        with gate.open("w"):
            pins = daemon.cdp("retention", "disk")["pins"]
            assert [pin["lsn"] for pin in pins] == [bookmark_lsn(daemon, "one")]
            restoring.kill()
            restoring.wait()
    finally:
        restoring.kill()
        restoring.wait()
    deadline = time.monotonic() + SECONDS_MAX
    while daemon.cdp("retention", "disk")["pins"]:
        assert time.monotonic() < deadline


def bookmark_lsn(daemon: Daemon, name: str) -> int:
    return next(int(mark["lsn"]) for mark in daemon.cdp("show", "disk")["bookmarks"] if mark["name"] == name)

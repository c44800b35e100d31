"""A restored file appears when it is complete, or not at all."""

from __future__ import annotations

import dataclasses
import os
from collections.abc import Iterator
from pathlib import Path

import pytest

from cdp.errors import CdpError, Invalid
from cdp.file_target import FileTarget
from cdp.store import LocalStore
from cdp.target_notes import Content
from cdp.volume import OpenVolume
from tests.rig.content import content

SIZE = 1 << 20
HELD = Content(volume="0" * 32, lsn=1, stamp=1, size=SIZE, origin="")


@pytest.fixture(autouse=True)
def _state(tmp_path_factory: pytest.TempPathFactory, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("XDG_STATE_HOME", str(tmp_path_factory.mktemp("state")))


@pytest.fixture
def volume(store: Path) -> Iterator[OpenVolume]:
    local = LocalStore(store)
    local.create("disk", SIZE, 4096, None)
    opened = OpenVolume(local.catalog.find("disk"))
    opened.native.write(4096, content(SIZE // 2, "here"))
    yield opened
    opened.close()


def silent(done: int, total: int) -> None:
    assert done <= total


def begun(path: Path, volume: OpenVolume, *, force: bool) -> FileTarget:
    target = FileTarget(path, HELD, force=force)
    target.begin()
    target.write(volume.native.live(), silent)
    return target


@pytest.mark.parametrize("force", [False, True])
def test_it_appears_whole(volume: OpenVolume, tmp_path: Path, force: bool) -> None:
    target = begun(tmp_path / "image", volume, force=force)
    assert "image" not in os.listdir(tmp_path)
    target.sync()
    assert target.compare(volume.native.live(), silent) is None
    target.finish(whole=True)
    target.abandon()
    assert (tmp_path / "image").read_bytes() == volume.native.live().read(0, SIZE)
    assert os.listdir(tmp_path) == ["image"]
    assert (tmp_path / "image").stat().st_nlink == 1


def test_what_appears_meanwhile_is_not_replaced(volume: OpenVolume, tmp_path: Path) -> None:
    target = begun(tmp_path / "image", volume, force=False)
    (tmp_path / "image").write_bytes(b"precious")
    with pytest.raises(Invalid, match="meanwhile"):
        target.finish(whole=True)
    target.abandon()
    assert (tmp_path / "image").read_bytes() == b"precious"


def test_what_was_not_begun_leaves_nothing(volume: OpenVolume, tmp_path: Path) -> None:
    target = FileTarget(tmp_path / "image", HELD, force=False)
    target.abandon()
    target.abandon()
    assert os.listdir(tmp_path) == []


def test_what_was_begun_is_left_to_go_on_with(volume: OpenVolume, tmp_path: Path) -> None:
    target = begun(tmp_path / "image", volume, force=False)
    target.abandon()
    assert os.listdir(tmp_path) == ["image.cdp-partial"]


def test_a_comparison_finds_the_first_difference(volume: OpenVolume, tmp_path: Path) -> None:
    target = begun(tmp_path / "image", volume, force=False)
    volume.native.write(70_000, b"\xaa\x55" * 256)
    assert target.compare(volume.native.live(), silent) in range(70_000, 70_512)
    target.abandon()


def test_a_size_that_the_file_system_cannot_hold(tmp_path: Path) -> None:
    target = FileTarget(tmp_path / "image", dataclasses.replace(HELD, size=1 << 62), force=False)
    with pytest.raises(CdpError, match="image"):
        target.begin()
    target.abandon()

"""A restored file on file systems with and without nameless files: it appears when it is complete, or not at all."""

from __future__ import annotations

import errno
import os
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from cdp.errors import CdpError, Invalid
from cdp.store import LocalStore
from cdp.targets import FileTarget
from cdp.volume import OpenVolume
from tests.rig.content import content

SIZE = 1 << 20


@pytest.fixture
def volume(store: Path) -> Iterator[OpenVolume]:
    local = LocalStore(store)
    local.create("disk", SIZE, 4096, None)
    opened = OpenVolume(local.catalog.find("disk"))
    opened.native.write(4096, content(SIZE // 2, "here"))
    yield opened
    opened.close()


@pytest.fixture(params=["nameless", "named"])
def _file_system(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> None:
    if request.param == "named":
        real: Callable[..., int] = os.open

        def without_nameless(path: object, flags: int, *more: int, **words: int) -> int:
            if flags & os.O_TMPFILE == os.O_TMPFILE:
                raise OSError(errno.EOPNOTSUPP, "")
            return real(path, flags, *more, **words)

        monkeypatch.setattr(os, "open", without_nameless)


def silent(done: int, total: int) -> None:
    assert done <= total


def restored(volume: OpenVolume, path: Path, *, force: bool) -> None:
    view = volume.native.live()
    target = FileTarget(path, SIZE, force=force)
    try:
        target.write(view, silent)
        target.sync()
        assert target.compare(view, silent) is None
        target.finish()
    finally:
        target.abandon()


@pytest.mark.usefixtures("_file_system")
@pytest.mark.parametrize("force", [False, True])
def test_it_appears_whole(volume: OpenVolume, tmp_path: Path, force: bool) -> None:
    restored(volume, tmp_path / "image", force=force)
    assert (tmp_path / "image").read_bytes() == volume.native.live().read(0, SIZE)
    assert os.listdir(tmp_path) == ["image"]
    assert (tmp_path / "image").stat().st_nlink == 1


@pytest.mark.usefixtures("_file_system")
def test_what_appears_meanwhile_is_not_replaced(volume: OpenVolume, tmp_path: Path) -> None:
    target = FileTarget(tmp_path / "image", SIZE, force=False)
    target.write(volume.native.live(), silent)
    (tmp_path / "image").write_bytes(b"precious")
    with pytest.raises(Invalid, match="meanwhile"):
        target.finish()
    target.abandon()
    assert (tmp_path / "image").read_bytes() == b"precious"
    assert os.listdir(tmp_path) == ["image"]


@pytest.mark.usefixtures("_file_system")
def test_what_is_abandoned_leaves_nothing(volume: OpenVolume, tmp_path: Path) -> None:
    target = FileTarget(tmp_path / "image", SIZE, force=False)
    target.write(volume.native.live(), silent)
    target.abandon()
    target.abandon()
    assert os.listdir(tmp_path) == []


def test_a_comparison_finds_the_first_difference(volume: OpenVolume, tmp_path: Path) -> None:
    view = volume.native.live()
    target = FileTarget(tmp_path / "image", SIZE, force=False)
    target.write(view, silent)
    volume.native.write(70_000, b"\xaa\x55" * 256)
    assert target.compare(volume.native.live(), silent) in range(70_000, 70_512)
    target.abandon()


def test_a_size_that_the_file_system_cannot_hold(tmp_path: Path) -> None:
    with pytest.raises(CdpError, match="image"):
        FileTarget(tmp_path / "image", 1 << 62, force=False)
    assert os.listdir(tmp_path) == []

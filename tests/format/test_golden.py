"""Stores that an engine of format version 1 wrote once: both readers must read them for good."""

from __future__ import annotations

import hashlib
import json
import tarfile
from pathlib import Path

import pytest

from cdp import _native
from cdp.salvage.check import check_volume
from tests.format.make_golden import GOLDEN, STORES
from tests.format.stores import restored


@pytest.fixture(params=sorted(STORES))
def golden(request: pytest.FixtureRequest, tmp_path: Path) -> tuple[Path, dict[int, str]]:
    """A golden store's folder of the one volume, and the SHA-256 of its content by LSN."""
    with tarfile.open(GOLDEN / f"{request.param}.tar.xz") as archive:
        archive.extractall(tmp_path, filter="data")
    told = json.loads((GOLDEN / f"{request.param}.json").read_text())
    (folder,) = (tmp_path / "store" / "volumes").iterdir()
    return folder, {int(lsn): digest for lsn, digest in told["states"].items()}


def test_salvage_reads_it(golden: tuple[Path, dict[int, str]], tmp_path: Path) -> None:
    folder, digests = golden
    assert not check_volume(folder).damaged
    for lsn, digest in digests.items():
        content = restored(tmp_path / "store", tmp_path / "out", f"lsn:{lsn}")
        assert isinstance(content, bytes)
        assert hashlib.sha256(content).hexdigest() == digest, f"LSN {lsn}"


def test_the_engine_reads_it_and_changes_nothing(golden: tuple[Path, dict[int, str]]) -> None:
    folder, digests = golden
    before = {path.name: path.read_bytes() for path in folder.iterdir()}
    volume = _native.Volume.open(str(folder), read_only=True)
    assert volume.verify() == []
    for lsn, digest in digests.items():
        view = volume.view(lsn)
        assert hashlib.sha256(view.read(0, view.size)).hexdigest() == digest, f"LSN {lsn}"
    volume.close()
    assert {path.name: path.read_bytes() for path in folder.iterdir()} == before


def test_the_engine_goes_on_with_it(golden: tuple[Path, dict[int, str]]) -> None:
    folder, digests = golden
    volume = _native.Volume.open(str(folder))
    assert volume.write(0, bytes(512)) > max(digests)
    volume.close()
    assert not check_volume(folder).damaged

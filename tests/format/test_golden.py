"""Stores that an engine of format version 1 or 2 wrote once: both readers must read them for good."""

from __future__ import annotations

import hashlib
import json
import tarfile
from pathlib import Path

import pytest

from cdp import _native
from cdp.errors import NotFound
from cdp.salvage.check import check_volume
from tests.format.make_golden import GOLDEN
from tests.format.stores import restored

Golden = dict[Path, dict[int, str]]


@pytest.fixture(params=sorted(path.stem for path in GOLDEN.glob("*.json")))
def golden(request: pytest.FixtureRequest, tmp_path: Path) -> Golden:
    """The volume folders of a golden store, and the SHA-256 of what each reads as at its instants."""
    with tarfile.open(GOLDEN / f"{request.param}.tar.xz") as archive:
        archive.extractall(tmp_path, filter="data")
    told = json.loads((GOLDEN / f"{request.param}.json").read_text())
    volumes = tmp_path / "store" / "volumes"
    if told["format"] == 1:
        (folder,) = volumes.iterdir()
        told["volumes"] = {folder.name: told["states"]}
    return {
        volumes / identity: {int(lsn): digest for lsn, digest in states.items()}
        for identity, states in told["volumes"].items()
    }


def test_salvage_reads_it(golden: Golden, tmp_path: Path) -> None:
    for folder, digests in golden.items():
        assert not check_volume(folder).damaged
        for lsn in range(max(digests) + 1) if max(digests) < 1000 else digests:
            content = restored(tmp_path / "store", tmp_path / "out", f"lsn:{lsn}", name=folder.name)
            shown = hashlib.sha256(content).hexdigest() if isinstance(content, bytes) else None
            assert shown == digests.get(lsn), f"{folder.name}, LSN {lsn}"


def test_the_engine_reads_it_and_changes_nothing(golden: Golden) -> None:
    for folder, digests in golden.items():
        before = {path.name: path.read_bytes() for path in folder.iterdir()}
        volume = _native.Volume.open(str(folder), read_only=True)
        assert volume.verify() == []
        for lsn in range(max(digests) + 1) if max(digests) < 1000 else digests:
            try:
                view = volume.view(lsn)
            except NotFound:
                assert lsn not in digests
                continue
            assert hashlib.sha256(view.read(0, view.size)).hexdigest() == digests[lsn], f"{folder.name}, LSN {lsn}"
        volume.close()
        assert {path.name: path.read_bytes() for path in folder.iterdir()} == before


def test_the_engine_goes_on_with_it(golden: Golden) -> None:
    for folder, digests in golden.items():
        volume = _native.Volume.open(str(folder))
        assert volume.write(0, bytes(512)) > max(digests)
        volume.close()
        assert not check_volume(folder).damaged

"""nbdcopy moves a whole disk both ways, over one connection and over four that share one volume."""

from __future__ import annotations

from pathlib import Path

import pytest

from tests.rig.clients import nbdcopy
from tests.rig.content import DISK_BYTES, content_file
from tests.rig.daemon import Daemon, Transport


@pytest.mark.parametrize("connections", [1, 4])
def test_there_and_back(served: Daemon, disk: str, transport: Transport, connections: int, tmp_path: Path) -> None:
    source = content_file(tmp_path / "source", DISK_BYTES, disk)
    uri = served.uri(disk, transport=transport)
    nbdcopy(source, uri, connections=connections)
    nbdcopy(uri, tmp_path / "back", connections=connections)
    assert (tmp_path / "back").read_bytes() == source.read_bytes()


def test_volume_to_volume(served: Daemon, disk: str, tmp_path: Path) -> None:
    source = content_file(tmp_path / "source", DISK_BYTES, disk)
    other = f"{disk}-copy"
    served.cdp("create", other, "--size", str(DISK_BYTES))
    nbdcopy(source, served.uri(disk))
    nbdcopy(served.uri(disk), served.uri(other))
    nbdcopy(served.uri(other), tmp_path / "back")
    assert (tmp_path / "back").read_bytes() == source.read_bytes()


def test_a_second_copy_replaces_every_byte_of_the_first(served: Daemon, disk: str, tmp_path: Path) -> None:
    """Where the second image has holes, the copy must write zeros over the first one's data."""
    uri = served.uri(disk)
    nbdcopy(content_file(tmp_path / "first", DISK_BYTES, 1), uri)
    second = tmp_path / "second"
    with second.open("wb") as made:
        made.truncate(DISK_BYTES)
        made.seek(5 << 20)
        made.write(b"only this is left" * 1000)
    nbdcopy(second, uri)
    nbdcopy(uri, tmp_path / "back")
    assert (tmp_path / "back").read_bytes() == second.read_bytes()

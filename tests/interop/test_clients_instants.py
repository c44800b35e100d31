"""Instants as exports: other clients read `VOLUME@WHEN` while the live volume goes on changing."""

from __future__ import annotations

import time
from datetime import UTC, datetime
from pathlib import Path

import pytest

from tests.rig.clients import Qemu, nbdcopy
from tests.rig.content import DISK_BYTES, content_file
from tests.rig.daemon import Daemon, Transport

NANOSECONDS = 1_000_000_000


def now_unix() -> str:
    """This instant as `@SECONDS.NANOS`: every write that was replied to is in it, none that is still to be sent."""
    seconds, nanos = divmod(time.time_ns(), NANOSECONDS)
    return f"@{seconds}.{nanos:09}"


def as_rfc3339(when: str) -> str:
    """The same instant in the other notation, to the nanosecond."""
    seconds, _, nanos = when.removeprefix("@").partition(".")
    return f"{datetime.fromtimestamp(int(seconds), UTC):%Y-%m-%dT%H:%M:%S}.{nanos}Z"


@pytest.fixture
def states(served: Daemon, disk: str, tmp_path: Path) -> dict[str, Path]:
    """Three states of the disk, each the file that was copied in, by an instant just after it."""
    found: dict[str, Path] = {}
    for number in range(3):
        source = content_file(tmp_path / f"state{number}", DISK_BYTES, f"{disk}-{number}")
        nbdcopy(source, served.uri(disk))
        found[now_unix()] = source
    return found


def test_each_instant_is_the_disk_as_it_was(
    served: Daemon, disk: str, transport: Transport, states: dict[str, Path], tmp_path: Path
) -> None:
    for when, source in states.items():
        nbdcopy(served.uri(disk, when, transport=transport), tmp_path / "back")
        assert (tmp_path / "back").read_bytes() == source.read_bytes(), when


def test_qemu_reads_an_instant_by_its_date(served: Daemon, disk: str, qemu: Qemu, states: dict[str, Path]) -> None:
    for when, source in states.items():
        qemu.img("compare", "-f", "raw", "-F", "raw", source, served.uri(disk, as_rfc3339(when)))


def test_an_instant_stays_while_the_volume_changes(
    served: Daemon, disk: str, qemu: Qemu, states: dict[str, Path], tmp_path: Path
) -> None:
    when, source = next(iter(states.items()))
    qemu.io(served.uri(disk), ["write -P 0xff 0 8M", "discard 8M 8M", "write -z 16M 8M", "flush"])
    nbdcopy(served.uri(disk, when), tmp_path / "back", connections=1)
    assert (tmp_path / "back").read_bytes() == source.read_bytes()


def test_an_instant_takes_no_writes(served: Daemon, disk: str, qemu: Qemu, states: dict[str, Path]) -> None:
    with pytest.raises(AssertionError):
        qemu.io(served.uri(disk, next(iter(states))), ["write -P 1 0 4k"])


def test_the_future_is_refused(served: Daemon, disk: str, tmp_path: Path) -> None:
    with pytest.raises(AssertionError):
        nbdcopy(served.uri(disk, "2999-01-01T00:00:00Z"), tmp_path / "back")
    assert not (tmp_path / "back").exists() or not any((tmp_path / "back").read_bytes())

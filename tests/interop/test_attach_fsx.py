"""A file exerciser through a file system that is mounted from an attached volume: an instant in the middle of it, and the daemon killed under it."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.rig.attached import Devices, devices_of
from tests.rig.daemon import Daemon
from tests.rig.fsx import Load
from tests.rig.process import run

MAKE = {"ext4": ("mkfs.ext4", "-q"), "xfs": ("mkfs.xfs", "-q")}
CHECK = {"ext4": ("e2fsck", "-fn"), "xfs": ("xfs_repair", "-n")}
SIZE = {"ext4": "64MiB", "xfs": "320MiB"}
STEPS = 250


@pytest.fixture
def devices(daemon: Daemon, tmp_path: Path) -> Iterator[Devices]:
    with devices_of(daemon, tmp_path) as made:
        yield made


@pytest.mark.parametrize("kind", MAKE)
def test_a_file_is_what_was_made_of_it_now_and_then(devices: Devices, kind: str, seed: int) -> None:
    daemon = devices.daemon
    daemon.cdp("create", "disk", "--size", SIZE[kind])
    device = devices.attach("disk")
    run(*MAKE[kind], device)
    mounted = devices.mounted(device)
    with Load(mounted / "file", seed) as load:
        load.run(STEPS)
        then = load.settle()
        daemon.cdp("bookmark", "disk", "then")
        load.begin(STEPS // 5)
        daemon.kill()
        daemon.start()
        load.run(STEPS)
        load.check()
        now = load.settle()
        assert load.left_out() == set()
    assert now != then
    run("umount", mounted)
    run(*CHECK[kind], device)
    again = devices.mounted(device)
    assert (again / "file").read_bytes() == now
    instant = devices.folder()
    view = devices.attach("disk@bookmark:then", "--mount", instant)
    assert (instant / "file").read_bytes() == then
    devices.detach(view)
    run("umount", again)
    devices.detach(device)

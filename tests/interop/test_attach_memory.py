"""What the daemon does about its own memory while the kernel may write dirty pages through it."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.rig.attached import Devices, devices_of
from tests.rig.daemon import Daemon
from tests.rig.memory import io_flusher_flags, locked_bytes, thread_flags


@pytest.fixture
def devices(daemon: Daemon, tmp_path: Path) -> Iterator[Devices]:
    with devices_of(daemon, tmp_path) as made:
        yield made


def test_memory_is_locked_while_anything_is_attached(devices: Devices) -> None:
    daemon = devices.daemon
    daemon.cdp("create", "disk", "--size", "8MiB")
    daemon.cdp("create", "other", "--size", "8MiB")
    assert locked_bytes(daemon.pid) == 0
    disk, other = devices.attach("disk"), devices.attach("other")
    assert locked_bytes(daemon.pid) > 0
    devices.detach(other)
    assert locked_bytes(daemon.pid) > 0
    daemon.kill()
    daemon.start()
    assert locked_bytes(daemon.pid) > 0, "the next daemon took the device over, and did not lock its memory"
    devices.detach(disk)
    assert locked_bytes(daemon.pid) == 0


def test_the_daemon_is_marked_as_part_of_the_way_to_a_disk_or_warns_once(devices: Devices) -> None:
    """The mark where this machine allows it, on every thread; elsewhere one line in the log of a daemon of default settings."""
    daemon = devices.daemon
    daemon.cdp("create", "disk", "--size", "8MiB")
    assert "PR_SET_IO_FLUSHER" not in daemon.log
    devices.detach(devices.attach("disk"))
    device = devices.attach("disk")
    flags = io_flusher_flags()
    if flags is None:
        (line,) = (it for it in daemon.log.splitlines() if "PR_SET_IO_FLUSHER" in it)
        assert line.startswith("WARNING")
        assert "CAP_SYS_RESOURCE" in line
    else:
        assert "PR_SET_IO_FLUSHER" not in daemon.log
        unmarked = [thread for thread, told in thread_flags(daemon.pid).items() if told & flags != flags]
        assert not unmarked
    devices.detach(device)

"""Attached devices in a test: they are taken away at its end, however it ends, and nothing of them may be left.

Needs root, FUSE and loop devices: skipped where the machine has none. Programs that are missing are a failure in CI.
"""

from __future__ import annotations

import json
import os
import subprocess
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

import pytest

from cdp import devices
from cdp.attach import fuse_loop, place
from tests.rig.daemon import Daemon
from tests.rig.process import run

FRONTS = ("/live", "/view", "/scratch")


def require_devices() -> None:
    """Skips the test where no device can be made."""
    for node in ("/dev/fuse", "/dev/loop-control"):
        if os.geteuid() or not os.path.exists(node):
            pytest.skip(f"takes root and {node}")
    if (reason := fuse_loop.missing()) is not None:
        assert not os.environ.get("CI"), reason
        pytest.skip(reason)


class Devices:
    """Attaches, mounts and takes away again."""

    def __init__(self, daemon: Daemon, folder: Path) -> None:
        self.daemon = daemon
        self._folder = folder
        self._mounts: list[Path] = []

    def attach(self, export: str, *options: str | Path) -> str:
        """The device."""
        device: str = self.daemon.cdp("attach", export, *options)["device"]
        return device

    def detach(self, device: str) -> None:
        self.daemon.cdp("detach", device)

    def folder(self) -> Path:
        """A new folder to mount on."""
        made = self._folder / f"mnt{len(self._mounts)}"
        made.mkdir()
        self._mounts.append(made)
        return made

    def mounted(self, device: str, *options: str) -> Path:
        """A new folder on which the device is mounted."""
        folder = self.folder()
        run("mount", *options, device, folder)
        return folder

    def listed(self) -> dict[str, dict[str, Any]]:
        """What `cdp list` tells, by device."""
        return {one["device"]: one for volume in self.daemon.cdp("list") for one in volume["attached"]}

    def left(self) -> list[str]:
        """Loop devices, mounts and folders that belong to the store."""
        key = place.store_key(self.daemon.store)
        mounts = [folder for _, _, folder in devices.mounts(Path("/proc/self/mountinfo").read_text())]
        loops = [text for text in map(_backing, Path("/sys/block").glob("loop*/loop/backing_file")) if key in text]
        folders = [str(it) for it in place.RUN.glob(f"{key}*")] if place.RUN.exists() else []
        # What is over a front that is gone shows the end of its path alone.
        loops += [text for text in map(_backing, Path("/sys/block").glob("loop*/loop/backing_file")) if text in FRONTS]
        return [*loops, *folders, *(it for it in mounts if key in it or it.startswith(f"{self._folder}/"))]

    def take_away(self) -> None:
        """Ends everything, by whatever means."""
        for folder in reversed(self._mounts):
            subprocess.run(["umount", "--lazy", folder], capture_output=True, check=False)
        notes = self.daemon.store / "attached.json"
        told = json.loads(notes.read_text())["attached"] if notes.exists() else []
        for one in told:
            with suppress(AssertionError):
                self.detach(one["device"])


@contextmanager
def devices_of(daemon: Daemon, folder: Path) -> Iterator[Devices]:
    """Devices for one test. What a test that passed leaves behind is a failure."""
    require_devices()
    made = Devices(daemon, folder)
    try:
        yield made
        left = made.left()
    finally:
        made.take_away()
    assert not left, f"left behind: {left}"
    assert not made.left()


def _backing(path: Path) -> str:
    with suppress(OSError):
        return path.read_text().strip()
    return ""

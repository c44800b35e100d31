"""Who uses a block device: read from the kernel's texts, and seen on a real loop device where one can be had."""

from __future__ import annotations

import os
import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest

from cdp import devices

MOUNTINFO = (
    "26 1 254:1 / / rw,relatime - ext4 /dev/root rw\n"
    "97 26 254:17 / /mnt/a\\040b rw shared:5 master:1 - ext4 /dev/vdb1 rw\n"
    "98 26 0:40 / /run rw - tmpfs tmpfs rw\n"
    "garbage\n"
)


def test_a_mounted_device_is_found_by_its_numbers() -> None:
    assert devices.user_of(os.makedev(254, 17), MOUNTINFO, "") == "it is mounted on /mnt/a b"
    assert devices.user_of(os.makedev(254, 18), MOUNTINFO, "") is None


@pytest.fixture
def loop(tmp_path: Path) -> Iterator[Path]:
    image = tmp_path / "image"
    image.touch()
    os.truncate(image, 16 << 20)
    attached = subprocess.run(["losetup", "-f", "--show", str(image)], check=False, capture_output=True, text=True)
    if attached.returncode:
        pytest.skip(f"no loop device: {attached.stderr.strip()}")
    device = Path(attached.stdout.strip())
    yield device
    subprocess.run(["losetup", "-d", str(device)], check=True)


def test_a_real_device(loop: Path, tmp_path: Path) -> None:
    number = loop.stat().st_rdev
    assert devices.user_of(number) is None
    assert devices.loop_file(number) == tmp_path / "image"
    subprocess.run(["mkfs.ext4", "-q", str(loop)], check=True)
    folder = tmp_path / "mounted here"
    folder.mkdir()
    subprocess.run(["mount", str(loop), str(folder)], check=True)
    try:
        assert devices.user_of(number) == f"it is mounted on {folder}"
    finally:
        subprocess.run(["umount", str(folder)], check=True)
    assert devices.user_of(number) is None


def test_a_device_that_is_swap(loop: Path) -> None:
    swaps = f"Filename Type Size Used Priority\n{loop} partition 16380 0 -2\n"
    assert devices.user_of(loop.stat().st_rdev, "", swaps) == "it is used as swap"

"""The same qemu-io script on a served volume and on a plain file leaves the same bytes."""

from __future__ import annotations

import random
from pathlib import Path

import pytest

from tests.rig.clients import Qemu
from tests.rig.content import DISK_BYTES
from tests.rig.daemon import Daemon, Transport

SCRIPTS = {
    "aligned": [
        "write -P 1 0 4k",
        "write -P 2 1M 1M",
        "write -P 3 1536k 64k",
        "flush",
        "write -f -P 4 31M 1M",
        "flush",
    ],
    "unaligned": [
        "write -P 5 1 1",
        "write -P 6 511 2",
        "write -P 7 4095 4098",
        "write -P 8 12345 678901",
        "write -P 9 33554431 1",
    ],
    "zeroes": [
        "write -P 10 0 4M",
        "write -z 1M 1M",
        "write -z -u 2M 512k",
        "write -z 3000001 777",
        "write -z -n 3M 4k",
        "flush",
    ],
    "discards": ["write -P 11 0 4M", "discard 1M 1M", "discard 3M 4k", "write -P 12 1536k 8k", "flush"],
    "vectors": ["writev -P 13 8k 512 1024 4096", "aio_write -P 14 1M 64k", "aio_write -P 15 2M 64k", "aio_flush"],
}


def same_bytes(served: Daemon, disk: str, qemu: Qemu, transport: Transport, tmp_path: Path, script: list[str]) -> None:
    plain = tmp_path / "plain"
    with plain.open("wb") as made:
        made.truncate(DISK_BYTES)
    uri = served.uri(disk, transport=transport)
    for image in (plain, uri):
        qemu.io(image, script, "-d", "unmap")
    qemu.convert(uri, tmp_path / "back")
    assert (tmp_path / "back").read_bytes() == plain.read_bytes()


@pytest.mark.parametrize("script", SCRIPTS.values(), ids=SCRIPTS)
def test_script(served: Daemon, disk: str, qemu: Qemu, transport: Transport, tmp_path: Path, script: list[str]) -> None:
    same_bytes(served, disk, qemu, transport, tmp_path, script)


def test_random_script(served: Daemon, disk: str, qemu: Qemu, tmp_path: Path, rng: random.Random) -> None:
    same_bytes(served, disk, qemu, "unix", tmp_path, [random_command(rng) for _ in range(200)])


def random_command(rng: random.Random) -> str:
    grain = rng.choice([1, 512, 4096])
    length = rng.choice([1, 3, 16, 200]) * grain
    offset = rng.randrange((DISK_BYTES - length) // grain) * grain
    verb = rng.choice(
        [
            f"write -P {rng.randrange(256)}",
            f"write -f -P {rng.randrange(256)}",
            "write -z",
            "write -z -u",
            "write -z -n",
        ]
    )
    return f"{verb} {offset} {length}"


def test_reads_see_what_was_written_before(served: Daemon, disk: str, qemu: Qemu, transport: Transport) -> None:
    """`read -P` makes qemu-io compare; a pattern that is not there is a failure."""
    script = [
        "write -P 0x11 0 1M",
        "read -P 0x11 0 1M",
        "read -P 0x11 1023 4097",
        "read -P 0 1M 1M",
        "discard 0 64k",
        "read -P 0 0 64k",
    ]
    qemu.io(served.uri(disk, transport=transport), script)


def test_writing_past_the_end_is_refused(served: Daemon, disk: str, qemu: Qemu) -> None:
    with pytest.raises(AssertionError, match=r"Input/output error|Invalid argument|No space"):
        qemu.io(served.uri(disk), [f"write -P 1 {DISK_BYTES - 512} 1024"])

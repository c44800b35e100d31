"""fio writes blocks that carry their own checksums and finds them all again, over one connection and four."""

from __future__ import annotations

import pytest

from tests.rig.content import DISK_BYTES
from tests.rig.daemon import Daemon, Transport
from tests.rig.process import run


def verify(uri: str, connections: int, *options: str) -> None:
    """Each connection has a quarter (or all) of the disk to itself, so that no block has two writers."""
    share = DISK_BYTES // connections
    run(
        *("fio", "--name=verify", "--ioengine=nbd", f"--uri={uri}", f"--numjobs={connections}", "--group_reporting"),
        *(
            f"--size={share}",
            f"--offset_increment={share}",
            "--verify=crc32c",
            "--verify_fatal=1",
            "--do_verify=1",
            "--verify_state_save=0",
        ),
        *options,
    )


@pytest.mark.parametrize("connections", [1, 4])
def test_random_blocks(served: Daemon, disk: str, transport: Transport, connections: int) -> None:
    verify(served.uri(disk, transport=transport), connections, "--rw=randwrite", "--bs=4k", "--iodepth=32")


def test_mixed_sizes_with_flushes(served: Daemon, disk: str) -> None:
    verify(
        served.uri(disk),
        1,
        "--rw=randwrite",
        "--bssplit=512/40:4k/40:128k/20",
        "--bs_unaligned",
        "--iodepth=16",
        "--fsync=32",
    )


def test_reads_between_overwrites(served: Daemon, disk: str) -> None:
    verify(served.uri(disk), 1, "--rw=randrw", "--bs=16k", "--iodepth=8", "--verify_backlog=64", "--loops=2")


def test_a_second_run_finds_the_first_ones_blocks(served: Daemon, disk: str, transport: Transport) -> None:
    verify(served.uri(disk, transport=transport), 1, "--rw=write", "--bs=64k", "--iodepth=8")
    verify(served.uri(disk, transport=transport), 1, "--rw=write", "--bs=64k", "--iodepth=8", "--verify_only=1")

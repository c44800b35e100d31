"""Restoring to every kind of target, and what is refused: each with the daemon and without it."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from tests.rig.cdp import CDP, Cdp, environment
from tests.rig.content import content
from tests.rig.daemon import Daemon
from tests.rig.disk import connected, get, put
from tests.rig.process import SECONDS_MAX, run

MIB = 1 << 20
SIZE = 8 * MIB


@pytest.fixture
def before(store: Path) -> bytes:
    """What `disk` held at its bookmark `good`: data at both ends and a hole in between. It was overwritten since."""
    with Daemon(store) as daemon:
        daemon.cdp("create", "disk", "--size", str(SIZE))
        head, tail = content(MIB + 512, "head"), content(700 * 512, "tail")
        put(daemon.uri("disk"), 0, head)
        put(daemon.uri("disk"), SIZE - len(tail), tail)
        daemon.cdp("bookmark", "disk", "good")
        put(daemon.uri("disk"), 0, b"\xee" * SIZE)
    return head + bytes(SIZE - len(head) - len(tail)) + tail


@pytest.fixture(params=["daemon", "files"])
def cdp(request: pytest.FixtureRequest, store: Path, before: bytes) -> Cdp:
    assert before
    if request.param == "daemon":
        request.getfixturevalue("daemon")
    return Cdp(store)


def restore(cdp: Cdp, target: object, *options: str, exit_code: int = 0) -> str:
    words = ("disk", "--at", "bookmark:good", "--to", str(target), *options)
    done = cdp.run("restore", *words, exit_code=exit_code)
    return done.stdout if exit_code == 0 else done.stderr


def test_a_file_is_sparse_and_complete(cdp: Cdp, before: bytes, tmp_path: Path) -> None:
    assert "compared" in restore(cdp, tmp_path / "image", "--verify")
    assert (tmp_path / "image").read_bytes() == before
    assert (tmp_path / "image").stat().st_blocks * 512 < SIZE // 2
    assert [path.name for path in tmp_path.iterdir()] == ["image"]


def test_a_file_is_replaced_only_by_force(cdp: Cdp, before: bytes, tmp_path: Path) -> None:
    target = tmp_path / "image"
    target.write_bytes(b"precious")
    target.chmod(0o640)
    assert "--force" in restore(cdp, target, exit_code=2)
    assert target.read_bytes() == b"precious"
    restore(cdp, target, "--force")
    assert target.read_bytes() == before
    assert target.stat().st_mode & 0o777 == 0o640


def test_a_failed_restore_leaves_the_old_file(cdp: Cdp, store: Path, tmp_path: Path) -> None:
    target = tmp_path / "image"
    target.write_bytes(b"precious")
    cdp.run("restore", "disk", "--at", "lsn:987654321", "--to", target, "--force", exit_code=3)
    assert target.read_bytes() == b"precious"
    assert "neither a file nor a block device" in restore(cdp, "/dev/null", exit_code=2)
    restore(cdp, tmp_path / "none" / "image", exit_code=3)
    assert [path.name for path in tmp_path.iterdir()] == ["image"]


def test_restoring_while_it_is_written(before: bytes, daemon: Daemon, tmp_path: Path) -> None:
    stop = threading.Event()

    def write() -> None:
        number = 0
        with connected(daemon.uri("disk")) as client:
            while not stop.is_set():
                client.pwrite(number.to_bytes(8, "little") * 1024, number * 8192 % SIZE)
                number += 1

    writer = threading.Thread(target=write)
    writer.start()
    try:
        for number in range(4):
            restore(daemon.cdp, tmp_path / f"image{number}", "--verify")
            assert (tmp_path / f"image{number}").read_bytes() == before
            daemon.cdp("restore", "disk", "--at", "latest", "--to", tmp_path / f"now{number}", "--verify")
    finally:
        stop.set()
        writer.join()


def test_a_deleted_volume_can_be_restored(cdp: Cdp, before: bytes, tmp_path: Path) -> None:
    volume_id = cdp("delete", "disk")["id"]
    cdp("create", "disk", "--size", "1MiB")
    facts = cdp("restore", volume_id, "--at", "bookmark:good", "--to", tmp_path / "image")
    assert facts["size"] == SIZE
    assert (tmp_path / "image").read_bytes() == before


def test_the_store_itself_is_no_target(cdp: Cdp, store: Path, tmp_path: Path) -> None:
    (tmp_path / "link").symlink_to(store)
    for target in (store / "image", tmp_path / "link" / "volumes" / "image"):
        assert "inside the store" in restore(cdp, target, "--force", exit_code=2)


def test_an_origin_is_no_target(cdp: Cdp, tmp_path: Path) -> None:
    base = tmp_path / "base"
    base.write_bytes(b"base" * 1024)
    cdp("create", "over", "--origin", str(base))
    os.link(base, tmp_path / "same")
    # A second link changes the inode's time, which is part of what the origin is recognised by; the target is refused all the same.
    assert "origin" in restore(cdp, base, "--force", exit_code=2)
    assert "origin" in restore(cdp, tmp_path / "same", "--force", exit_code=2)
    assert base.read_bytes() == b"base" * 1024


@contextmanager
def nbdkit(*words: str) -> Iterator[str]:
    """A server that others wrote, for the time of the block; its URI."""
    command = ["nbdkit", "--exit-with-parent", "-U", "-", *words, "--run", 'echo "$uri"; read -r line']
    server = subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)
    assert server.stdin is not None
    assert server.stdout is not None
    try:
        yield server.stdout.readline().strip()
    finally:
        server.stdin.close()
        try:
            server.wait(SECONDS_MAX)
        finally:
            server.kill()
            server.wait()
            server.stdout.close()


@pytest.mark.parametrize(
    "words",
    [(), ("--filter=nozero",), ("--filter=noextents", "--filter=blocksize-policy"), ("--filter=noparallel",)],
    ids=["plain", "no zero", "4096-byte blocks", "serial"],
)
def test_an_nbd_server(cdp: Cdp, before: bytes, tmp_path: Path, words: tuple[str, ...]) -> None:
    there = tmp_path / "there"
    there.write_bytes(b"\x55" * (SIZE + MIB))
    options = ("blocksize-minimum=4096", "blocksize-error-policy=error") if "--filter=blocksize-policy" in words else ()
    with nbdkit(*words, "file", str(there), *options) as uri:
        assert "compared" in restore(cdp, uri, "--verify")
    assert there.read_bytes() == before + b"\x55" * MIB


def test_an_nbd_server_that_fails(cdp: Cdp) -> None:
    with nbdkit("memory", str(SIZE - 512)) as uri:
        assert "are needed" in restore(cdp, uri, exit_code=2)
    with nbdkit("-r", "memory", str(SIZE)) as uri:
        assert "read-only" in restore(cdp, uri, exit_code=2)
    with nbdkit("--filter=error", "memory", str(SIZE), "error-pwrite-rate=100%", "error=ENOSPC") as uri:
        assert "No space left" in restore(cdp, uri, exit_code=6)
    with nbdkit(
        "eval", f"get_size=echo {SIZE}", "pwrite=cat >/dev/null", "pread=dd if=/dev/zero count=$3 iflag=count_bytes"
    ) as uri:
        assert "does not hold what was written" in restore(cdp, uri, "--verify", exit_code=8)
    assert "connecting" in restore(cdp, "nbd+unix:///?socket=/nonexistent/socket", exit_code=8)


def test_an_interrupt_ends_a_restore_to_a_server_that_stalls(before: bytes, store: Path, tmp_path: Path) -> None:
    assert before
    began, gate = tmp_path / "began", tmp_path / "gate"
    os.mkfifo(began)
    os.mkfifo(gate)
    stall = (f"get_size=echo {SIZE}", "thread_model=echo serialize_requests", f"pwrite=echo > {began}; cat {gate}")
    with nbdkit("eval", *stall, "pread=dd if=/dev/zero count=$3 iflag=count_bytes") as uri:
        words = ("restore", "disk", "--at", "bookmark:good", "--to", uri, "--store", str(store))
        restoring = subprocess.Popen([*CDP, *words], env=environment(), stderr=subprocess.PIPE, text=True)
        try:
            # Opens when the server has taken the first write, which it will not answer.
            began.read_text()
            restoring.send_signal(signal.SIGINT)
            said = restoring.communicate(timeout=SECONDS_MAX)[1]
        finally:
            restoring.kill()
            restoring.wait()
            gate.write_text("")
    assert restoring.returncode == 130
    assert "Traceback" not in said


def test_the_stores_own_exports_are_no_targets(store: Path, before: bytes, daemon: Daemon, tmp_path: Path) -> None:
    assert before
    daemon.cdp("create", "other", "--size", str(SIZE))
    (tmp_path / "sock").symlink_to(daemon.socket)
    for uri in (
        daemon.uri("disk"),
        daemon.uri("disk", transport="tcp"),
        daemon.uri("other"),
        f"nbd+unix:///disk?socket={tmp_path / 'sock'}",
    ):
        assert "is being served" in restore(daemon.cdp, uri, exit_code=4)
    assert get(daemon.uri("other")) == bytes(SIZE)


def test_another_stores_export_is_a_target(cdp: Cdp, before: bytes, tmp_path: Path) -> None:
    other = tmp_path / "other"
    other.mkdir()
    with Daemon(other) as daemon:
        daemon.cdp("create", "disk", "--size", str(SIZE))
        put(daemon.uri("disk"), 0, b"\x77" * SIZE)
        restore(cdp, daemon.uri("disk"), "--verify")
        assert get(daemon.uri("disk")) == before


@pytest.fixture
def loop(tmp_path: Path) -> Iterator[Path]:
    """A block device full of old data, one MiB larger than the volume."""
    image = tmp_path / "device"
    image.write_bytes(b"\x55" * (SIZE + MIB))
    with attached(image) as device:
        yield device


@contextmanager
def attached(image: Path) -> Iterator[Path]:
    done = subprocess.run(["losetup", "-f", "--show", str(image)], check=False, capture_output=True, text=True)
    if done.returncode:
        pytest.skip(f"no loop device: {done.stderr.strip()}")
    try:
        yield Path(done.stdout.strip())
    finally:
        subprocess.run(["losetup", "-d", done.stdout.strip()], check=True)


def test_a_block_device(cdp: Cdp, before: bytes, loop: Path) -> None:
    assert "compared" in restore(cdp, loop, "--verify")
    assert loop.read_bytes() == before + b"\x55" * MIB


def test_a_mounted_device_is_refused(cdp: Cdp, loop: Path, tmp_path: Path) -> None:
    subprocess.run(["mkfs.ext4", "-q", str(loop)], check=True)
    folder = tmp_path / "mounted"
    folder.mkdir()
    subprocess.run(["mount", str(loop), str(folder)], check=True)
    try:
        assert f"mounted on {folder}" in restore(cdp, loop, exit_code=4)
    finally:
        subprocess.run(["umount", str(folder)], check=True)
    subprocess.run(["e2fsck", "-fn", str(loop)], check=True, capture_output=True)


def test_a_device_that_somebody_claimed_is_refused(cdp: Cdp, loop: Path) -> None:
    claim = os.open(loop, os.O_RDONLY | os.O_EXCL)
    try:
        assert "busy" in restore(cdp, loop, exit_code=4).lower()
    finally:
        os.close(claim)


def test_a_device_that_is_too_small_is_refused(cdp: Cdp, tmp_path: Path) -> None:
    image = tmp_path / "small"
    image.write_bytes(b"\x55" * MIB)
    with attached(image) as device:
        assert "are needed" in restore(cdp, device, exit_code=2)
    assert image.read_bytes() == b"\x55" * MIB


def test_pit_restore_is_the_same_command(before: bytes, store: Path, tmp_path: Path) -> None:
    words = ("disk", "--at", "bookmark:good", "--to", tmp_path / "image", "--store", store)
    run(sys.executable, "-m", "cdp.cli.restore", *words, env=environment())
    assert (tmp_path / "image").read_bytes() == before

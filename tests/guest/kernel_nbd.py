"""In the guest: volumes through the kernel's nbd driver, under real file systems. Steps of one story; the first that fails ends it."""

from __future__ import annotations

import hashlib
import mmap
import os
import sys
import time
import traceback
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from pathlib import Path

import pytest

from cdp.attach import kernel_nbd, mounting
from cdp.attach.left import Wish
from cdp.control.client import RemoteStore
from cdp.errors import Busy, Invalid
from cdp.facts import AttachmentFacts
from cdp.when import parse
from tests.rig.cdp import ROOT
from tests.rig.content import content
from tests.rig.daemon import Daemon
from tests.rig.memory import io_flusher_flags, locked_bytes, thread_flags
from tests.rig.process import run

MIB = 1 << 20
SIZE = 64 * MIB
DSYNC_BYTES = 4096
KILLED_FILES = 60
HIDDEN = "UDEV_DISABLE_PERSISTENT_STORAGE_RULES_FLAG=1"
"""What keeps udev from making links for a device."""


class Story:
    """A store, its daemon, and what is done to them."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        (folder / "store").mkdir(parents=True)
        self.daemon = Daemon(folder / "store", options=("--verbose",))
        self.daemon.start()

    @property
    def verbs(self) -> RemoteStore:
        """Connected anew: a daemon may have been killed since."""
        return RemoteStore(self.daemon.store)

    def mounted(self, facts: AttachmentFacts, name: str) -> Path:
        at = self.folder / name
        at.mkdir()
        mounting.mount(facts, at)
        return at

    def durable(self) -> tuple[int, int]:
        """The newest LSN, and the newest one that is durable."""
        told = self.verbs.show("disk")
        assert told.latest is not None
        assert told.status is not None
        durable = told.status["durable_lsn"]
        assert isinstance(durable, int)
        return told.latest.lsn, durable


@contextmanager
def step(what: str) -> Iterator[None]:
    begun = time.monotonic()
    print(f"guest: {what} …", flush=True)
    yield
    print(f"guest: {what}: {time.monotonic() - begun:.1f} s", flush=True)


def file_content(number: int) -> bytes:
    return content(4096 * (1 + number % 7), seed=number)


def fill(folder: Path, first: int, count: int) -> None:
    """Files whose bytes are on the disk when this returns."""
    for number in range(first, first + count):
        with (folder / f"file{number}").open("wb") as file:
            file.write(file_content(number))
            file.flush()
            os.fsync(file.fileno())


def hashes(folder: Path) -> dict[str, str]:
    return {it.name: hashlib.sha256(it.read_bytes()).hexdigest() for it in folder.iterdir() if it.is_file()}


def rules_of(device: str) -> str:
    """What udev makes of a device by our rules alone."""
    rules = Path("/run/udev/rules.d")
    rules.mkdir(parents=True, exist_ok=True)
    (rules / "59-cdp.rules").write_text((ROOT / "packaging/udev/59-cdp.rules").read_text())
    root = Path(os.environ["CDP_GUEST"])
    return run(root / "bin/udevadm", "test", f"/sys/block/{Path(device).name}").stdout


def fua_and_flush(story: Story, device: str) -> None:
    """A write with O_DSYNC is durable without a flush (FUA), one without is not until fsync (FLUSH)."""
    queue = Path(f"/sys/block/{Path(device).name}/queue")
    assert (queue / "fua").read_text().strip() == "1"
    assert (queue / "write_cache").read_text().strip() == "write back"
    page = mmap.mmap(-1, DSYNC_BYTES)
    page.write(content(DSYNC_BYTES, seed="fua"))
    descriptor = os.open(device, os.O_RDWR | os.O_DIRECT)
    os.pwrite(descriptor, page, 0)
    latest, _ = story.durable()
    os.fsync(descriptor)
    assert story.durable()[1] >= latest
    os.close(descriptor)
    descriptor = os.open(device, os.O_RDWR | os.O_DIRECT | os.O_DSYNC)
    os.pwrite(descriptor, page, DSYNC_BYTES)
    newest, durable = story.durable()
    assert newest == durable > latest
    os.close(descriptor)


def memory_of(story: Story) -> None:
    """Locked, and every thread marked as part of the way to a disk: the guest's root may do both."""
    flags = io_flusher_flags()
    assert flags is not None
    threads = thread_flags(story.daemon.pid)
    assert all(told & flags == flags for told in threads.values()), (flags, threads)
    assert locked_bytes(story.daemon.pid) > 0
    assert "PR_SET_IO_FLUSHER" not in story.daemon.log


def killed_under_a_mount(story: Story, folder: Path) -> None:
    """The daemon is killed while files are written; the writer waits, and goes on."""
    with ThreadPoolExecutor() as pool:
        writer = pool.submit(fill, folder, 100, KILLED_FILES)
        while not (folder / "file103").exists():
            assert not writer.done()
        story.daemon.kill()
        assert not writer.done(), "all was written before the daemon was killed"
        story.daemon.start()
        writer.result(120)


def tell() -> None:
    story = Story(Path("/mnt/story"))
    verbs = story.verbs
    verbs.create("disk", SIZE, 4096, None)
    with step("attach"):
        live = verbs.attach(Wish("disk"))
    assert live.driver == "nbd", live
    assert live.device.startswith("/dev/nbd")
    with step("the daemon's memory"):
        memory_of(story)
    with step("FUA and FLUSH"):
        fua_and_flush(story, live.device)
    with step("ext4"):
        run("mkfs.ext4", "-q", live.device)
        folder = story.mounted(live, "live")
        fill(folder, 0, 20)
        before = hashes(folder)
    views(story, live, folder, before)
    refuse(story, live, folder)
    with step("the daemon killed under a mount"):
        killed_under_a_mount(story, folder)
    with step("the daemon restarted under a mount"):
        story.daemon.stop()
        story.daemon.start()
        fill(folder, 200, 3)
    kept = hashes(folder)
    for number in (*range(100, 100 + KILLED_FILES), *range(200, 203)):
        assert kept[f"file{number}"] == hashlib.sha256(file_content(number)).hexdigest()
    with step("grown under a mount"):
        story.verbs.resize("disk", 2 * SIZE)
        assert int(Path(f"/sys/block/{Path(live.device).name}/size").read_text()) * 512 == 2 * SIZE
        run("resize2fs", live.device)
        (folder / "large").write_bytes(content(SIZE, seed="large"))
    with step("clean at the end"):
        run("umount", folder)
        run("e2fsck", "-fn", live.device)
        story.verbs.detach(live.device)
        assert story.verbs.attachments() == ()
    story.daemon.stop()


def views(story: Story, live: AttachmentFacts, folder: Path, before: dict[str, str]) -> None:
    """What was, beside what is: mounted through a scratch view, and as devices of both drivers, which udev leaves alone."""
    good = story.verbs.resolve("disk", parse("latest"))
    with step("an instant beside the live one"):
        for file in folder.glob("file*"):
            file.write_bytes(b"wrecked")
        view = story.verbs.attach(Wish(f"disk@lsn:{good.lsn}", mount=str(story.folder / "then")))
        then = story.mounted(view, "then")
        assert hashes(then) == before
        mounting.unmount(view)
        story.verbs.detach(view.device)
    with step("a read-only view"):
        plain = story.verbs.attach(Wish(f"disk@lsn:{good.lsn}"))
        assert Path(f"/sys/block/{Path(plain.device).name}/ro").read_text().strip() == "1"
        assert HIDDEN in rules_of(plain.device)
        assert HIDDEN not in rules_of(live.device)
        story.verbs.detach(plain.device)
    with step("the other driver beside it"):
        other = story.verbs.attach(Wish(f"disk@lsn:{good.lsn}", driver="fuse"))
        assert HIDDEN in rules_of(other.device)
        assert {it.driver for it in story.verbs.attachments()} == {"nbd", "fuse"}
        story.verbs.detach(other.device)


def refuse(story: Story, live: AttachmentFacts, folder: Path) -> None:
    """What is mounted is not detached, a second device of the live volume is not made, a foreign back end is not touched."""
    from cdp.attach import netlink  # noqa: PLC0415 (slow to load here)

    index = int(live.device.removeprefix("/dev/nbd"))
    with pytest.raises(Busy, match=str(folder)):
        story.verbs.detach(live.device)
    with pytest.raises(Busy, match=live.device):
        story.verbs.attach(Wish("disk"))
    with pytest.raises(Invalid):
        netlink.reconfigure(index, backend="cdp:another", sockets=())


if __name__ == "__main__":
    # What was under way at the kill is sent again after this: a guest that computes slowly needs no longer bound.
    print(f"guest: requests are sent again after {kernel_nbd.REQUEST_SECONDS} s", flush=True)
    try:
        tell()
    except BaseException:
        traceback.print_exc()
        for log in Path("/mnt/story").glob("*.log"):
            print(log.read_text(errors="replace")[-6000:])
        sys.exit(1)

"""Bookmarks of file systems that are held still: what they hold, and that every way out thaws."""

from __future__ import annotations

import errno
import fcntl
import os
import signal
import subprocess
import sys
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from cdp.attach.freeze import Stillness, check_folders, still
from cdp.attach.freezer import FIFREEZE, FITHAW
from cdp.errors import Busy, Closed, Invalid, Io
from tests.rig.attached import Devices, devices_of
from tests.rig.cdp import Cdp, environment
from tests.rig.content import content
from tests.rig.daemon import Daemon
from tests.rig.process import run
from tests.rig.small_disk import MIB, NoDisk, small_disk

KINDS = {"ext4": ("mkfs.ext4", "-q"), "xfs": ("mkfs.xfs", "-q")}
SIZE = {"ext4": "64MiB", "xfs": "320MiB"}
HOLDER = """
import sys
from pathlib import Path
from cdp.attach.freeze import Stillness, still
with still(Stillness([Path(sys.argv[1])], hook=sys.argv[2], seconds=600)):
    print("held", flush=True)
    sys.stdin.read()
"""
"""Holds a file system still until its standard input ends, as the command line does until the daemon answers. No time-out would end that within the test."""


@pytest.fixture
def devices(daemon: Daemon, tmp_path: Path) -> Iterator[Devices]:
    with devices_of(daemon, tmp_path) as made:
        yield made


@pytest.fixture
def folder(tmp_path: Path) -> Iterator[Path]:
    """A mounted ext4 that no daemon is behind."""
    with _disk(tmp_path / "mnt") as mounted:
        yield mounted


@contextmanager
def _disk(folder: Path) -> Iterator[Path]:
    folder.mkdir()
    if os.geteuid() or not os.path.exists("/dev/loop-control"):
        pytest.skip("takes root and loop devices")
    try:
        with small_disk("ext4", 32 * MIB, folder) as mounted:
            try:
                yield mounted
            finally:
                was_frozen(mounted)  # Else nothing could take it away.
    except NoDisk as error:
        if os.environ.get("CI"):
            raise
        pytest.skip(str(error))


def was_frozen(folder: Path) -> bool:
    """Whether it was; it is not any more."""
    return _ioctl(folder, FITHAW, errno.EINVAL)


def freeze(folder: Path) -> bool:
    """Freezes it; False if it is frozen already."""
    return _ioctl(folder, FIFREEZE, errno.EBUSY)


def _ioctl(folder: Path, request: int, other: int) -> bool:
    opened = os.open(folder, os.O_RDONLY)
    try:
        fcntl.ioctl(opened, request, 0)
    except OSError as error:
        if error.errno != other:
            raise
        return False
    finally:
        os.close(opened)
    return True


def while_still(wanted: Stillness, do: Callable[[], object]) -> None:
    with still(wanted):
        assert all(not freeze(folder) for folder in wanted.folders)
        do()


def assert_thawed(folder: Path) -> None:
    """Once it is, whoever sees to that: a write waits for it."""
    writer = threading.Thread(target=(folder / "written").write_bytes, args=(b"thawed",))
    writer.start()
    writer.join(60)
    # No signal ends such a write: it must not stay behind.
    stuck = writer.is_alive() and was_frozen(folder)
    writer.join()
    assert not stuck
    assert not was_frozen(folder)


@pytest.mark.parametrize("kind", KINDS)
def test_a_frozen_bookmark_holds_what_was_written(devices: Devices, kind: str) -> None:
    cdp = devices.daemon.cdp
    cdp("create", "disk", "--size", SIZE[kind])
    live = devices.attach("disk")
    run(*KINDS[kind], live)
    mounted = devices.mounted(live)
    written = {f"file{number}": content(50_000, seed=number) for number in range(20)}
    for name, data in written.items():
        (mounted / name).write_bytes(data)
    told = cdp("bookmark", "disk", "still", "--freeze", mounted)
    assert not was_frozen(mounted)
    for name in written:
        (mounted / name).unlink()
    run("sync", "-f", mounted)
    view = devices.attach("disk@bookmark:still")
    if kind == "ext4":
        # Nothing is left in its journal, as after an unmount.
        assert "needs_recovery" not in run("dumpe2fs", "-h", view).stdout
        run("e2fsck", "-fn", view)
    devices.detach(view)
    then = devices.folder()
    view = devices.attach(f"disk@lsn:{told['lsn']}", "--mount", then)
    assert {it.name: it.read_bytes() for it in then.glob("file*")} == written
    devices.detach(view)
    run("umount", mounted)
    devices.detach(live)


def test_several_file_systems_and_a_hook(devices: Devices, folder: Path) -> None:
    cdp = devices.daemon.cdp
    cdp("create", "disk", "--size", SIZE["ext4"])
    live = devices.attach("disk")
    run(*KINDS["ext4"], live)
    mounted = devices.mounted(live)
    hook = f'echo "$CDP_HOOK $CDP_VOLUME $CDP_BOOKMARK" | tee -a {mounted}/hook >> {folder}/hook'
    cdp("bookmark", "disk", "both", "--freeze", mounted, "--freeze", folder, "--freeze", mounted, "--hook", hook)
    for one in (folder, mounted):
        assert (one / "hook").read_text() == "before disk both\nafter disk both\n"
        assert not was_frozen(one)
    then = devices.folder()
    view = devices.attach("disk@bookmark:both", "--mount", then)
    assert (then / "hook").read_text() == "before disk both\n"
    devices.detach(view)
    run("umount", mounted)
    devices.detach(live)


@pytest.mark.parametrize("how", [signal.SIGINT, signal.SIGTERM, signal.SIGHUP, signal.SIGKILL])
def test_whoever_is_ended_leaves_nothing_frozen(folder: Path, tmp_path: Path, how: signal.Signals) -> None:
    log = tmp_path / "hook"
    command = [sys.executable, "-c", HOLDER, str(folder), f"echo $CDP_HOOK >> {log}"]
    pipe = subprocess.PIPE
    with subprocess.Popen(command, stdin=pipe, stdout=pipe, stderr=pipe, env=environment()) as holder:
        assert holder.stdout is not None
        assert holder.stderr is not None
        assert holder.stdout.readline() == b"held\n"
        assert not freeze(folder)
        holder.send_signal(how)
        holder.wait(60)
        if how != signal.SIGKILL:
            # It ends after the thaw.
            assert not was_frozen(folder)
        # The other process writes to it as well: it has ended.
        holder.stderr.read()
        assert not was_frozen(folder)
        assert log.read_text() == "before\nafter\n"


def test_a_hook_does_not_keep_who_is_ended(folder: Path) -> None:
    hook = "echo $CDP_HOOK; [ $CDP_HOOK = after ] || sleep 1000"
    command = [sys.executable, "-c", HOLDER, str(folder), hook]
    with subprocess.Popen(command, stdin=subprocess.PIPE, stderr=subprocess.PIPE, env=environment()) as holder:
        assert holder.stderr is not None
        assert holder.stderr.readline() == b"before\n"
        holder.send_signal(signal.SIGTERM)
        assert holder.wait(60) == 128 + signal.SIGTERM
        # Its end comes when nobody can write to it any more: the hook is gone, too.
        assert holder.stderr.read() == b"after\n"
    assert not was_frozen(folder)


def test_the_time_out_thaws(folder: Path) -> None:
    with pytest.raises(Busy, match="not done within"):
        while_still(Stillness([folder], seconds=0.2), lambda: assert_thawed(folder))
    assert not was_frozen(folder)


def test_an_error_thaws(folder: Path) -> None:
    def fail() -> None:
        raise Closed("gone")

    with pytest.raises(Closed, match="gone"):
        while_still(Stillness([folder]), fail)
    assert not was_frozen(folder)


@pytest.mark.parametrize(("how", "said"), [(signal.SIGKILL, Io), (signal.SIGTERM, Closed)])
def test_the_other_process_may_be_ended(folder: Path, how: signal.Signals, said: type[Exception]) -> None:
    def children() -> set[str]:
        return set(Path(f"/proc/self/task/{os.getpid()}/children").read_text().split())

    # Other tests' fixtures may have some that live on.
    others = children()

    def end() -> None:
        (child,) = children() - others
        os.kill(int(child), how)
        if how == signal.SIGTERM:
            assert_thawed(folder)

    with pytest.raises(said):
        while_still(Stillness([folder]), end)
    assert not was_frozen(folder)


def test_what_others_do_meanwhile_is_seen(folder: Path) -> None:
    with pytest.raises(Busy, match="somebody else thawed"):
        while_still(Stillness([folder]), lambda: was_frozen(folder))
    assert freeze(folder)
    with pytest.raises(Busy, match="frozen already"):
        while_still(Stillness([folder]), lambda: None)
    assert was_frozen(folder)


@pytest.mark.parametrize(
    ("hook", "kind", "said"),
    [
        ("[ $CDP_HOOK = after ]", Io, "exit code 1 .before"),
        ("[ $CDP_HOOK = before ]", Io, "exit code 1 .after"),
        ("[ $CDP_HOOK = after ] || sleep 1000", Busy, "within 0.5 s .before"),
        ("[ $CDP_HOOK = before ] || sleep 1000", Busy, "within 0.5 s .after"),
    ],
)
def test_a_hook_that_fails(folder: Path, tmp_path: Path, hook: str, kind: type[Exception], said: str) -> None:
    log = tmp_path / "hook"
    entered: list[bool] = []
    wanted = Stillness([folder], f"echo $CDP_HOOK >> {log}; {hook}", seconds=0.5)
    with pytest.raises(kind, match=said):
        while_still(wanted, lambda: entered.append(True))
    assert bool(entered) == ("after" in said)
    assert log.read_text() == "before\nafter\n"
    assert not was_frozen(folder)


def test_what_the_store_needs_is_not_frozen(folder: Path, tmp_path: Path) -> None:
    """Neither the store's own file system, nor the one that this stands on."""
    inner = tmp_path / "inner"
    inner.mkdir()
    image = folder / "image"
    with image.open("wb") as file:
        file.truncate(16 * MIB)
    run("mkfs.ext4", "-q", image)
    run("mount", "-o", "loop", image, inner)
    try:
        store = inner / "store"
        store.mkdir()
        cdp = Cdp(store)
        cdp("create", "disk", "--size", "1MiB")
        for refused in (folder, inner):
            said = cdp.run("bookmark", "disk", "b", "--freeze", refused, exit_code=2).stderr
            assert f"{refused} cannot be frozen" in said
        # What stands on another is frozen first: freezing it writes to that one.
        assert check_folders([folder, inner], tmp_path) == (inner, folder)
        with still(Stillness(check_folders([folder, inner], tmp_path))):
            assert not freeze(inner)
        assert not was_frozen(inner)
    finally:
        run("umount", inner)
    assert not was_frozen(folder)


def test_refusals(folder: Path, tmp_path: Path, cdp: Cdp) -> None:
    cdp("create", "disk", "--size", "1MiB")
    still_ = ("bookmark", "disk", "b", "--freeze")
    assert "no mount point" in cdp.run(*still_, tmp_path, exit_code=2).stderr
    assert "time-out" in cdp.run(*still_, folder, "--timeout", "0", exit_code=2).stderr
    assert "not for --at" in cdp.run(*still_, folder, "--at", "oldest", exit_code=2).stderr
    assert "no volume" in cdp.run("bookmark", "none", "b", "--freeze", folder, exit_code=3).stderr
    assert not was_frozen(folder)
    assert "cannot name a bookmark" in cdp.run("bookmark", "disk", "a/b", "--freeze", folder, exit_code=2).stderr
    assert "cannot be frozen" in cdp.run(*still_, "/proc", exit_code=2).stderr
    assert cdp("show", "disk")["bookmarks"] == []
    with pytest.raises(Invalid):
        check_folders([Path("/none")], tmp_path)
    assert not was_frozen(folder)


def test_a_daemon_that_is_killed_meanwhile(daemon: Daemon, folder: Path) -> None:
    daemon.cdp("create", "disk", "--size", "1MiB")
    # The command has found the daemon, and is going to ask it.
    hook = f"[ $CDP_HOOK = after ] || kill -9 {daemon.pid}"
    refused = daemon.cdp.run("bookmark", "disk", "b", "--freeze", folder, "--hook", hook, exit_code=5)
    assert "nothing was named" in refused.stderr
    assert not was_frozen(folder)
    daemon.wait()
    assert daemon.cdp("show", "disk")["bookmarks"] == []


def test_a_device_that_does_not_answer(devices: Devices, folder: Path) -> None:
    """Freezing waits for it, and no signal ends that: the other file system is thawed in time, this one when the daemon is back."""
    daemon = devices.daemon
    daemon.cdp("create", "disk", "--size", SIZE["xfs"])
    live = devices.attach("disk")
    run(*KINDS["xfs"], live)
    mounted = devices.mounted(live)
    # Clean, an XFS is written to when it is frozen, not when it is synced before.
    run("sync", "-f", mounted)
    daemon.kill()
    wish = ("bookmark", "disk", "b", "--timeout", "0.5", "--freeze", folder, "--freeze", mounted)
    refused = daemon.cdp.run(*wish, exit_code=4)
    assert "not everything was frozen" in refused.stderr
    assert not was_frozen(folder)
    daemon.start()
    assert_thawed(mounted)
    run("umount", mounted)
    devices.detach(live)

"""Volumes and instants as block devices, with the kernel's own file systems on them."""

from __future__ import annotations

import hashlib
import os
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest

from cdp.attach import mounting
from cdp.control.client import RemoteStore
from cdp.errors import Invalid
from tests.interop.test_metrics import scraped
from tests.rig.attached import Devices, devices_of
from tests.rig.content import content
from tests.rig.daemon import Daemon
from tests.rig.disk import get, put
from tests.rig.process import run

KINDS = {"ext4": ("mkfs.ext4", "-q"), "xfs": ("mkfs.xfs", "-q"), "btrfs": ("mkfs.btrfs", "-q")}
SIZE = {"ext4": "64MiB", "xfs": "320MiB", "btrfs": "192MiB"}


@pytest.fixture
def devices(daemon: Daemon, tmp_path: Path) -> Iterator[Devices]:
    with devices_of(daemon, tmp_path) as made:
        yield made


def fill(folder: Path, first: int, count: int) -> None:
    """Files whose bytes are on the disk when this returns."""
    for number in range(first, first + count):
        with (folder / f"file{number}").open("wb") as file:
            file.write(content(4096 * (1 + number % 7), seed=number))
            file.flush()
            os.fsync(file.fileno())
    descriptor = os.open(folder, os.O_RDONLY)
    os.fsync(descriptor)
    os.close(descriptor)


def hashes(folder: Path) -> dict[str, str]:
    """The files of a folder by name."""
    return {
        it.name: hashlib.sha256(it.read_bytes()).hexdigest()
        for it in sorted(folder.iterdir())
        if it.name != "lost+found"
    }


def require_btrfs() -> None:
    """Skips the test where the kernel has no btrfs."""
    if "btrfs" not in Path("/proc/filesystems").read_text() and run("modprobe", "btrfs", exit_code=None).returncode:
        pytest.skip("this kernel has no btrfs")


@pytest.mark.parametrize("kind", KINDS)
def test_an_instant_beside_the_live_file_system(devices: Devices, kind: str) -> None:
    if kind == "btrfs":
        require_btrfs()
        if mounting.kernel() < mounting.BTRFS_BESIDE:
            pytest.skip("a btrfs beside its original needs Linux 6.7")
    cdp = devices.daemon.cdp
    cdp("create", "disk", "--size", SIZE[kind])
    live = devices.attach("disk")
    run(*KINDS[kind], live)
    mounted = devices.mounted(live)
    fill(mounted, 0, 40)
    before = hashes(mounted)
    cdp("bookmark", "disk", "good")
    for file in mounted.glob("file*"):
        file.write_bytes(b"wrecked")
    fill(mounted, 50, 10)
    then = devices.folder()
    view = devices.attach("disk@bookmark:good", "--mount", then)
    assert hashes(then) == before
    assert hashes(mounted) != before
    told = devices.listed()
    assert (told[live]["lsn"], told[live]["state"], told[live]["mount"]) == (None, "ok", None)
    assert (told[view]["mount"], told[view]["read_only"]) == (str(then), False)
    refused = cdp.run("detach", live, exit_code=4).stderr
    assert str(mounted) in refused
    devices.detach(view)
    assert not os.path.ismount(then)
    assert cdp("scratch", "disk") == []
    run("umount", mounted)
    devices.detach(live)
    assert devices.listed() == {}


def test_a_btrfs_beside_its_original_is_refused_by_name_where_the_kernel_cannot(
    devices: Devices, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The kernel is believed to be older than it is: what is refused is then mounted, once its original is not."""
    require_btrfs()
    daemon = devices.daemon
    daemon.cdp("create", "disk", "--size", SIZE["btrfs"])
    live = devices.attach("disk")
    run(*KINDS["btrfs"], live)
    mounted = devices.mounted(live)
    fill(mounted, 0, 10)
    before = hashes(mounted)
    daemon.cdp("bookmark", "disk", "good")
    monkeypatch.setattr(mounting, "kernel", lambda: (6, 6))
    view = devices.attach("disk@bookmark:good+scratch")
    (facts,) = (it for it in RemoteStore(daemon.store).attachments() if it.device == view)
    then = devices.folder()
    with pytest.raises(Invalid, match=r"beside its original it needs Linux 6\.7, this is .*Unmount the original first"):
        mounting.mount(facts, then)
    assert not os.path.ismount(then)
    run("umount", mounted)
    devices.detach(live)
    mounting.mount(facts, then)
    assert hashes(then) == before
    run("umount", then)
    devices.detach(view)


def test_files_out_of_an_instant(devices: Devices, tmp_path: Path) -> None:
    cdp = devices.daemon.cdp
    cdp("create", "disk", "--size", "64MiB")
    live = devices.attach("disk")
    run("mkfs.ext4", "-q", live)
    mounted = devices.mounted(live)
    (mounted / "docs").mkdir()
    fill(mounted / "docs", 0, 3)
    (mounted / "by-root").symlink_to("/docs")
    (mounted / "out").symlink_to("/etc/passwd")
    (mounted / "up").symlink_to("../../../../../../etc/passwd")
    os.sync()
    before = hashes(mounted / "docs")
    cdp("bookmark", "disk", "good")
    for file in (mounted / "docs").iterdir():
        file.unlink()
    os.sync()
    assert [it["name"] for it in cdp("ls", "disk@bookmark:good:/docs")] == sorted(before)
    assert cdp("ls", "disk:/docs") == []
    assert "out -> /etc/passwd" in cdp.run("ls", "disk@bookmark:good:/").stdout
    cdp.run("cp", "disk@bookmark:good:/by-root", tmp_path / "docs")
    assert hashes(tmp_path / "docs") == before
    for path in ("/out", "/up", "/docs/none"):
        assert "No such file" in cdp.run("cp", f"disk@bookmark:good:{path}", tmp_path / "x", exit_code=3).stderr
    assert "names no file" in cdp.run("ls", "disk@bookmark:good", exit_code=2).stderr
    assert list(devices.listed()) == [live]
    run("umount", mounted)
    devices.detach(live)


def test_fio_verifies_through_the_mount(devices: Devices) -> None:
    devices.daemon.cdp("create", "disk", "--size", "128MiB")
    device = devices.attach("disk")
    run("mkfs.ext4", "-q", device)
    folder = devices.mounted(device)
    job = ("--name=fio", f"--directory={folder}", "--rw=randwrite", "--bs=4k-64k", "--size=32m", "--fsync=64")
    run(
        "fio",
        *job,
        "--ioengine=libaio",
        "--iodepth=8",
        "--direct=1",
        "--verify=crc32c",
        "--do_verify=1",
        "--verify_state_save=0",
    )
    run("umount", folder)
    run("e2fsck", "-fn", device)
    devices.detach(device)


def test_a_view_is_read_only_and_shows_its_instant(devices: Devices) -> None:
    daemon = devices.daemon
    daemon.cdp("create", "disk", "--size", "1MiB")
    put(daemon.uri("disk"), 0, b"a" * 4096)
    put(daemon.uri("disk"), 0, b"b" * 4096)
    view = devices.attach("disk@lsn:1")
    scratch = devices.attach("disk@lsn:1+scratch=mine")
    assert Path(view).read_bytes()[:4097] == b"a" * 4096 + b"\0"
    with pytest.raises(OSError, match="not permitted"), open(view, "r+b", buffering=0) as file:
        file.write(b"x" * 4096)
    with open(scratch, "r+b") as file:
        file.write(b"c" * 4096)
        file.flush()
        os.fsync(file.fileno())
    assert Path(scratch).read_bytes()[:4096] == b"c" * 4096
    assert Path(view).read_bytes()[:4096] == b"a" * 4096
    assert "lsn:1" in daemon.cdp.run("list").stdout
    assert scratch in daemon.cdp.run("scratch", "disk", "--release", "mine", "--force", exit_code=4).stderr
    devices.detach(view)
    devices.detach(scratch)
    assert [it["id"] for it in daemon.cdp("scratch", "disk")] == ["mine"]


def test_discards_and_flushes_arrive(devices: Devices) -> None:
    daemon = devices.daemon
    daemon.cdp("create", "disk", "--size", "8MiB")
    device = devices.attach("disk")
    with open(device, "r+b", buffering=0) as file:
        file.write(content(1 << 20, seed=1))
        os.fsync(file.fileno())
    status = daemon.cdp("show", "disk")
    assert status["status"]["durable_lsn"] == status["latest"]["lsn"] > 0
    run("blkdiscard", device)
    after = daemon.cdp("show", "disk")["latest"]["lsn"]
    assert after > status["latest"]["lsn"]
    assert Path(device).read_bytes() == bytes(8 << 20)
    devices.detach(device)


def test_refusals(devices: Devices, tmp_path: Path) -> None:
    daemon = devices.daemon
    cdp = daemon.cdp
    cdp("create", "disk", "--size", "8MiB")
    assert "no volume" in cdp.run("attach", "none", exit_code=3).stderr
    assert "not attached" in cdp.run("detach", "/dev/null", exit_code=3).stderr
    assert "no driver" in cdp.run("attach", "disk", "--driver", "magic", exit_code=2).stderr
    assert "no folder" in cdp.run("attach", "disk", "--mount", tmp_path / "none", exit_code=2).stderr
    assert "no file system" in cdp.run("attach", "disk", "--mount", devices.folder(), exit_code=2).stderr
    assert devices.listed() == {}
    device = devices.attach("disk")
    assert device in cdp.run("attach", "disk", exit_code=4).stderr
    assert device in cdp.run("delete", "disk", exit_code=4).stderr
    assert device in cdp.run("rollback", "disk", "--to", "oldest", "--force", exit_code=4).stderr
    devices.detach(device)
    cdp("rollback", "disk", "--to", "oldest")


def test_only_what_shows_the_device_is_unmounted(devices: Devices) -> None:
    """Neither what was mounted over it, nor the view on another folder; the folder of `--mount` names the device as well."""
    cdp = devices.daemon.cdp
    cdp("create", "disk", "--size", "64MiB")
    live = devices.attach("disk")
    run("mkfs.ext4", "-q", live)
    devices.detach(live)
    cdp("bookmark", "disk", "good")
    then, other = devices.folder(), devices.folder()
    view = devices.attach("disk@bookmark:good", "--mount", then)
    refused = cdp.run("attach", "disk@bookmark:good", "--mount", then, exit_code=4).stderr
    assert "mount point already" in refused
    assert view in refused
    second = devices.attach("disk@bookmark:good", "--mount", other)
    run("mount", "-t", "tmpfs", "over", then)
    (then / "keep").write_text("kept")
    for name in (view, then):
        assert "over" in cdp.run("detach", name, exit_code=4).stderr
    assert (then / "keep").read_text() == "kept"
    run("umount", then)
    run("mount", second, then)
    assert second in cdp.run("detach", then, exit_code=4).stderr
    assert os.stat(then).st_dev == os.stat(second).st_rdev
    run("umount", then)
    cdp("detach", then)
    assert not os.path.ismount(then)
    assert list(devices.listed()) == [second]
    cdp("detach", other)
    assert devices.listed() == {}


def test_without_a_daemon(daemon: Daemon, tmp_path: Path) -> None:
    with devices_of(daemon, tmp_path) as devices:
        daemon.cdp("create", "disk", "--size", "8MiB")
        device = devices.attach("disk")
        daemon.stop()
        assert "daemon" in daemon.cdp.run("attach", "disk", exit_code=5).stderr
        assert list(devices.listed()) == [device]
        devices.detach(device)


def test_a_mounted_file_system_outlives_the_daemon(devices: Devices) -> None:
    daemon = devices.daemon
    daemon.cdp("create", "disk", "--size", "64MiB")
    device = devices.attach("disk")
    run("mkfs.ext4", "-q", device)
    folder = devices.mounted(device)
    fill(folder, 0, 10)
    daemon.kill()
    with ThreadPoolExecutor() as pool:
        writer = pool.submit(fill, folder, 10, 10)
        daemon.start()
        writer.result(60)
    assert devices.listed()[device]["state"] == "ok"
    daemon.stop()
    daemon.start()
    assert len(hashes(folder)) == 20
    run("umount", folder)
    run("e2fsck", "-fn", device)
    devices.detach(device)


def test_a_volume_grows_under_its_device(devices: Devices) -> None:
    """The device gets the new size when it is attached anew; until then it goes on as it was, also over a restart."""
    daemon = devices.daemon
    daemon.cdp("create", "disk", "--size", "8MiB")
    device = devices.attach("disk")
    daemon.cdp("resize", "disk", "--size", "16MiB")
    daemon.kill()
    daemon.start()
    put_direct(device, 0, b"a" * 4096)
    assert get(daemon.uri("disk"))[:4096] == b"a" * 4096
    devices.detach(device)
    device = devices.attach("disk")
    put_direct(device, (16 << 20) - 4096, b"b" * 4096)
    devices.detach(device)
    assert get(daemon.uri("disk"))[-4096:] == b"b" * 4096


def put_direct(device: str, offset: int, data: bytes) -> None:
    with open(device, "r+b", buffering=0) as file:
        file.seek(offset)
        file.write(data)
        os.fsync(file.fileno())


def test_a_scratch_view_ends_with_its_daemon(devices: Devices) -> None:
    daemon = devices.daemon
    daemon.cdp("create", "disk", "--size", "64MiB")
    live = devices.attach("disk")
    run("mkfs.ext4", "-q", live)
    devices.detach(live)
    free = devices.attach("disk@latest+scratch")
    folder = devices.folder()
    mounted = devices.attach("disk@latest", "--mount", folder)
    daemon.kill()
    assert {one["state"] for one in devices.listed().values()} == {"lost"}
    daemon.start()
    assert free not in devices.listed()
    assert devices.listed()[mounted]["state"] == "lost"
    assert f"cdp detach {mounted}" in daemon.cdp.run("list").stderr
    devices.detach(mounted)
    assert devices.listed() == {}


def test_a_volume_that_cannot_be_opened_is_not_shown_as_healthy(devices: Devices) -> None:
    daemon = devices.daemon
    made = daemon.cdp("create", "disk", "--size", "1MiB")
    device = devices.attach("disk")
    daemon.stop()
    for manifest in (daemon.store / "volumes" / made["id"]).glob("manifest.*"):
        manifest.write_bytes(bytes(4096))
    assert daemon.cdp("show", "disk")["volume"]["state"] == "failed"
    daemon.start()
    shown = daemon.cdp("show", "disk")
    assert shown["volume"]["state"] == "failed"
    assert "manifest" in shown["faults"][0]
    (listed,) = daemon.cdp("list")
    assert (listed["state"], listed["attached"][0]["state"]) == ("failed", "lost")
    assert "manifest" in listed["problems"][0]
    assert f"{device} does not answer" in daemon.cdp.run("list").stderr
    assert scraped(daemon).one("cdp_volume_lost_devices", volume="disk") == 1
    devices.detach(device)
    daemon.cdp("delete", "disk", "--now")


def test_a_store_on_its_own_device_is_refused(devices: Devices) -> None:
    daemon = devices.daemon
    daemon.cdp("create", "disk", "--size", "64MiB")
    device = devices.attach("disk")
    run("mkfs.ext4", "-q", device)
    run("mount", device, daemon.store)
    try:
        refused = daemon.cdp.run("serve", exit_code=2).stderr
    finally:
        run("umount", daemon.store)
    assert device in refused
    devices.detach(device)

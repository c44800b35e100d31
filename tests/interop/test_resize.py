"""A volume that grows while it is served: clients, views, rollback, clones, and the reference reader agree on its size."""

from __future__ import annotations

import random
import sys
from pathlib import Path

import nbd

from cdp.salvage.volume import open_volume
from tests.rig.cdp import Cdp, environment
from tests.rig.daemon import Daemon
from tests.rig.process import run

MIB = 1 << 20


def connected(daemon: Daemon, export: str, when: str | None = None) -> nbd.NBD:
    client = nbd.NBD()
    client.connect_uri(daemon.uri(export, when))
    return client


def test_a_served_volume_grows(served: Daemon, disk: str) -> None:
    before = served.cdp("show", disk)
    size, lsn = before["volume"]["size"], before["latest"]["lsn"]
    old = connected(served, disk)
    old.pwrite(b"a" * 512, size - 512)
    grown = served.cdp("resize", disk, "--size", str(2 * size))
    assert (grown["size_before"], grown["volume"]["size"]) == (size, 2 * size)
    assert old.get_size() == size, "NBD tells a size once"
    assert old.pread(512, size - 512) == b"a" * 512
    new = connected(served, disk)
    assert new.get_size() == 2 * size
    assert new.pread(512, size) == bytes(512)
    new.pwrite(b"b" * 512, 2 * size - 512, nbd.CMD_FLAG_FUA)
    for when, expected in ((f"lsn:{lsn}", size), (f"lsn:{grown['lsn']}", 2 * size), ("latest", 2 * size)):
        view = connected(served, disk, when)
        assert view.get_size() == expected, when
        view.shutdown()
    scratch = connected(served, disk, f"lsn:{lsn}+scratch")
    assert scratch.get_size() == size
    for client in (old, new, scratch):
        client.shutdown()
    assert served.cdp("show", disk)["volume"]["size"] == 2 * size
    assert next(it for it in served.cdp("list") if it["name"] == disk)["size"] == 2 * size
    assert "resize" in {event["event"] for event in served.cdp("log", disk)["events"]}


def test_what_cannot_be_is_refused_with_the_reason(served: Daemon, disk: str) -> None:
    size = served.cdp("show", disk)["volume"]["size"]
    smaller = served.cdp.run("resize", disk, "--size", str(size // 2), exit_code=2)
    assert "cannot shrink" in smaller.stderr
    assert "multiple of 512" in served.cdp.run("resize", disk, "--size", str(size + 1), exit_code=2).stderr
    assert served.cdp("resize", disk, "--size", str(size))["lsn"] is None
    served.cdp("retention", disk, "--budget", str(4 * size + 64 * MIB))
    assert "budget" in served.cdp.run("resize", disk, "--size", str(64 * size), exit_code=2).stderr
    assert served.cdp("show", disk)["volume"]["size"] == size


def test_rollback_and_clone_have_the_size_of_their_instant(served: Daemon, disk: str) -> None:
    size = served.cdp("show", disk)["volume"]["size"]
    client = connected(served, disk)
    client.pwrite(b"a" * 512, 0)
    client.shutdown()
    small = served.cdp("show", disk)["latest"]["lsn"]
    served.cdp("resize", disk, "--size", str(3 * size))
    served.cdp("clone", f"{disk}@lsn:{small}", f"{disk}-small")
    served.cdp("clone", f"{disk}@latest", f"{disk}-large")
    served.cdp("rollback", disk, "--to", f"lsn:{small}")
    sizes = {it["name"]: it["size"] for it in served.cdp("list")}
    assert (sizes[disk], sizes[f"{disk}-small"], sizes[f"{disk}-large"]) == (size, size, 3 * size)
    for name, expected in sizes.items():
        if name.startswith(disk):
            client = connected(served, name)
            assert client.get_size() == expected
            client.shutdown()
    served.cdp("rollback", disk, "--undo")
    assert served.cdp("show", disk)["volume"]["size"] == 3 * size


def test_a_grown_volume_is_the_same_for_both_readers(cdp: Cdp, store: Path, tmp_path: Path, rng: random.Random) -> None:
    """Without a daemon, then through a crash of it: each instant by the engine and by the reference reader."""
    cdp("create", "disk", "--size", "1MiB")
    marks = {}
    daemon = Daemon(store)
    for round_ in range(4):
        with daemon:
            client = connected(daemon, "disk")
            size = client.get_size()
            for _ in range(5):
                at = rng.randrange(size // 512 - 8) * 512
                client.pwrite(rng.randbytes(4096), at)
            client.pwrite(b"end " * 128, size - 512, nbd.CMD_FLAG_FUA)
            marks[cdp("show", "disk")["latest"]["lsn"]] = size
            grown = cdp("resize", "disk", "--size", str(size + 512 * rng.randrange(1, 4000)))
            marks[grown["lsn"]] = grown["volume"]["size"]
            if round_ % 2:
                daemon.kill()
    reference = open_volume(store / "volumes" / cdp("list")[0]["id"])
    for lsn, size in marks.items():
        assert reference.history.size_at(lsn) == size
        for number, command in enumerate((["cdp.cli.main", "restore"], ["cdp.salvage", "restore"])):
            _restore(command, store, lsn, tmp_path / f"{lsn}.{number}")
        mine, theirs = (tmp_path / f"{lsn}.{number}" for number in (0, 1))
        assert mine.stat().st_size == size
        assert mine.read_bytes() == theirs.read_bytes()
    run(sys.executable, "-m", "cdp.salvage", "check", "disk", "--store", store, env=environment())
    assert cdp("verify", "disk")["findings"] == []


def _restore(command: list[str], store: Path, lsn: int, target: Path) -> None:
    run(
        *(sys.executable, "-m", *command, "disk"),
        *("--at", f"lsn:{lsn}", "--to", target, "--store", store),
        env=environment(),
    )


def test_a_size_that_was_not_noted_is_noted_at_the_next_opening(cdp: Cdp, store: Path) -> None:
    made = cdp("create", "disk", "--size", "1MiB")
    folder = store / "volumes" / made["id"]
    before = {copy: (folder / copy).read_bytes() for copy in ("volume.0", "volume.1")}
    cdp("resize", "disk", "--size", "2MiB")
    for copy, content in before.items():
        (folder / copy).write_bytes(content)  # What a crash before the note leaves.
    assert cdp("list")[0]["size"] == MIB
    assert cdp("show", "disk")["volume"]["size"] == 2 * MIB, "the journal counts"
    with Daemon(store) as daemon:
        client = connected(daemon, "disk")
        assert client.get_size() == 2 * MIB
        client.shutdown()
        assert cdp("list")[0]["size"] == 2 * MIB

"""What changed between two instants, as other clients see it: qemu-img and nbdinfo list what `cdp diff` lists, and incrementals rebuild the volume.

QEMU shows a dirty bitmap through its map: what is dirty has `"data": false`.
"""

from __future__ import annotations

import json
import threading
from pathlib import Path
from typing import Any

import nbd
import pytest

from cdp.changes import parse_point
from cdp.control.reach import reach
from cdp.when import Latest
from tests.rig.cdp import CDP, ROOT, environment
from tests.rig.clients import Qemu, nbdinfo
from tests.rig.content import DISK_BYTES, content
from tests.rig.daemon import Daemon
from tests.rig.process import ProgramFailed, run

SINCE = "x-cdp:changed-since:"
Extents = list[tuple[int, int]]


def opened(served: Daemon, export: str, *since: str) -> Any:
    """A libnbd handle with a context for each instant."""
    client = nbd.NBD()
    client.add_meta_context("base:allocation")
    for when in since:
        client.add_meta_context(SINCE + when)
    client.connect_uri(served.uri(export))
    return client


def latest(served: Daemon, disk: str) -> str:
    with reach(served.store) as verbs:
        return f"lsn:{verbs.resolve(disk, Latest()).lsn}"


def by_command(served: Daemon, disk: str, since: str, until: str) -> Extents:
    told = served.cdp("diff", disk, since, until)
    extents = [(one["offset"], one["length"]) for one in told["extents"]]
    assert told["changed_extents"] == len(extents)
    assert told["changed_bytes"] == sum(length for _, length in extents)
    return extents


def by_diff(served: Daemon, disk: str, since: str, until: str) -> Extents:
    """What the command does, without a process for each of many calls."""
    with reach(served.store) as verbs, verbs.diff(disk, parse_point(since), parse_point(until)) as found:
        return [extent for page in found.pages for extent in page]


def united(extents: Extents) -> Extents:
    """Neighbours as one."""
    found: Extents = []
    for offset, length in extents:
        if found and sum(found[-1]) == offset:
            found[-1] = (found[-1][0], found[-1][1] + length)
        else:
            found.append((offset, length))
    return found


def by_qemu(qemu: Qemu, served: Daemon, export: str, since: str) -> Extents:
    options = {
        "driver": "nbd",
        "server.type": "unix",
        "server.path": str(served.socket),
        "export": export,
        "x-dirty-bitmap": SINCE + since,
    }
    joined = ",".join(f"{key}={value.replace(',', ',,')}" for key, value in options.items())
    told = json.loads(qemu.img("map", "--output=json", "--image-opts", joined))
    assert united([(one["start"], one["length"]) for one in told]) == [(0, DISK_BYTES)]
    return united([(one["start"], one["length"]) for one in told if not one["data"]])


def by_nbdinfo(served: Daemon, export: str, since: str) -> Extents:
    told = nbdinfo(f"--map={SINCE}{since}", served.uri(export))
    assert united([(one["offset"], one["length"]) for one in told]) == [(0, DISK_BYTES)]
    assert {one["type"] for one in told} <= {0, 1}
    return united([(one["offset"], one["length"]) for one in told if one["type"] == 1])


@pytest.fixture
def history(served: Daemon, disk: str, qemu: Qemu) -> list[str]:
    """Instants, with writes, zeros and trims of many sizes between them; some not of whole blocks."""
    instants = [latest(served, disk)]
    for commands in (
        ["write -P 1 0 1M", "write -P 2 3M 64k", "write -P 3 31M 1M"],
        ["write -P 4 512 512", "write -P 5 1M 4k", "discard 3M 32k"],
        ["write -z 8M 9M", "write -P 6 4608 1536", "write -P 7 20000k 1k"],
        ["write -P 1 0 1M"],
    ):
        qemu.io(served.uri(disk), [*commands, "flush"])
        instants.append(latest(served, disk))
    return instants


def test_every_client_lists_what_cdp_diff_lists(served: Daemon, disk: str, qemu: Qemu, history: list[str]) -> None:
    first, second, *_, last = history
    assert by_command(served, disk, first, second) == [(0, 1 << 20), (3 << 20, 65536), (31 << 20, 1 << 20)]
    for since in history:
        expected = by_diff(served, disk, since, last)
        assert by_qemu(qemu, served, disk, since) == expected, f"live since {since}"
        assert by_nbdinfo(served, disk, since) == expected, f"live since {since}"
        for until in history:
            expected = by_diff(served, disk, since, until)
            assert expected == by_diff(served, disk, until, since)
            assert by_nbdinfo(served, f"{disk}@{until}", since) == expected, f"{since} to {until}"
        assert by_qemu(qemu, served, f"{disk}@{second}", since) == by_diff(served, disk, since, second)


def state(served: Daemon, export: str) -> bytes:
    client = opened(served, export)
    found: bytes = client.pread(DISK_BYTES, 0)
    client.shutdown()
    return found


def assert_nothing_is_left_out(served: Daemon, disk: str, points: list[str]) -> None:
    """Between any two of the points (`WHEN` or `VOLUME@WHEN`), the extents turn the one state into the other."""
    states = {point: state(served, point if "@" in point else f"{disk}@{point}") for point in points}
    for since in points:
        for until in points:
            rebuilt = bytearray(states[since])
            for offset, length in by_diff(served, disk, since, until):
                rebuilt[offset : offset + length] = states[until][offset : offset + length]
            assert rebuilt == states[until], f"{since} to {until}"


def test_nothing_that_differs_is_left_out(served: Daemon, disk: str, history: list[str]) -> None:
    assert_nothing_is_left_out(served, disk, history)


def test_across_rollbacks(served: Daemon, disk: str, qemu: Qemu, history: list[str]) -> None:
    first, second, third, *_, last = history
    served.cdp("rollback", disk, "--to", second)
    back = latest(served, disk)
    assert by_command(served, disk, second, back) == []
    assert by_diff(served, disk, last, back) == by_diff(served, disk, second, last), "what the rollback left behind"
    qemu.io(served.uri(disk), ["write -P 9 30M 4k", "flush"])
    beyond = latest(served, disk)
    served.cdp("rollback", disk, "--to", last)
    after = latest(served, disk)
    assert by_diff(served, disk, last, after) == []
    for since in (first, third, back, beyond):
        expected = by_diff(served, disk, since, after)
        assert by_nbdinfo(served, disk, since) == by_qemu(qemu, served, disk, since) == expected
    assert_nothing_is_left_out(served, disk, [*history, back, beyond, after])


def test_between_a_clone_and_its_parent(served: Daemon, disk: str, qemu: Qemu, history: list[str]) -> None:
    first, second, third, *_, last = history
    clone = f"{disk}-clone"
    served.cdp("clone", f"{disk}@{third}", clone)
    assert by_command(served, clone, f"{disk}@{third}", "latest") == []
    assert by_diff(served, clone, f"{disk}@{second}", third) == by_diff(served, disk, second, third)
    qemu.io(served.uri(clone), ["write -P 10 25M 4k", "flush"])
    qemu.io(served.uri(disk), ["write -P 11 14M 8k", "flush"])
    apart = united(sorted([*by_diff(served, disk, third, "latest"), (25 << 20, 4096)]))
    for export, since in ((clone, f"{disk}@latest"), (disk, f"{clone}@latest")):
        assert by_diff(served, export, since, "latest") == apart
        assert by_nbdinfo(served, export, since) == by_qemu(qemu, served, export, since) == apart
    assert by_nbdinfo(served, clone, "oldest") == [(25 << 20, 4096)], "since it was made"
    ends = [latest(served, disk), f"{clone}@latest"]
    assert_nothing_is_left_out(served, disk, [first, second, third, last, *ends])


def test_other_ways_to_say_when(served: Daemon, disk: str, history: list[str]) -> None:
    served.cdp("bookmark", disk, "before", "--at", history[2])
    expected = by_diff(served, disk, history[2], "latest")
    assert by_command(served, disk, "bookmark:before", "latest") == expected
    assert by_nbdinfo(served, disk, "bookmark:before") == expected
    assert by_nbdinfo(served, disk, f"{disk}@{history[2]}") == expected
    stamp = served.cdp("show", disk)["bookmarks"][0]["stamp"]
    unix = f"@{stamp // 10**9}.{stamp % 10**9:09}"
    assert by_nbdinfo(served, disk, unix) == by_diff(served, disk, unix, "latest") == expected
    # An hour ago there was no such volume; the dash is no option.
    refused = served.cdp.run("diff", disk, "-1h", "latest", exit_code=3)
    assert "-1h" in refused.stderr


def test_the_same_without_the_daemon(served: Daemon, disk: str, history: list[str], tmp_path: Path) -> None:
    pairs = [(since, until) for since in history for until in ("latest", history[1])]
    told = [by_command(served, disk, *pair) for pair in pairs[:2]] + [
        by_diff(served, disk, *pair) for pair in pairs[2:]
    ]
    table = served.cdp.run("diff", disk, history[0], history[1]).stdout
    served.stop()
    try:
        assert [by_command(served, disk, *pair) for pair in pairs[:2]] == told[:2]
        assert [by_diff(served, disk, *pair) for pair in pairs[2:]] == told[2:]
        assert served.cdp.run("diff", disk, history[0], history[1]).stdout == table
    finally:
        served.start()
    assert table.splitlines()[1].split() == ["0", "1048576", "1", "MiB"]
    assert table.splitlines()[-1].startswith("3 extents, 2.0 MiB of 32 MiB, between ")


def test_what_cannot_be_reached_is_not_offered(served: Daemon, disk: str, history: list[str]) -> None:
    """QEMU then says that the server has no such bitmap; nothing is clean that is unknown."""
    bad = ["lsn:99999999", "2099-01-01T00:00:00Z", "bookmark:nosuch", "nonsense", "nosuch@latest"]
    client = opened(served, disk, *bad, history[1])
    assert client.can_meta_context("base:allocation")
    assert [client.can_meta_context(SINCE + when) for when in [*bad, history[1]]] == [False] * len(bad) + [True]
    client.shutdown()
    for when in bad[:3]:
        served.cdp.run("diff", disk, when, "latest", exit_code=3)
    served.cdp.run("diff", disk, "nonsense", "latest", exit_code=2)


def test_volumes_without_a_common_history_are_not_compared(served: Daemon, disk: str, history: list[str]) -> None:
    served.cdp("create", f"{disk}-other", "--size", str(DISK_BYTES))
    refused = served.cdp.run("diff", disk, f"{disk}-other@latest", "latest", exit_code=2)
    assert "in common" in refused.stderr
    client = opened(served, disk, f"{disk}-other@latest")
    assert not client.can_meta_context(f"{SINCE}{disk}-other@latest")
    client.shutdown()


def test_instants_to_ask_for_are_listed(served: Daemon, disk: str, history: list[str]) -> None:
    for name, when in zip(("a", "b"), history, strict=False):
        served.cdp("bookmark", disk, name, "--at", when)
    for queries, expected in (
        (["x-cdp:"], [SINCE]),
        ([SINCE], [f"{SINCE}oldest", f"{SINCE}bookmark:a", f"{SINCE}bookmark:b"]),
        ([f"{SINCE}lsn:0"], [f"{SINCE}lsn:0"]),
    ):
        client = nbd.NBD()
        client.set_opt_mode(True)
        client.set_export_name(disk)
        client.connect_unix(str(served.socket))
        for query in queries:
            client.add_meta_context(query)
        told: list[str] = []
        client.opt_list_meta_context(told.append)
        assert told == expected
        client.opt_abort()


def changed(client: Any, since: str) -> Extents:
    """By BLOCK_STATUS, as a backup program asks."""
    found: Extents = []
    at = 0

    def take(name: str, offset: int, entries: list[int], _error: Any) -> None:
        nonlocal at
        if name != SINCE + since:
            return
        at = offset
        for length, flags in zip(entries[::2], entries[1::2], strict=True):
            if flags & 1:
                found.append((at, length))
            at += length

    while at < DISK_BYTES:
        client.block_status(DISK_BYTES - at, at, take)
    return united(found)


class Writer:
    """Writes at random places of the first half, until told to end, as fast as it is answered."""

    def __init__(self, served: Daemon, disk: str) -> None:
        self._client = opened(served, disk)
        self._over = threading.Event()
        self.wrote = threading.Condition()
        self.count = 0
        self._thread = threading.Thread(target=self._run, daemon=True)

    def __enter__(self) -> Writer:
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._over.set()
        self._thread.join()
        self._client.shutdown()

    def wait_for(self, writes: int) -> None:
        with self.wrote:
            target = self.count + writes
            assert self.wrote.wait_for(lambda: self.count >= target, 60)

    def _run(self) -> None:
        blocks = content(1 << 20, "writer")
        place = 1
        while not self._over.is_set():
            place = place * 48271 % 0x7FFFFFFF
            offset, length = place % (DISK_BYTES // 2 - 8192) // 512 * 512, 512 << place % 5
            start = place % (len(blocks) - length)
            if place % 11 == 0:
                self._client.trim(length, offset)
            else:
                self._client.pwrite(blocks[start : start + length], offset)
            with self.wrote:
                self.count += 1
                self.wrote.notify_all()


def test_a_chain_of_ten_incrementals_rebuilds_the_volume(served: Daemon, disk: str, tmp_path: Path) -> None:
    backup = tmp_path / "backup"
    with Writer(served, disk) as writer:
        writer.wait_for(50)
        before = latest(served, disk)
        served.cdp("restore", disk, "--at", before, "--to", backup)
        with backup.open("r+b") as copy:
            for number in range(10):
                writer.wait_for(60)
                now = latest(served, disk)
                view = opened(served, f"{disk}@{now}", before)
                extents = changed(view, before)
                assert extents == by_diff(served, disk, before, now)
                assert 0 < sum(length for _, length in extents) < DISK_BYTES // 2, (
                    "what is never written was told as changed"
                )
                for offset, length in extents:
                    copy.seek(offset)
                    copy.write(view.pread(length, offset))
                view.shutdown()
                copy.flush()
                whole = opened(served, f"{disk}@{now}")
                assert backup.read_bytes() == whole.pread(DISK_BYTES, 0), f"incremental {number}"
                whole.shutdown()
                before = now
        served.cdp("restore", disk, "--at", before, "--to", tmp_path / "restored")
    assert backup.read_bytes() == (tmp_path / "restored").read_bytes()


def test_a_relative_instant_is_the_same_for_the_whole_connection(served: Daemon, disk: str, qemu: Qemu) -> None:
    client = opened(served, disk, "latest")
    assert changed(client, "latest") == []
    qemu.io(served.uri(disk), ["write -P 1 64k 4k"])
    assert changed(client, "latest") == [(65536, 4096)]
    client.shutdown()


def test_qemu_refuses_an_instant_that_is_not_there(served: Daemon, disk: str, qemu: Qemu) -> None:
    with pytest.raises(ProgramFailed):
        by_qemu(qemu, served, disk, "lsn:99999999")


def test_the_recipe_of_the_manual(served: Daemon, disk: str, history: list[str], tmp_path: Path) -> None:
    """docs/operations.md, "Incremental backups", as it stands there."""
    manual = (ROOT / "docs/operations.md").read_text()
    recipe = manual.partition("## Incremental backups")[2].partition("```sh\n")[2].partition("```")[0]
    assert "disk@$before" in recipe
    once, each = recipe.replace("disk@", f"{disk}@").replace("lsn disk", f"lsn {disk}").split("# Each time")
    accident = f"qemu-io -f raw -c 'write -P 9 2M 70k' -c 'write -P 8 9000k 1k' '{served.uri(disk)}'\n"
    check = f"""nbdcopy "$(uri "{disk}@$now")" whole.raw
qemu-img compare -f qcow2 -F raw next.qcow2 whole.raw
qemu-img map --output=json next.qcow2 | grep -c '"depth": 0'
"""
    script = tmp_path / "recipe.sh"
    script.write_text(f"set -euo pipefail\ncd {tmp_path}\n{once}{accident}#{each}{check}")
    command = f'cdp() {{ {" ".join(CDP)} "$@"; }}; . {script}'
    said = run("bash", "-c", command, env=environment() | {"CDP_STORE": str(served.store)}).stdout
    assert "Images are identical" in said
    assert said.splitlines()[-1] == "2", "two clusters were copied, not the volume"

"""The daemon's table of open volumes: opened once, closed when unused, and each volume's troubles its own. On real journals."""

from __future__ import annotations

import threading
from collections.abc import Iterator
from pathlib import Path

import pytest

from cdp.catalog import Catalog, Entry
from cdp.errors import Busy, CdpError, Closed, NotFound
from cdp.exports import StoreExports
from cdp.store import LocalStore, Transient
from cdp.table import Table
from cdp.volume import OpenVolume

MIB = 1 << 20


@pytest.fixture
def catalog(store: Path) -> Catalog:
    local = LocalStore(store)
    local.create("disk", MIB, 4096, None)
    local.create("other", MIB, 4096, None)
    return local.catalog


@pytest.fixture
def table(catalog: Catalog) -> Iterator[Table]:
    table = Table(catalog)
    yield table
    assert table.close() == []


@pytest.fixture
def disk(catalog: Catalog) -> Entry:
    return catalog.find("disk")


def test_many_first_users_get_one_volume(table: Table, disk: Entry) -> None:
    found: list[OpenVolume] = []
    threads = [threading.Thread(target=lambda: found.append(table.acquire(disk))) for _ in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert len(found) == 8
    assert len(set(map(id, found))) == 1
    assert table.uses(disk) == (True, 8)
    for _ in range(8):
        table.release(disk.id)
    assert table.uses(disk) == (True, 0)


def test_a_volume_in_use_is_not_closed(table: Table, disk: Entry) -> None:
    volume = table.acquire(disk)
    with pytest.raises(Busy, match="1 session"), table.closed(disk):
        pytest.fail("it was closed under its user")
    volume.native.write(0, b"x" * 512)
    table.release(disk.id)
    with table.closed(disk):
        with pytest.raises(Busy, match="being deleted"):
            table.acquire(disk)
        with pytest.raises(Closed):
            volume.native.write(0, b"x" * 512)
    assert table.acquire(disk) is not volume
    table.release(disk.id)


def test_a_volume_is_not_closed_under_a_call(table: Table, disk: Entry, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("cdp.table.CALLS_WAIT_SECONDS", 0.0)
    with table.looking(disk) as volume:
        with pytest.raises(Busy, match="another command"), table.closed(disk):
            pytest.fail("it was closed under a call")
        assert volume.native.latest().lsn == 0
    with table.closed(disk):
        pass


def test_closing_waits_for_a_call(table: Table, disk: Entry) -> None:
    order: list[str] = []
    entered, leave = threading.Event(), threading.Event()

    def look() -> None:
        with table.looking(disk) as volume:
            entered.set()
            leave.wait()
            order.append(f"looked at lsn {volume.native.latest().lsn}")

    def close() -> None:
        with table.closed(disk):
            order.append("closed")

    looker, closer = threading.Thread(target=look), threading.Thread(target=close)
    looker.start()
    entered.wait()
    closer.start()
    leave.set()
    looker.join()
    closer.join()
    assert order == ["looked at lsn 0", "closed"]


def test_what_another_process_holds_is_busy_and_can_still_be_looked_at(
    catalog: Catalog, table: Table, disk: Entry
) -> None:
    with Transient(catalog).writing(disk):
        with pytest.raises(Busy):
            table.acquire(disk)
        with pytest.raises(Busy), table.closed(disk):
            pass
        with table.looking(disk) as volume:
            assert volume.native.read_only
        other = catalog.find("other")
        assert table.acquire(other).native.size == MIB
        table.release(other.id)
    assert table.uses(disk) == (False, 0)
    assert not table.acquire(disk).native.read_only
    table.release(disk.id)


def test_a_volume_deleted_meanwhile_is_not_opened(catalog: Catalog, table: Table, disk: Entry) -> None:
    catalog.delete(disk, 1)
    with pytest.raises(NotFound, match="deleted"):
        table.acquire(disk)
    assert table.uses(disk) == (False, 0)


def test_opening_heals_the_description(catalog: Catalog, table: Table, disk: Entry) -> None:
    (disk.folder / "volume.1").unlink()
    with table.looking(catalog.find("disk")):
        assert catalog.find("disk").problems == ()


def test_exports_share_an_instant_by_name_and_give_back_everything(catalog: Catalog, table: Table, disk: Entry) -> None:
    exports = StoreExports(catalog, table)
    volume = table.acquire(disk)
    lsn = volume.native.write(0, b"a" * 512)
    opened = [exports.open_now(name) for name in ("disk", f"disk@lsn:{lsn}", f"disk@lsn:{lsn}", "disk@latest")]
    assert opened[1].handle is opened[2].handle
    assert [(it.name, it.read_only, it.multi_conn) for it in opened] == [
        ("disk", False, True),
        (f"disk@lsn:{lsn}", True, True),
        (f"disk@lsn:{lsn}", True, True),
        (f"disk@lsn:{lsn}", True, False),
    ]
    for name in ("disk@lsn:999", "disk@lsn:0+scratch", "nobody", ""):
        with pytest.raises(CdpError):
            exports.open_now(name)
    assert table.uses(disk) == (True, 5)
    for export in opened:
        export.release()
    table.release(disk.id)
    assert table.uses(disk) == (True, 0)


def test_the_only_volume_is_the_default_export(catalog: Catalog, table: Table, disk: Entry) -> None:
    exports = StoreExports(catalog, table)
    with pytest.raises(NotFound, match="2 volumes"):
        exports.open_now("")
    catalog.delete(catalog.find("other"), 1)
    export = exports.open_now("")
    assert export.name == "disk"
    export.release()

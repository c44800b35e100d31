"""The daemon's rounds over real volumes: shares of the store's budget, and troubles that stay where they are."""

from __future__ import annotations

import logging
from collections.abc import Iterator
from pathlib import Path

import pytest

from cdp import shared_budget
from cdp.catalog import Catalog
from cdp.errors import Corrupt
from cdp.keeping import Rounds
from cdp.shared_budget import SharedBudget
from cdp.store import LocalStore
from cdp.table import Table
from cdp.volume import OpenVolume
from cdp.when import Latest

MIB = 1 << 20
BUDGET = 256 * MIB


@pytest.fixture
def catalog(store: Path) -> Catalog:
    local = LocalStore(store)
    for name in ("disk", "other", "resting"):
        local.create(name, 16 * MIB, 4096, None)
    return local.catalog


@pytest.fixture
def table(catalog: Catalog) -> Iterator[Table]:
    table = Table(catalog)
    yield table
    assert table.close() == []


@pytest.fixture
def volumes(catalog: Catalog, table: Table) -> Iterator[list[OpenVolume]]:
    opened = [table.acquire(catalog.find(name)) for name in ("disk", "other")]
    yield opened
    for volume in opened:
        table.release(volume.entry.id)


def budgets(volumes: list[OpenVolume]) -> list[int | None]:
    return [volume.native.space()["budget"] for volume in volumes]


def test_open_volumes_share_the_budget(catalog: Catalog, table: Table, volumes: list[OpenVolume]) -> None:
    rounds = Rounds(catalog, table)
    rounds.lend()
    assert budgets(volumes) == [None, None]
    volumes[0].native.write(0, bytes(range(256)) * 4096)
    shared_budget.write(catalog.store, SharedBudget(BUDGET))
    rounds.lend()
    first, second = budgets(volumes)
    assert first is not None
    assert second is not None
    assert first > second
    assert 0 <= BUDGET - first - second < MIB
    # A volume's own budget counts where it is smaller.
    volumes[1].set_policy({"budget": str(64 * MIB)})
    rounds.lend()
    assert budgets(volumes)[1] == 64 * MIB
    shared_budget.write(catalog.store, SharedBudget())
    rounds.lend()
    assert budgets(volumes) == [None, 64 * MIB]


def test_a_budget_that_cannot_be_read_bounds_nobody_and_is_told_once(
    catalog: Catalog, table: Table, volumes: list[OpenVolume], caplog: pytest.LogCaptureFixture
) -> None:
    shared_budget.path(catalog.store).write_bytes(b'{"budget": "much"}')
    with pytest.raises(Corrupt, match="store-budget"):
        shared_budget.read(catalog.store)
    rounds = Rounds(catalog, table)
    with caplog.at_level(logging.WARNING):
        rounds.lend()
        rounds.lend()
    assert len(caplog.records) == 1
    assert budgets(volumes) == [None, None]


def test_a_round_opens_nothing(catalog: Catalog, table: Table) -> None:
    Rounds(catalog, table).keep(catalog.find("resting").id)
    assert table.open_ids() == []


def test_a_round_that_fails_is_told_once_and_harms_nobody(
    catalog: Catalog, table: Table, volumes: list[OpenVolume], caplog: pytest.LogCaptureFixture
) -> None:
    rounds = Rounds(catalog, table)
    broken, whole = volumes
    # Bookmarks that make no sense stand for anything that nobody thought of.
    broken._bookmarks = {"x": None}  # type: ignore[dict-item]
    whole.add_bookmark("goes", Latest(), expires_stamp=2**62)
    with caplog.at_level(logging.WARNING):
        for _ in range(2):
            rounds.keep(broken.entry.id)
            rounds.keep(whole.entry.id)
    assert [record.levelname for record in caplog.records] == ["ERROR"]
    assert [mark.name for mark in whole.bookmarks()] == ["goes"]
    broken._bookmarks = {}


def test_shared_files_take_their_bytes_once(tmp_path: Path) -> None:
    for name in ("parent", "clone"):
        (tmp_path / name).mkdir()
    (tmp_path / "parent" / "segment").write_bytes(b"x" * MIB)
    (tmp_path / "clone" / "segment").hardlink_to(tmp_path / "parent" / "segment")
    (tmp_path / "clone" / "own").write_bytes(b"y" * MIB)
    taken, together = shared_budget.measure(sorted(tmp_path.iterdir()))
    assert together == 2 * MIB
    assert (taken["clone"].used, taken["clone"].own) == (2 * MIB, MIB)
    assert (taken["parent"].used, taken["parent"].own) == (MIB, 0)

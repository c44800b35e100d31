"""What `cdp log` gathers from a real journal where history was thinned."""

from __future__ import annotations

from pathlib import Path

from cdp.store import LocalStore
from cdp.volume import OpenVolume
from cdp.when import At, AtLsn, Latest, Oldest

DAY = 86400


def test_a_time_below_the_horizon_shows_what_happened_then(store: Path) -> None:
    local = LocalStore(store)
    local.create("disk", 1 << 20, 4096, None)
    opened = OpenVolume(local.catalog.find("disk"))
    lsns = []
    for number in range(6):
        lsns.append(opened.native.write(number * 4096, bytes([number + 1]) * 4096))
        opened.append_event("mark", number=number)
    stamps = [opened.native.instant_of_lsn(lsn).stamp for lsn in lsns]
    opened.native.retain(lsns[5], [lsns[0]])
    opened.close()

    log = local.log("disk", At(stamps[2]), At(stamps[4]), interval=DAY * 365)
    assert (log.since.lsn, log.until.lsn) == (lsns[0], lsns[0]), "the kept point that both times name"
    # Figures are of whole intervals; events are of the time asked for.
    assert sum(it.data_records for it in log.intervals) == 5
    assert [event.details["number"] for event in log.events] == [2, 3]

    after = local.log("disk", AtLsn(lsns[5]), Latest(), interval=DAY)
    assert (sum(it.data_records for it in after.intervals), len(after.events)) == (0, 1)
    whole = local.log("disk", Oldest(), Latest(), interval=DAY, list_flushes=True)
    assert sum(it.data_records for it in whole.intervals) == 5
    assert [flush.lsn for flush in whole.flush_points] == [lsn + 1 for lsn in lsns]
    assert whole.flush_points_left_out == 0

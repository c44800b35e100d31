"""Checking beside use: the pace, going on after an end, and what is written down of damage."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from cdp import marks, scrub
from cdp.cli.verify import parse_rate, sentence
from cdp.errors import Busy, Closed, Invalid
from cdp.facts import EventFacts, FindingFacts
from cdp.scrub import Kept, Pace, damage_key, decode, encode, load, noted, pause_for
from cdp.store import LocalStore
from cdp.table import Table
from cdp.volume import OpenVolume

MIB = 1 << 20
BLOCK = 4096


def content(number: int) -> bytes:
    """A block that does not compress."""
    state, words = number * 0x9E3779B97F4A7C15 % 2**64 | 1, []
    for _ in range(BLOCK // 8):
        state ^= state << 13 & (2**64 - 1)
        state ^= state >> 7
        state ^= state << 17 & (2**64 - 1)
        words.append(state.to_bytes(8, "little"))
    return b"".join(words)


LOST = content(7)


@pytest.fixture
def local(tmp_path: Path) -> LocalStore:
    """A store with `disk`: two writers' epochs, so two sealed segments; a block of the first one is damaged."""
    local = LocalStore(tmp_path / "store")
    local.catalog.ensure_store()
    local.create("disk", 8 * MIB, 4096, None)
    for blocks in ([LOST, content(8)], [content(9)]):
        opened = OpenVolume(local.catalog.find("disk"))
        for number, block in enumerate(blocks):
            opened.native.write((number + 3) * BLOCK * (1 if LOST in blocks else 100), block)
        opened.native.flush()
        opened.close()
    (hit,) = [path for path in folder(local).glob("segment-*") if LOST in path.read_bytes()]
    whole = hit.read_bytes()
    hit.write_bytes(whole.replace(LOST[100:200], bytes(100), 1))
    return local


def folder(local: LocalStore) -> Path:
    return local.catalog.find("disk").folder


def damage_events(opened: OpenVolume) -> list[EventFacts]:
    return [event for event in marks.events(opened.native.controls()) if event.event == "damage"]


@given(st.integers(0, 2**40), st.floats(0, 1e6), st.none() | st.integers(MIB, 2**40), st.floats(0.01, 1))
def test_work_takes_no_more_than_its_share(done: int, busy: float, rate: int | None, share: float) -> None:
    pause = pause_for(done, busy, rate, share)
    assert pause >= 0
    whole = busy + pause
    assert busy <= share * whole * 1.000001 + 1e-9
    assert rate is None or done <= rate * whole * 1.000001 + 1
    if pause > 0:
        by_share = busy * (1 - share) / share
        assert pause == pytest.approx(max(by_share, done / rate - busy if rate else 0))


def test_pauses_follow_what_was_done() -> None:
    now, slept = [100.0], []

    def sleep(seconds: float) -> None:
        slept.append(seconds)
        now[0] += seconds

    pace = Pace(10 * MIB, 0.5, clock=lambda: now[0], sleep=sleep)
    now[0] += 0.02
    pace.wait(MIB)
    now[0] += 3
    pace.wait(MIB)
    assert slept == pytest.approx([0.08, 3])


@pytest.mark.parametrize(("text", "rate"), [("200MiB/s", 200 * MIB), ("5MB", 5_000_000), ("max", 0)])
def test_a_rate_is_read(text: str, rate: int) -> None:
    assert parse_rate(text) == rate


def test_a_rate_that_never_ends_is_refused(local: LocalStore) -> None:
    with pytest.raises(Invalid, match="too few"):
        local.verify("disk", None, rate=1000)


def test_who_looks_writes_nothing_and_names_who_sees_it(local: LocalStore) -> None:
    before = {path: path.read_bytes() for path in folder(local).iterdir()}
    for _ in range(2):
        (found,) = local.verify("disk", None).findings
        assert (found.lsn, found.offset, found.length) == (1, 3 * BLOCK, BLOCK)
        assert (found.until_lsn, found.live, found.repairable) == (None, True, False)
        assert "instants from lsn:1 to its branch's end show it, and so does the live volume" in sentence(found)
    assert {path: path.read_bytes() for path in folder(local).iterdir()} == before


def test_damage_is_one_event_however_often_it_is_found(local: LocalStore) -> None:
    table = Table(local.catalog)
    daemon = LocalStore(local.catalog.store, table)
    for _ in range(3):
        assert len(daemon.verify("disk", None, rate=0).findings) == 1
    with table.looking(local.catalog.find("disk")) as opened:
        (event,) = damage_events(opened)
        checks = [it.details["findings"] for it in marks.events(opened.native.controls()) if it.event == "verified"]
    assert (event.details["lsn"], event.details["offset"], event.details["length"]) == (1, 3 * BLOCK, BLOCK)
    assert event.details["file"].startswith("segment-")
    assert checks == [1, 1, 1]
    assert not (folder(local) / "verify.json").exists()
    assert table.close() == []


def test_a_check_that_was_ended_goes_on(local: LocalStore) -> None:
    table = Table(local.catalog)
    daemon = LocalStore(local.catalog.store, table)
    told: list[tuple[int, int]] = []

    def stop(done: int, total: int) -> None:
        told.append((done, total))
        if done:
            raise Closed("the daemon is stopping")

    with pytest.raises(Closed):
        daemon.verify("disk", stop, rate=0)
    kept = load(folder(local) / "verify.json")
    assert kept is not None
    assert kept.position[0] > 0
    assert [finding.lsn for finding in kept.findings] == [1]
    first: list[int] = []
    facts = daemon.verify("disk", lambda done, total: first.append(done), rate=0)
    assert facts.resumed_stamp == kept.began_stamp
    assert [finding.lsn for finding in facts.findings] == [1], "what was found before the end is told"
    assert first[0] == told[-1][0], "and not looked for again"
    assert daemon.verify("disk", None, rate=0).resumed_stamp is None
    with pytest.raises(Closed):
        daemon.verify("disk", stop, rate=0)
    anew = daemon.verify("disk", None, rate=0, restart=True)
    assert anew.resumed_stamp is None
    assert len(anew.findings) == 1
    assert table.close() == []


def test_one_check_at_a_time(local: LocalStore) -> None:
    table = Table(local.catalog)
    daemon = LocalStore(local.catalog.store, table)
    refused: list[Busy] = []

    def again(_done: int, _total: int) -> None:
        if not refused:
            with pytest.raises(Busy, match="being checked") as caught:
                daemon.verify("disk", None)
            refused.append(caught.value)

    assert len(daemon.verify("disk", again, rate=0).findings) == 1
    assert refused
    assert table.close() == []


def test_a_disk_that_fails_everywhere_does_not_flood_the_timeline(
    local: LocalStore, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(scrub, "EVENTS_MAX", 5)
    opened = OpenVolume(local.catalog.find("disk"))
    notes = scrub.Notes(opened)
    notes.add([FindingFacts("segment-1", "lost", 1, number, 0, 512) for number in range(4)])
    notes.add([FindingFacts("segment-2", "lost", 2, number, 0, 512) for number in range(20)])
    events = damage_events(opened)
    assert len(events) == 6
    assert "more than 5" in str(events[-1].details["what"])
    opened.close()


def test_it_is_the_same_damage_wherever_it_lies() -> None:
    lost = FindingFacts("/a/segment-00000003", "the payload at offset 77 is damaged", 3, 17, 4096, 512)
    moved = FindingFacts("/b/segment-00000009", "lost before this segment was written", 9, 17, 4096, 512)
    assert damage_key(lost) == damage_key(moved)
    others = [
        FindingFacts("/a/segment-00000003", "the payload at offset 77 is damaged", 3, 18, 4096, 512),
        FindingFacts("/a/segment-00000003", "the payload at offset 77 is damaged", 3, 17, 8192, 512),
        FindingFacts("/a/segment-00000003", "its header is damaged", 3, repairable=True),
        FindingFacts("/a/checkpoint-00000003", "its header is damaged", repairable=True),
    ]
    assert len({damage_key(it) for it in (lost, *others)}) == 5
    events = [
        EventFacts(1, 1, "damage", json.loads(json.dumps({"file": "segment-00000003", "what": it.what, "lsn": it.lsn})))
        for it in others[2:3]
    ]
    assert noted(events) == {damage_key(others[2])}


findings = st.builds(
    FindingFacts,
    file=st.text(),
    what=st.text(),
    segment=st.none() | st.integers(0),
    lsn=st.none() | st.integers(0),
    offset=st.none() | st.integers(0),
    length=st.none() | st.integers(0),
    repairable=st.booleans(),
    until_lsn=st.none() | st.integers(0),
    live=st.none() | st.booleans(),
)


@given(st.integers(0), st.tuples(*[st.integers(0)] * 3), st.lists(findings))
def test_a_position_comes_back(began: int, position: tuple[int, int, int], found: list[FindingFacts]) -> None:
    kept = Kept(began, position, tuple(found))
    assert decode(encode(kept)) == kept


@given(st.binary())
def test_no_file_breaks_the_reader(content: bytes) -> None:
    assert decode(content) is None


@pytest.mark.parametrize("text", ["", "{", "[]", "7", '{"format":2}', '{"format":1,"lsn":"x"}', "\x00", '{"format":1}'])
def test_a_position_that_cannot_be_understood_is_none(tmp_path: Path, text: str) -> None:
    (tmp_path / "verify.json").write_text(text)
    assert load(tmp_path / "verify.json") is None
    assert load(tmp_path / "none") is None

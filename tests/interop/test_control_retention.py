"""What a volume keeps: the policy on its timeline, kept by the daemon while it serves, and by `cdp compact` without it."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from contextlib import nullcontext
from pathlib import Path

import pytest

from cdp.control.client import RemoteStore
from cdp.facts import RetentionFacts
from tests.rig.cdp import Cdp
from tests.rig.content import content
from tests.rig.daemon import Daemon
from tests.rig.disk import connected, get, put

MIB = 1 << 20
NOTHING = ("--every-write", "0", "--minutes", "0", "--hours", "0", "--days", "0", "--minimum", "0")
PATIENCE_SECONDS = 60.0


@pytest.fixture(params=["daemon", "files"])
def verbs(request: pytest.FixtureRequest, store: Path) -> Cdp:
    """The command line, done by the daemon or on the files."""
    if request.param == "daemon":
        request.getfixturevalue("daemon")
    return Cdp(store)


@pytest.fixture
def remote(daemon: Daemon) -> Iterator[RemoteStore]:
    client = RemoteStore(daemon.store)
    yield client
    client.close()


def until(daemon: Daemon, remote: RemoteStore, done: Callable[[RetentionFacts], bool]) -> RetentionFacts:
    """Writes on, since ages count back from the newest record, until the keeper has done it."""
    deadline = time.monotonic() + PATIENCE_SECONDS
    while not done(facts := remote.retention("disk")):
        assert time.monotonic() < deadline, facts
        put(daemon.uri("disk"), 3 * MIB, content(4096, time.monotonic_ns()))
        time.sleep(0.05)
    return facts


def test_the_daemon_keeps_what_the_policy_says_and_what_is_held(daemon: Daemon, remote: RemoteStore) -> None:
    cdp = daemon.cdp
    cdp("create", "disk", "--size", "4MiB")
    lsns = []
    for number in range(4):
        put(daemon.uri("disk"), 0, content(MIB, number))
        latest = remote.show("disk").latest
        assert latest is not None
        lsns.append(latest.lsn)
    cdp("bookmark", "disk", "kept", "--at", f"lsn:{lsns[0]}")
    with connected(daemon.uri("disk", f"lsn:{lsns[1]}")) as view:
        cdp("retention", "disk", *NOTHING)
        facts = until(daemon, remote, lambda facts: facts.horizon.lsn > lsns[3])
        assert [(pin.kind, pin.lsn) for pin in facts.pins] == [("bookmark", lsns[0]), ("view", lsns[1])]
        assert all(pin.held_bytes is not None and pin.held_bytes >= MIB for pin in facts.pins)
        assert facts.oldest.lsn == lsns[0]
        assert facts.points == 2
        assert bytes(view.pread(MIB, 0)) == content(MIB, 1)
        assert get(daemon.uri("disk", "bookmark:kept"))[:MIB] == content(MIB, 0)
        said = cdp.run(
            "restore", "disk", "--at", f"lsn:{lsns[2]}", "--to", daemon.store.parent / "x", exit_code=3
        ).stderr
        assert f"lsn:{lsns[2]} is no recovery point" in said
    until(daemon, remote, lambda facts: facts.points == 1)
    cdp("bookmark", "disk", "--remove", "kept")
    facts = until(daemon, remote, lambda facts: facts.points == 0)
    assert facts.oldest.lsn == facts.horizon.lsn
    assert get(daemon.uri("disk"))[:MIB] == content(MIB, 3)


def test_a_bookmark_expires(daemon: Daemon, remote: RemoteStore) -> None:
    cdp = daemon.cdp
    cdp("create", "disk", "--size", "4MiB")
    cdp("bookmark", "disk", "stays", "--hold")
    made = cdp("bookmark", "disk", "goes", "--expires", "1s")
    assert (made["held"], made["expires_stamp"] > made["made_stamp"]) == (False, True)
    until(daemon, remote, lambda _: len(remote.show("disk").bookmarks) == 1)
    assert [(mark["name"], mark["held"]) for mark in cdp("show", "disk")["bookmarks"]] == [("stays", True)]
    (event,) = [event for event in cdp("log", "disk")["events"] if event["event"] == "bookmark-expired"]
    assert event["details"]["name"] == "goes"


def test_a_policy_is_shown_changed_and_refused(verbs: Cdp) -> None:
    verbs("create", "disk", "--size", "64MiB")
    shown = verbs("retention", "disk")
    assert shown["policy"]["set_stamp"] is None
    assert shown["policy"]["settings"] == {
        "every_write": "1d",
        "minutes": "2d",
        "hours": "2w",
        "days": "1y",
        "minimum": "1h",
        "budget": "none",
        "full": "drop-oldest",
        "thin": "no",
    }
    changed = verbs(
        "retention", "disk", "--every-write", "12h", "--days", "forever", "--budget", "1GiB", "--full", "stall"
    )
    assert changed["policy"]["every_write_seconds"] == 12 * 3600
    assert changed["policy"]["budget_bytes"] == 1 << 30
    assert changed["promised_seconds"] is None
    assert "--thin" in verbs.run("retention", "disk", "--budget", "65MiB", exit_code=2).stderr
    assert "minimum" in verbs.run("retention", "disk", *NOTHING[:-2], exit_code=2).stderr
    assert "length of time" in verbs.run("retention", "disk", "--hours", "soon", exit_code=2).stderr
    assert "drop-oldest" in verbs.run("retention", "disk", "--full", "panic", exit_code=2).stderr
    assert verbs("retention", "disk")["policy"] == changed["policy"]
    assert verbs("retention", "disk", "--budget", "65MiB", "--thin")["policy"]["thin"]
    # What `show` prints can be pasted.
    line = next(line for line in verbs.run("show", "disk").stdout.splitlines() if line.startswith("policy:"))
    before = verbs("retention", "disk")["policy"]["settings"]
    assert verbs("retention", "disk", *line.removeprefix("policy:").split())["policy"]["settings"] == before
    assert [event["event"] for event in verbs("log", "disk")["events"]] == ["policy"] * 3


def test_the_budget_of_a_store(verbs: Cdp) -> None:
    verbs("create", "disk", "--size", "64MiB")
    verbs("create", "other", "--size", "64MiB")
    assert verbs("retention")["budget_bytes"] is None
    assert "--thin" in verbs.run("retention", "--store-budget", "150MiB", exit_code=2).stderr
    told = verbs("retention", "--store-budget", "150MiB", "--thin")
    assert (told["budget_bytes"], told["thin"]) == (150 * MIB, True)
    assert [it["name"] for it in verbs("retention")["volumes"]] == ["disk", "other"]
    assert verbs("retention", "--store-budget", "none")["budget_bytes"] is None
    assert "VOLUME" in verbs.run("retention", "disk", "--store-budget", "1GiB", exit_code=2).stderr
    assert "VOLUME" in verbs.run("retention", "--hours", "1h", exit_code=2).stderr


def overwritten(store: Path) -> None:
    """A volume `disk` of which most is overwritten, in two sealed segments and more."""
    Cdp(store)("create", "disk", "--size", "4MiB")
    for run in range(3):
        with Daemon(store) as daemon:
            for number in range(8):
                put(daemon.uri("disk"), 0, content(MIB, run * 8 + number))


def test_what_compaction_costs_and_what_space_is_wasted_are_told(store: Path) -> None:
    Cdp(store)("create", "disk", "--size", "4MiB")
    with Daemon(store) as daemon:
        assert daemon.cdp("show", "disk")["retention"]["space"]["write_amplification"] is None
        for number in range(4):
            put(daemon.uri("disk"), 0, content(MIB, number))
        told = daemon.cdp("show", "disk")["retention"]["space"]
        # Nobody compacted, so only footers and the index can come on top; all that was written is needed.
        assert 1 <= told["write_amplification"] < 1.2
        assert told["space_amplification"] == 1


@pytest.mark.parametrize("served", [True, False])
def test_compact_frees_what_nobody_can_reach(store: Path, served: bool) -> None:
    overwritten(store)
    cdp = Cdp(store)
    kept = cdp("bookmark", "disk", "kept", "--at", "latest")["lsn"]
    before = cdp("show", "disk")["retention"]["space"]["used_bytes"]
    assert before > 8 * MIB
    cdp("retention", "disk", *NOTHING)
    with Daemon(store) if served else nullcontext():
        # The newest second is still above the horizon: more has to come.
        deadline = time.monotonic() + PATIENCE_SECONDS
        while (done := cdp("compact", "disk"))["used_bytes"] > before // 2:
            cdp("bookmark", "disk", "moves", "--force")
            assert time.monotonic() < deadline, done
    assert cdp("verify", "disk")["findings"] == []
    with Daemon(store) as daemon:
        assert get(daemon.uri("disk"))[:MIB] == content(MIB, 23)
        assert get(daemon.uri("disk", f"lsn:{kept}"))[:MIB] == content(MIB, 23)

"""The programs that restore, as a user runs them, on one random history that was rolled back and thinned: beside the daemon, after it was killed, and
after a clean stop."""

from __future__ import annotations

import random
import sys
import time
from pathlib import Path

from tests.property.model_disk import EVERYTHING, Disk
from tests.property.model_readers import connect
from tests.property.model_rollback import roll_back
from tests.property.model_volume import Model, Piece, Sent
from tests.rig.cdp import environment
from tests.rig.daemon import Daemon
from tests.rig.process import run

VOLUME_BYTES = (1 << 20) + 512
REQUESTS = 60


def _write_history(daemon: Daemon, model: Model, rng: random.Random) -> None:
    handle = connect(daemon.uri("disk"))
    for _ in range(REQUESTS):
        offset = rng.randrange(VOLUME_BYTES)
        length = min(VOLUME_BYTES - offset, rng.choice([rng.randint(1, 900), rng.randint(1, 90_000)]))
        content = rng.randbytes(length) if rng.random() < 0.8 else bytes(length)
        before = time.time_ns()
        if any(content):
            handle.pwrite(content, offset)
        else:
            handle.zero(length, offset)
        model.apply([Piece(offset, content)], Sent(before, time.time_ns()))
    handle.shutdown()


def _assert_restored(daemon: Daemon, model: Model, lsn: int, folder: Path) -> None:
    """By LSN, with both programs; each makes a file of its own."""
    when, by_cdp, by_salvage = f"lsn:{lsn}", folder / f"cdp-{lsn}", folder / f"salvage-{lsn}"
    pit_restore = (sys.executable, "-m", "cdp.cli.restore")
    run(*pit_restore, "disk", "--at", when, "--to", by_cdp, "--verify", "--store", daemon.store, env=environment())
    reader = (sys.executable, "-m", "cdp.salvage", "restore")
    run(*reader, "disk", "--at", when, "--to", by_salvage, "--store", daemon.store, env=environment())
    for path in (by_cdp, by_salvage):
        model.assert_shows(lsn, path.read_bytes())
        path.unlink()


def _assert_refused(daemon: Daemon, lsn: int, folder: Path) -> None:
    """By both programs, with what can be reached; neither leaves a file."""
    when, target = f"lsn:{lsn}", folder / "none"
    at = ("disk", "--at", when, "--to", target, "--store", daemon.store)
    refused = run(sys.executable, "-m", "cdp.cli.restore", *at, exit_code=3, env=environment())
    assert "what can be reached lies from lsn:" in refused.stderr
    refused = run(sys.executable, "-m", "cdp.salvage", "restore", *at, exit_code=2, env=environment())
    assert "reachable: LSN" in refused.stderr
    assert not target.exists()


def test_restored_files_equal_the_model(daemon: Daemon, rng: random.Random, tmp_path: Path) -> None:
    model = Model(VOLUME_BYTES)
    daemon.cdp("create", "disk", "--size", str(VOLUME_BYTES))
    _write_history(daemon, model, rng)
    disk = Disk(daemon, "disk", model)
    roll_back(disk, rng.choice(model.lsns()), [], force=True)
    marked = rng.choice(model.lsns())
    daemon.cdp("bookmark", "disk", "kept", "--at", f"lsn:{marked}")
    model.note_control(model.last_lsn + 1)
    model.bookmarks["kept"] = marked
    disk.give_up()
    disk.set_policy(EVERYTHING)
    disk.disconnect()
    _write_history(daemon, model, rng)
    for end in (None, daemon.kill, daemon.stop):
        if end is not None:
            end()
        reach = disk.reach()
        for lsn in (marked, rng.choice([lsn for lsn in model.lsns() if lsn >= reach.horizon])):
            _assert_restored(daemon, model, lsn, tmp_path)
        _assert_refused(daemon, rng.choice([lsn for lsn in model.lsns() if not reach.holds(lsn)]), tmp_path)
        if end == daemon.kill:
            daemon.start()
            connect(daemon.uri("disk")).shutdown()

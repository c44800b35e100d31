"""The programs that restore, as a user runs them, on one random history: beside the daemon, after it was killed, and after a clean stop."""

from __future__ import annotations

import random
import sys
import time
from pathlib import Path

from tests.property.model_readers import connect
from tests.property.model_volume import Model, Piece, Sent
from tests.rig.cdp import environment
from tests.rig.daemon import Daemon
from tests.rig.process import run

VOLUME_BYTES = (1 << 20) + 512
REQUESTS = 120


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


def test_restored_files_equal_the_model(daemon: Daemon, rng: random.Random, tmp_path: Path) -> None:
    model = Model(VOLUME_BYTES)
    daemon.cdp("create", "disk", "--size", str(VOLUME_BYTES))
    _write_history(daemon, model, rng)
    for end in (None, daemon.kill, daemon.stop):
        if end is not None:
            end()
        for lsn in rng.sample(model.lsns(), 2):
            _assert_restored(daemon, model, lsn, tmp_path)
        if end == daemon.kill:
            daemon.start()
            connect(daemon.uri("disk")).shutdown()

"""kill -9 of `cdp clone` at each of its steps: the clone is there or it is not, the parent is as it was, and no file is left over.

The steps are those that Python audits: folders made, files opened and renamed. What happens between them, in native code, is the simulator's (native/sim).
"""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

from cdp.store import LocalStore
from cdp.when import AtLsn, Latest
from tests.rig.cdp import environment

MIB = 1 << 20
STEPS_MAX = 60
LSN = 3

PROGRAM = """
import os, signal, sys
from pathlib import Path
from cdp.store import LocalStore
from cdp.when import AtLsn
store, fatal = Path(sys.argv[1]), int(sys.argv[2])
steps = 0
def step(event, args):
    global steps
    writes = event != "open" or (args[2] or 0) & (os.O_WRONLY | os.O_RDWR)
    if event in ("open", "os.mkdir", "os.rename", "os.remove", "os.rmdir", "shutil.rmtree") and str(store) in str(args[0]) and writes:
        steps += 1
        if steps == fatal:
            os.kill(os.getpid(), signal.SIGKILL)
local = LocalStore(store)
sys.addaudithook(step)
local.clone("disk", AtLsn(3), sys.argv[3])
"""


def killed_at(store: Path, step: int, name: str) -> bool:
    """False if it came to its end before that."""
    command = [sys.executable, "-c", PROGRAM, str(store), str(step), name]
    done = subprocess.run(command, env=environment(), capture_output=True, check=False, timeout=60)
    assert done.returncode in (0, -9), done.stderr.decode()
    return done.returncode == -9


def make_disk(local: LocalStore) -> list[bytes]:
    """The states of a new volume by LSN."""
    states = [bytes(MIB)]
    local.create("disk", MIB, 4096, None)
    with local.opener.writing(local.catalog.find("disk")) as opened:
        for number in range(6):
            data = bytes([number + 1]) * 5000
            opened.native.write(number * 3000, data)
            before, at = states[-1], number * 3000
            states.append(before[:at] + data + before[at + len(data) :])
    return states


def check(local: LocalStore, name: str, lsns: dict[int, bytes]) -> None:
    with local.opener.looking(local.catalog.find(name)) as opened:
        for lsn, state in lsns.items():
            assert opened.native.view(lsn).read(0, MIB) == state
        assert opened.native.verify() == []


def test_a_clone_is_whole_or_not_there(store: Path) -> None:
    local = LocalStore(store)
    states = make_disk(local)
    folder = local.catalog.find("disk").folder
    step, killed, made = 0, True, 0
    while killed:
        step += 1
        assert step < STEPS_MAX
        killed = killed_at(store, step, "copy")
        check(local, "disk", dict(enumerate(states)))
        if any(it.name == "copy" for it in local.list()):
            made += 1
            check(local, "copy", {LSN: states[LSN]})
            local.delete("copy", now=True)
        # The next command that makes a volume sweeps what this one left.
        local.create("other", MIB, 4096, None)
        local.delete("other", now=True)
        assert [name for name in os.listdir(store / "volumes") if name.startswith(".")] == []
        assert {path.stat().st_nlink for path in folder.glob("segment-*")} == {1}
    assert step > 7
    # In the last steps it is there already.
    assert made > 1


def test_a_deletion_of_the_parent_leaves_the_clone(store: Path) -> None:
    local = LocalStore(store)
    states = make_disk(local)
    local.clone("disk", AtLsn(LSN), "first")
    local.clone("first", Latest(), "second")
    local.delete("first", now=True)
    local.delete("disk", now=True)
    check(local, "second", {LSN: states[LSN]})
    with local.opener.writing(local.catalog.find("second")) as opened:
        lsn = opened.native.write(0, b"x" * 512)
    check(local, "second", {LSN: states[LSN], lsn: b"x" * 512 + states[LSN][512:]})

"""Files that are truncated, empty, missing, not ours, another volume's, or of a future version: a clear answer, no wrong byte, nothing written.

Of a file that is kept twice one bad copy costs nothing, nor does a checkpoint, which can be rebuilt. A bad segment costs its own records: what they would show is unreadable, never wrong.
"""

from __future__ import annotations

import contextlib
import hashlib
import io
import json
import random
import struct
import tempfile
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from cdp import _native
from cdp.catalog import Entry
from cdp.errors import CdpError, Corrupt, Invalid, NotFound
from cdp.salvage.__main__ import main as salvage
from cdp.salvage.crc import crc32c
from cdp.store import LocalStore
from cdp.when import AtLsn, Latest, Oldest
from tests.damage.anatomy import SECTOR
from tests.damage.history import NAME, VOLUME_BYTES, History, checked, small_history, verified

PNG = bytes.fromhex("89504e470d0a1a0a0000000d4948445200000001000000010806000000")
FUTURE = 3


@pytest.fixture(scope="module")
def other() -> Iterator[History]:
    """Another volume, in another store, with files of the same names."""
    with tempfile.TemporaryDirectory(prefix="cdp-") as folder:
        yield small_history(Path(folder))


def tree(store: Path) -> dict[str, tuple[int, bytes]]:
    """Every file's time of change and content."""
    files = [path for path in sorted(store.rglob("*")) if path.is_file()]
    return {str(path.relative_to(store)): (path.stat().st_mtime_ns, path.read_bytes()) for path in files}


def future(name: str, content: bytes) -> bytes:
    """The file as a later version might write it: its version is larger, its checksums fit."""
    if name.startswith("volume."):
        line = json.dumps(json.loads(content.partition(b"\n")[0]) | {"format": FUTURE}).encode()
        return line + b"\nsha256:" + hashlib.sha256(line).hexdigest().encode() + b"\n"
    header = 64 if name.startswith("manifest.") else 4096
    start = content[:8] + struct.pack("<I", FUTURE)
    checksum = crc32c(start, content[16:header])
    return start + struct.pack("<I", checksum) + content[16:]


Bad = Callable[[str, bytes, History, random.Random], bytes | None]
BAD: dict[str, Bad] = {
    "empty": lambda name, content, other, rng: b"",
    "missing": lambda name, content, other, rng: None,
    "cut to its header": lambda name, content, other, rng: content[:64],
    "cut anywhere": lambda name, content, other, rng: content[: rng.randrange(1, len(content))],
    "without its last byte": lambda name, content, other, rng: content[:-1],
    "noise": lambda name, content, other, rng: rng.randbytes(len(content)),
    "a picture": lambda name, content, other, rng: PNG,
    "another volume's": lambda name, content, other, rng: other.files[name],
    "longer": lambda name, content, other, rng: content + rng.randbytes(5000),
}
SEGMENTS = ("segment-00000001", "segment-00000003", "segment-00000005")
COPIES = (("volume.0", "volume.1"), ("manifest.0", "manifest.1"))


def _put(history: History, name: str, content: bytes | None) -> None:
    path = history.folder / name
    path.unlink(missing_ok=True)
    if content is not None:
        path.write_bytes(content)


def look_at_everything(history: History, target: Path) -> None:
    """All that only looks, whatever it meets."""
    local = LocalStore(history.store)
    looks: list[Callable[[], object]] = [
        local.list,
        lambda: local.show(NAME),
        lambda: local.log(NAME, Oldest(), Latest()),
        lambda: local.resolve(NAME, AtLsn(3)),
        lambda: local.verify(NAME, None),
        lambda: _native.Volume.open(str(history.folder), read_only=True).live().read(0, SECTOR),
    ]
    for look in looks:
        with contextlib.suppress(CdpError):
            look()
    store = ["--store", str(history.store)]
    with contextlib.redirect_stdout(io.StringIO()), contextlib.redirect_stderr(io.StringIO()):
        salvage(["list", *store])
        salvage(["check", NAME, *store])
        salvage(["restore", NAME, "--at", "latest", "--to", str(target), "--allow-damage", *store])


def assert_never_wrong(history: History, lsns: list[int], *, unless_named: str | None = None) -> None:
    """Each sector of each instant is the model's or unreadable; or opening refuses, naming the file `unless_named`."""
    try:
        volume = _native.Volume.open(str(history.folder), read_only=True)
    except CdpError as error:
        if unless_named is None or unless_named not in str(error):
            raise
        return
    try:
        for lsn in lsns:
            # Whether an LSN inside a lost segment ever was is not known any more.
            with contextlib.suppress(NotFound):
                _assert_not_wrong(volume.view(lsn), history.states[lsn])
    finally:
        volume.close()


def _assert_not_wrong(view: _native.View, state: bytes) -> None:
    for start in range(0, len(state), SECTOR):
        with contextlib.suppress(Corrupt):
            assert view.read(start, SECTOR) == state[start : start + SECTOR], f"LSN {view.lsn} at {start}"


@pytest.mark.parametrize("name", [*(name for pair in COPIES for name in pair), "checkpoint-00000001"])
@pytest.mark.parametrize("bad", BAD)
def test_one_bad_copy_costs_nothing(
    history: History, other: History, rng: random.Random, tmp_path: Path, name: str, bad: str
) -> None:
    _put(history, name, BAD[bad](name, history.files[name], other, rng))
    before = tree(history.store)
    look_at_everything(history, tmp_path / "out")
    assert tree(history.store) == before, "looking changed something"
    assert any(name in finding.file + finding.what for finding in verified(history))
    assert {finding.file for finding in checked(history)} == {name}
    for lsn in (0, 3, history.last_lsn):
        target = tmp_path / f"at-{lsn}"
        with contextlib.redirect_stdout(io.StringIO()), contextlib.redirect_stderr(io.StringIO()):
            assert (
                salvage(["restore", NAME, "--at", f"lsn:{lsn}", "--to", str(target), "--store", str(history.store)])
                == 0
            )
        assert target.read_bytes() == history.states[lsn]
        assert LocalStore(history.store).resolve(NAME, AtLsn(lsn)).lsn == lsn
    assert_never_wrong(history, [0, 3, history.last_lsn])


@pytest.mark.parametrize("pair", COPIES)
@pytest.mark.parametrize("bad", [bad for bad in BAD if bad not in ("longer", "without its last byte", "cut anywhere")])
def test_two_bad_copies_are_a_clear_error(
    history: History, other: History, rng: random.Random, tmp_path: Path, pair: tuple[str, str], bad: str
) -> None:
    for name in pair:
        _put(history, name, BAD[bad](name, history.files[name], other, rng))
    before = tree(history.store)
    look_at_everything(history, tmp_path / "out")
    with pytest.raises(CdpError) as told, LocalStore(history.store).opener.writing(_entry(history)):
        pass
    assert pair[0].split(".")[0] in str(told.value)
    assert tree(history.store) == before, "something was written"


def _entry(history: History) -> Entry:
    return LocalStore(history.store).catalog.find(history.folder.name)


@pytest.mark.parametrize("name", SEGMENTS)
@pytest.mark.parametrize("bad", BAD)
def test_a_bad_segment_costs_its_own_records(
    history: History, other: History, rng: random.Random, tmp_path: Path, name: str, bad: str
) -> None:
    _put(history, name, BAD[bad](name, history.files[name], other, rng))
    before = tree(history.store)
    look_at_everything(history, tmp_path / "out")
    assert tree(history.store) == before, "looking changed something"
    assert any(name in finding.file + finding.what for finding in verified(history))
    assert name in {finding.file for finding in checked(history)}
    first = min(entry.lsn for entry in history.segments[name].entries)
    lsns = sorted({0, first - 1, first, history.last_lsn, *rng.sample(sorted(history.states), 3)})
    assert_never_wrong(history, lsns, unless_named=name)


def _named(history: History, name: str) -> bool:
    found = LocalStore(history.store).verify(history.folder.name, None).findings
    return any(name in finding.file + finding.what for finding in found)


@pytest.mark.parametrize("name", [name for pair in COPIES for name in pair])
def test_a_future_version_is_refused_by_name(history: History, tmp_path: Path, name: str) -> None:
    _put(history, name, future(name, history.files[name]))
    before = tree(history.store)
    look_at_everything(history, tmp_path / "out")
    for opening in ("writing", "looking"):
        with pytest.raises(Invalid) as told, getattr(LocalStore(history.store).opener, opening)(_entry(history)):
            pass
        assert name in str(told.value)
        assert str(FUTURE) in str(told.value)
    assert _named(history, name)
    assert tree(history.store) == before, "something was written"


@pytest.mark.parametrize("name", SEGMENTS)
def test_a_future_segment_is_refused_by_name(history: History, tmp_path: Path, name: str) -> None:
    """At the latest when a read first needs it: opening does not look into every segment of a long history."""
    _put(history, name, future(name, history.files[name]))
    before = tree(history.store)
    look_at_everything(history, tmp_path / "out")
    shown = max(entry.lsn for entry in history.segments[name].entries)
    with pytest.raises(Invalid) as told, LocalStore(history.store).opener.looking(_entry(history)) as volume:
        volume.native.view(shown).read(0, VOLUME_BYTES)
    assert name in str(told.value)
    assert f"version {FUTURE}" in str(told.value)
    assert _named(history, name)
    assert tree(history.store) == before, "something was written"

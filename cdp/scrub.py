"""Checking a volume beside its use: how fast, from where on, and what is written down about it.

Invariants:
- Only the process that has the volume open for writing writes anything: where it stands (verify.json, in the volume's folder) and events. Who only looks begins at the begin.
- A volume is checked once at a time.
- Damage is one event, however often it is found and wherever compaction moves it.
- Checking never fails a volume: what cannot be written down is still told.
"""

from __future__ import annotations

import json
import time
from collections.abc import Callable, Iterable
from contextlib import suppress
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from cdp import files, marks
from cdp.errors import Busy, CdpError, Invalid
from cdp.facts import EventFacts, FindingFacts
from cdp.volume import OpenVolume

Progress = Callable[[int, int], None]
Position = tuple[int, int, int]
_BEGIN: Position = (0, 0, 0)

POLITE_RATE = 200 << 20
"""Bytes a second beside a running daemon, where nobody asks for another rate."""
POLITE_SHARE = 0.5
"""Of the time of one thread: a disk or processor that others keep busy gets the pauses that it needs."""
RATE_MIN = 1 << 20
"""Bytes a second: slower checks would never end."""
KEEP_SECONDS = 5.0
"""How often the position is written down."""
EVENTS_MAX = 100
"""Damage events of one check. A disk that fails everywhere is told of in one more."""
FINDINGS_MAX = 10_000
"""Findings of one check that are told one by one."""
POSITION_FILE = "verify.json"
_FORMAT = 1


@dataclass(frozen=True, slots=True)
class Kept:
    """Where a check stands that has not come to its end. `position` is native: LSN, checkpoint, merged run."""

    began_stamp: int
    position: Position
    findings: tuple[FindingFacts, ...]


class Pace:
    """Makes work wait so that it takes at most `rate` bytes a second, and at most `share` of the time. None: no bound."""

    def __init__(
        self,
        rate: int | None,
        share: float = 1.0,
        *,
        clock: Callable[[], float] = time.monotonic,
        sleep: Callable[[float], None] = time.sleep,
    ) -> None:
        self._rate, self._share = rate, share
        self._clock, self._sleep = clock, sleep
        self._last = clock()

    def wait(self, done_bytes: int) -> None:
        """To be called after each piece of work."""
        busy = self._clock() - self._last
        pause = pause_for(done_bytes, busy, self._rate, self._share)
        if pause > 0:
            self._sleep(pause)
        self._last = self._clock()


def pause_for(done_bytes: int, busy: float, rate: int | None, share: float) -> float:
    """Seconds to wait after work on `done_bytes` that took `busy` seconds."""
    by_rate = done_bytes / rate - busy if rate is not None else 0.0
    return max(0.0, by_rate, busy * (1 - share) / share)


def check(
    opened: OpenVolume, progress: Progress | None, *, rate: int | None = None, restart: bool = False
) -> tuple[list[FindingFacts], int | None]:
    """All that is damaged in an open volume, and when the check began that this one goes on with (None: it begins anew).

    `rate`: bytes a second, 0: as fast as it goes; None: politely beside a daemon, else as fast as it goes. `restart`: from the begin.
    Errors: Busy if the volume is being checked, and what `progress` raises: then it goes on from there the next time.
    """
    if not opened.checking.acquire(blocking=False):
        raise Busy(f"{opened.entry.name} is being checked already")
    try:
        return _Check(opened, progress, _pace(opened, rate), restart=restart).run()
    finally:
        opened.checking.release()


def check_rate(rate: int | None) -> None:
    """Invalid for bytes a second that would never come to an end."""
    if rate is not None and 0 < rate < RATE_MIN:
        raise Invalid(f"{rate} bytes a second are too few: at least {RATE_MIN}, or 0 for no bound")


def _pace(opened: OpenVolume, rate: int | None) -> Pace:
    if rate is None:
        return Pace(None) if opened.native.read_only else Pace(POLITE_RATE, POLITE_SHARE)
    return Pace(rate or None)


class _Check:
    def __init__(self, opened: OpenVolume, progress: Progress | None, pace: Pace, *, restart: bool) -> None:
        self._opened, self._progress, self._pace = opened, progress, pace
        self._keeps = not opened.native.read_only
        self._notes = Notes(opened)
        self._path = opened.entry.folder / POSITION_FILE
        kept = load(self._path) if self._keeps and not restart else None
        self._resumed = kept.began_stamp if kept is not None else None
        self._began = kept.began_stamp if kept is not None else time.time_ns()
        self._position = kept.position if kept is not None else _BEGIN
        self._findings = list(kept.findings) if kept is not None else []
        self._left_out = 0
        self._done, self._total = 0, 0
        self._saved = time.monotonic()

    def run(self) -> tuple[list[FindingFacts], int | None]:
        try:
            self._opened.native.scrub(self._tell, self._position, self._reads)
        except BaseException:
            self._keep()
            raise
        if self._left_out:
            self._findings.append(FindingFacts("", f"{self._left_out} more findings are not told one by one"))
        if self._keeps:
            with suppress(OSError):
                self._path.unlink(missing_ok=True)
            with suppress(CdpError):
                self._opened.append_event("verified", began_stamp=self._began, findings=len(self._findings))
        return self._findings, self._resumed

    def _reads(self, count: int) -> None:
        self._pace.wait(count)
        if self._progress is not None:
            self._progress(min(self._done + count, self._total), self._total)
        self._done = min(self._done + count, self._total)

    def _tell(self, done: int, total: int, position: Position, found: list[dict[str, int | str | None]]) -> None:
        self._done, self._total, self._position = done, total, position
        fresh = [finding_facts(self._opened.entry.folder, finding) for finding in found]
        room = max(0, FINDINGS_MAX - len(self._findings))
        self._findings += fresh[:room]
        self._left_out += len(fresh) - len(fresh[:room])
        if self._keeps:
            self._notes.add(fresh)
            if time.monotonic() - self._saved >= KEEP_SECONDS:
                self._keep()
        if self._progress is not None:
            self._progress(done, total)

    def _keep(self) -> None:
        if self._keeps and self._position != _BEGIN:
            save(self._path, Kept(self._began, self._position, tuple(self._findings)))
            self._saved = time.monotonic()


def finding_facts(folder: Path, finding: dict[str, int | str | None]) -> FindingFacts:
    """A native finding as plain values."""

    def number(key: str) -> int | None:
        value = finding.get(key)
        return value if isinstance(value, int) else None

    live = finding.get("live")
    return FindingFacts(
        file=str(folder / str(finding.get("file") or "")),
        what=str(finding.get("what")),
        segment=number("segment"),
        lsn=number("lsn"),
        offset=number("offset"),
        length=number("length"),
        repairable=bool(finding.get("repairable")),
        until_lsn=number("until_lsn"),
        live=None if live is None else bool(live),
    )


Key = tuple[object, ...]


def damage_key(finding: FindingFacts) -> Key:
    """What makes damage the same damage: the record and the extent that are lost, wherever they lie; else the file and the sentence."""
    if finding.lsn is not None and not finding.repairable:
        return finding.lsn, finding.offset, finding.length
    return Path(finding.file).name, finding.what


def noted(events: Iterable[EventFacts]) -> set[Key]:
    """The damage that events tell of."""
    known: set[Key] = set()
    for event in events:
        if event.event == "damage":
            told = event.details
            finding = FindingFacts(str(told.get("file")), str(told.get("what")))
            lost = told.get("lsn") is not None and not told.get("repairable")
            known.add((told.get("lsn"), told.get("offset"), told.get("length")) if lost else damage_key(finding))
    return known


class Notes:
    """Damage events of one check: what no event tells of yet becomes one."""

    def __init__(self, opened: OpenVolume) -> None:
        self._opened = opened
        self._known: set[Key] | None = None
        self._written = 0

    def add(self, found: list[FindingFacts]) -> None:
        """Records what is new, unless the volume accepts no more: then the report tells of it."""
        with suppress(CdpError):
            for finding in found:
                self._add(finding)

    def _add(self, finding: FindingFacts) -> None:
        if self._known is None:
            self._known = noted(marks.events(self._opened.native.controls()))
        key = damage_key(finding)
        if key in self._known or self._written > EVENTS_MAX:
            return
        if self._written == EVENTS_MAX:
            self._opened.append_event(
                "damage", file="", what=f"more than {EVENTS_MAX} findings: `cdp verify` tells them"
            )
        else:
            told = {key: value for key, value in asdict(finding).items() if value is not None}
            self._opened.append_event("damage", **{**told, "file": Path(finding.file).name})
        self._known.add(key)
        self._written += 1


def load(path: Path) -> Kept | None:
    """The position in a file; None if there is none that can be understood: then a check begins anew."""
    try:
        return decode(path.read_bytes())
    except OSError:
        return None


def save(path: Path, kept: Kept) -> None:
    """Writes a position down. What cannot be written is only work to be done again."""
    with suppress(OSError):
        files.replace(path, encode(kept))


def encode(kept: Kept) -> bytes:
    """The content of POSITION_FILE."""
    lsn, checkpoint, run = kept.position
    told = {
        "format": _FORMAT,
        "began_stamp": kept.began_stamp,
        "lsn": lsn,
        "checkpoint": checkpoint,
        "run": run,
        "findings": [asdict(finding) for finding in kept.findings],
    }
    return json.dumps(told).encode()


def decode(content: bytes) -> Kept | None:
    """The reverse; None for anything else."""
    try:
        told: Any = json.loads(content)
        if told["format"] != _FORMAT:
            return None
        findings = tuple(FindingFacts(**finding) for finding in told["findings"])
        position = (int(told["lsn"]), int(told["checkpoint"]), int(told["run"]))
        return Kept(int(told["began_stamp"]), position, findings)
    except (ValueError, KeyError, TypeError, RecursionError):
        return None

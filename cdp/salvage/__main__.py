"""The reference reader's commands: `python -m cdp.salvage list|check|restore`.

Exit codes are those of cdp/errors.py: 0 done and nothing amiss, 2 a wish that cannot be met, 3 not found, 7 damage, 8 the
system refused.
"""

from __future__ import annotations

import argparse
import json
import os
import stat
import sys
import time
from pathlib import Path
from typing import Any

from cdp.errors import CdpError, Corrupt, Invalid
from cdp.salvage.catalog import find_volume, volume_folders
from cdp.salvage.check import checked_volume
from cdp.salvage.facts import instant_facts, reach_facts, reach_lines, volume_facts, volume_lines
from cdp.salvage.files import allow_many_files
from cdp.salvage.image import Restored, open_origin, restore
from cdp.salvage.instants import Instant, resolve
from cdp.salvage.report import DAMAGE, Report
from cdp.salvage.volume import Volume, open_volume
from cdp.salvage.when import parse_when, show_stamp

_ATTEMPTS = 10


def main(arguments: list[str]) -> int:
    """Runs one command; returns its exit code."""
    options = _parser().parse_args(_join_at(arguments))
    allow_many_files()
    try:
        code: int = options.run(options)
        return code
    except CdpError as error:
        print(f"cdp.salvage: {error}", file=sys.stderr)
        return error.exit_code


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="python -m cdp.salvage", description="Reads a cdp store from its files alone."
    )
    commands = parser.add_subparsers(required=True, metavar="COMMAND")
    for name, run, text in (
        ("list", _list, "volumes, their instants and bookmarks"),
        ("check", _check, "every checksum of every file of a volume"),
        ("restore", _restore, "a volume as it was, into a sparse file"),
    ):
        command = commands.add_parser(name, help=text, description=text)
        command.set_defaults(run=run)
        many = {"nargs": "*"} if name == "list" else {}
        command.add_argument("volume", metavar="VOLUME", help="name or id", **many)  # type: ignore[arg-type]
        command.add_argument(
            "--store", type=Path, default=_default_store(), help="default: CDP_STORE or the usual place"
        )
        command.add_argument("--json", action="store_true", help="print facts as JSON")
        if name == "restore":
            command.add_argument(
                "--at", required=True, metavar="WHEN", help="an instant, lsn:N, bookmark:NAME, latest, oldest"
            )
            command.add_argument("--to", required=True, type=Path, metavar="FILE")
            command.add_argument("--origin", type=Path, metavar="PATH", help="the disk under the volume, if it moved")
            command.add_argument("--force", action="store_true", help="replace an existing file")
            command.add_argument("--allow-damage", action="store_true", help="write zeros for what cannot be read")
    return parser


def _join_at(arguments: list[str]) -> list[str]:
    """`--at -5m` as one word: argparse would take `-5m` for an option."""
    joined: list[str] = []
    for word in arguments:
        if joined and joined[-1] == "--at":
            joined[-1] = f"--at={word}"
        else:
            joined.append(word)
    return joined


def _default_store() -> Path:
    if store := os.environ.get("CDP_STORE"):
        return Path(store)
    if os.geteuid() == 0:
        return Path("/var/lib/cdp")
    return Path(os.environ.get("XDG_DATA_HOME") or Path.home() / ".local/share") / "cdp"


def _list(options: argparse.Namespace) -> int:
    if options.volume:
        folders = [find_volume(options.store, name) for name in options.volume]
    else:
        folders = volume_folders(options.store)
    found = []
    code = 0
    for folder in folders:
        try:
            volume = open_volume(folder)
        except CdpError as error:
            found.append({"id": folder.name, "error": str(error)})
            code = error.exit_code
            continue
        found.append(volume_facts(volume))
        volume.close()
    if options.json:
        print(json.dumps({"volumes": found}))
    else:
        for facts in found:
            print("\n".join(volume_lines(facts)))
    return code


def _check(options: argparse.Namespace) -> int:
    folder = find_volume(options.store, options.volume)
    volume = checked_volume(folder)
    report, reach = volume.report, reach_facts(volume)
    if options.json:
        facts = {"volume": folder.name, "damaged": report.damaged, **reach, "findings": _json(report)}
        print(json.dumps(facts))
    else:
        for finding in report.findings:
            print(finding.line())
        count = sum(finding.severity == DAMAGE for finding in report.findings)
        print(f"volume {options.volume}: {f'{count} findings of damage' if count else 'clean'}")
        print("\n".join(f"  {line}" for line in reach_lines(reach)))
    return Corrupt.exit_code if report.damaged else 0


def _json(report: Report) -> list[dict[str, Any]]:
    return [finding.json() for finding in report.findings]


def _restore(options: argparse.Namespace) -> int:
    target = _checked_target(options.to, options.store, force=options.force)
    now = time.time_ns()
    when = parse_when(options.at, now)
    folder = find_volume(options.store, options.volume)
    believe = False  # beside a running writer a fault is believed when it is met again
    for attempt in range(_ATTEMPTS):
        volume = open_volume(folder)
        try:
            believe = believe or volume.manifest.clean or attempt == _ATTEMPTS - 1
            return _restore_from(volume, options, target, resolve(volume.history, when, now), believe=believe)
        except Corrupt:
            if believe:
                raise
            believe = volume.unchanged()
        finally:
            volume.close()
    raise AssertionError("the last attempt believes what it meets")


def _restore_from(volume: Volume, options: argparse.Namespace, target: Path, instant: Instant, *, believe: bool) -> int:
    origin = open_origin(volume, options.origin)
    try:
        done = restore(volume, instant.lsn, target, origin, allow_damage=believe and options.allow_damage)
    except Corrupt:
        if believe:
            _tell_findings(volume)
        raise
    _tell_findings(volume)
    _tell_restored(options, volume, instant, done)
    return Corrupt.exit_code if done.unreadable else 0


def _tell_findings(volume: Volume) -> None:
    for finding in volume.report.findings:
        print(finding.line(), file=sys.stderr)


def _checked_target(target: Path, store: Path, *, force: bool) -> Path:
    resolved = target.parent.resolve() / target.name
    if resolved.is_relative_to(store.resolve()):
        raise Invalid(f"{target} lies in the store, which is only looked at")
    try:
        mode = resolved.lstat().st_mode
    except OSError:
        return resolved
    if not stat.S_ISREG(mode):
        raise Invalid(f"{target} exists and is no regular file")
    if not force:
        raise Invalid(f"{target} exists; --force replaces it")
    return resolved


def _tell_restored(options: argparse.Namespace, volume: Volume, instant: Instant, done: Restored) -> None:
    if options.json:
        facts = {
            "volume": volume.description.name,
            "at": instant_facts(instant),
            "kept_point": instant.kept_point,
            "other_lsn": instant.other_lsn,
            "to": str(options.to),
            "size": done.size,
            "data_bytes": done.data,
            "origin_bytes": done.from_origin,
            "unreadable_bytes": done.unreadable,
            "findings": _json(volume.report),
        }
        print(json.dumps(facts))
        return
    if instant.other_lsn is not None:
        print(f"the clock was set back: this time also names LSN {instant.other_lsn} (say lsn:{instant.other_lsn})")
    if instant.kept_point:
        print("that time lies below the horizon; the newest point that is kept before it stands for it")
    print(f"restored {volume.description.name} at LSN {instant.lsn} ({show_stamp(instant.stamp)}) to {options.to}")
    print(f"  {done.size} bytes, {done.data} from the journal, {done.from_origin} from {done.origin or 'no origin'}")
    if done.unreadable:
        print(f"  {done.unreadable} bytes could not be read and are zeros")


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))

"""`cdp verify`: reads every byte of a volume's files."""

from __future__ import annotations

import typer

from cdp.cli.options import JsonOption, StoreOption, VolumeArgument, opened
from cdp.cli.output import print_json, progress_bar
from cdp.errors import Corrupt
from cdp.facts import FindingFacts


def verify(
    context: typer.Context, volume: VolumeArgument, store: StoreOption = None, as_json: JsonOption = False
) -> None:
    """Check a volume's journal, index and description, every byte. The exit code is 7 if anything is damaged."""
    with opened(context, store) as verbs, progress_bar(f"checking {volume}") as progress:
        findings = verbs.verify(volume, progress)
    if as_json:
        print_json({"volume": volume, "findings": findings})
    for finding in findings if not as_json else ():
        print(_sentence(finding))
    if not findings and not as_json:
        print(f"{volume}: no damage found")
    if findings:
        raise typer.Exit(Corrupt.exit_code)


def _sentence(finding: FindingFacts) -> str:
    known = {
        "segment": finding.segment,
        "lsn": finding.lsn,
        "offset": finding.offset,
        "length": finding.length,
    }
    places = [f"{name} {value}" for name, value in known.items() if value is not None]
    if finding.repairable:
        places.append("can be rebuilt")
    return f"{finding.file}: {finding.what}" + (f" ({', '.join(places)})" if places else "")

"""`cdp verify`: reads every byte of a volume's files."""

from __future__ import annotations

from typing import Annotated

import typer

from cdp.cli.options import JsonOption, StoreOption, VolumeArgument, opened
from cdp.cli.output import human_time, print_json, progress_bar, warn
from cdp.errors import Corrupt
from cdp.facts import FindingFacts
from cdp.sizes import parse_size


def verify(
    context: typer.Context,
    *,
    volume: VolumeArgument,
    rate: Annotated[
        str | None,
        typer.Option(
            metavar="RATE",
            help="Bytes a second to read at most, as 200MiB/s, or max. Else as fast as it goes, and politely in the daemon.",
            show_default=False,
        ),
    ] = None,
    restart: Annotated[
        bool, typer.Option("--restart", help="Begin anew, not where an earlier check in the daemon was ended.")
    ] = False,
    store: StoreOption = None,
    as_json: JsonOption = False,
) -> None:
    """Check a volume's journal, index and description, every byte. The exit code is 7 if anything is damaged."""
    most = parse_rate(rate) if rate is not None else None
    with opened(context, store) as verbs, progress_bar(f"checking {volume}") as progress:
        facts = verbs.verify(volume, progress, rate=most, restart=restart)
    if facts.resumed_stamp is not None:
        warn(f"this went on with the check that began at {human_time(facts.resumed_stamp)}; --restart begins anew")
    if as_json:
        print_json(facts)
    for finding in facts.findings if not as_json else ():
        print(sentence(finding))
    if not facts.findings and not as_json:
        print(f"{volume}: no damage found")
    if facts.findings:
        raise typer.Exit(Corrupt.exit_code)


def parse_rate(text: str) -> int:
    """Bytes a second in `200MiB/s` or `200MiB`; 0 for `max`. Invalid otherwise."""
    return 0 if text == "max" else parse_size(text.removesuffix("/s"))


def sentence(finding: FindingFacts) -> str:
    """What was found, where, and who sees it."""
    known = {
        "segment": finding.segment,
        "lsn": finding.lsn,
        "offset": finding.offset,
        "length": finding.length,
    }
    places = [f"{name} {value}" for name, value in known.items() if value is not None]
    if finding.lsn is not None and finding.live is not None:
        upto = "its branch's end" if finding.until_lsn is None else f"before lsn:{finding.until_lsn}"
        now = "and so does the live volume" if finding.live else "the live volume does not"
        places.append(f"instants from lsn:{finding.lsn} to {upto} show it, {now}")
    if finding.repairable:
        places.append("can be rebuilt")
    return f"{finding.file}: {finding.what}" + (f" ({', '.join(places)})" if places else "")

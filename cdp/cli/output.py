"""How facts look: tables and sentences for people, JSON for programs, progress on a terminal."""

from __future__ import annotations

import json
import sys
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any

from cdp.facts import BookmarkFacts, InstantFacts, document
from cdp.group_facts import GroupBookmarkFacts
from cdp.when import rfc3339

if TYPE_CHECKING:
    from cdp.store import Progress


def print_json(facts: Any) -> None:
    """The facts as one JSON document."""
    print(json.dumps(document(facts), indent=2))


def print_table(headings: Sequence[str], rows: Sequence[Sequence[str]], right: Sequence[int] = ()) -> None:
    """A table, as wide as it is in a pipe: a cut name would be a wrong name. `right`: the columns to set flush right."""
    if sys.stdout.isatty():
        _print_for_people(headings, rows, right)
        return
    widths = [max(len(cell) for cell in column) for column in zip(headings, *rows, strict=True)]
    for row in (headings, *rows):
        cells = (
            cell.rjust(w) if n in right else cell.ljust(w) for n, (cell, w) in enumerate(zip(row, widths, strict=True))
        )
        print("  ".join(cells).rstrip())


def _print_for_people(headings: Sequence[str], rows: Sequence[Sequence[str]], right: Sequence[int]) -> None:
    from rich import box  # noqa: PLC0415 (slow to load, and a pipe needs none of it)
    from rich.console import Console  # noqa: PLC0415
    from rich.table import Table  # noqa: PLC0415
    from rich.text import Text  # noqa: PLC0415

    table = Table(box=box.SIMPLE_HEAD, pad_edge=False, header_style="bold")
    for number, heading in enumerate(headings):
        table.add_column(heading, justify="right" if number in right else "left", overflow="fold")
    for row in rows:
        # Text, not str: a volume's path may hold what Rich takes for markup.
        table.add_row(*(Text(cell) for cell in row))
    Console(highlight=False).print(table)


def print_facts(facts: Mapping[str, str | None]) -> None:
    """Lines of `name: value`; None is left out."""
    width = max((len(name) for name, value in facts.items() if value is not None), default=0)
    for name, value in facts.items():
        if value is not None:
            print(f"{name + ':':<{width + 1}} {value}")


def human_bytes(count: int | None) -> str:
    """`1.5 GiB`: at most one decimal, exact where there is none."""
    if count is None:
        return "-"
    units = ["B", "KiB", "MiB", "GiB", "TiB", "PiB", "EiB"]
    power = max(0, (count.bit_length() - 1) // 10)
    whole, rest = divmod(count, 1 << (10 * power))
    if not rest:
        return f"{whole} {units[power]}"
    tenths = rest * 10 >> (10 * power)
    return f"{whole}.{tenths} {units[power]}"


def counted(count: int, what: str) -> str:
    """`1 write`, `2 writes`."""
    return f"{count} {what}" if count == 1 else f"{count} {what}s"


def human_time(stamp: int | None) -> str:
    """RFC 3339 with nine decimals: what is printed can be pasted as a WHEN."""
    return "-" if stamp is None else rfc3339(stamp)


def human_span(seconds: int | None) -> str:
    """`2d 3h`: the two largest units that say something; `forever` for None."""
    if seconds is None:
        return "forever"
    parts = []
    for unit, size in (("y", 365 * 86400), ("d", 86400), ("h", 3600), ("m", 60), ("s", 1)):
        count, seconds = divmod(seconds, size)
        parts += [f"{count}{unit}"] if count else []
    return " ".join(parts[:2]) or "0s"


def bookmark_terms(mark: BookmarkFacts | GroupBookmarkFacts) -> str:
    """What belongs to a bookmark besides its instant."""
    expires = "" if mark.expires_stamp is None else f"expires {human_time(mark.expires_stamp)}"
    return ", ".join(term for term in ("held" if mark.held else "", expires) if term)


def warn(sentence: str) -> None:
    """Something that people should know, beside the answer."""
    print(f"note: {sentence}", file=sys.stderr)


def warn_if_inexact(instant: InstantFacts) -> None:
    """Tells of the other instant that a time may mean, and of one that only stands for it."""
    if instant.other_lsn is not None:
        warn(f"the clock was set back: that time also means lsn:{instant.other_lsn}, in an earlier clock epoch")
    if instant.kept_point:
        warn(
            f"not every write of that time is kept: the newest instant kept before it stands for it, lsn:{instant.lsn} ({human_time(instant.stamp)})"
        )


@contextmanager
def progress_bar(label: str) -> Iterator[Progress]:
    """A progress bar on standard error if that is a terminal, else silence."""
    if not sys.stderr.isatty():
        yield lambda done, total: None
        return
    from rich.console import Console  # noqa: PLC0415
    from rich.progress import BarColumn, DownloadColumn, Progress, TextColumn, TimeRemainingColumn  # noqa: PLC0415

    columns = (TextColumn("{task.description}"), BarColumn(), DownloadColumn(binary_units=True), TimeRemainingColumn())
    with Progress(*columns, console=Console(stderr=True)) as bar:
        task = bar.add_task(label, total=None)
        yield lambda done, total: bar.update(task, completed=done, total=total)

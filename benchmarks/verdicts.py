"""Whether bars hold: medians in, a ratio and held, missed or unknown out. Pure."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, fields
from statistics import median

from benchmarks.data import Data
from benchmarks.measure import Figures
from benchmarks.rows import LIMITS, Bar, Row

Key = tuple[str, Data, str]
"""Row, data, server."""
Results = Mapping[Key, Sequence[Figures]]
"""One measurement a round."""
Limits = Mapping[str, float]


@dataclass(frozen=True, slots=True)
class Verdict:
    """`figure` is the ratio, or our own figure where the bar is about it alone; None, as `held`, where something was not measured."""

    row: str
    data: Data
    bar: str
    ours: float | None
    against: float | None
    figure: float | None
    held: bool | None


def medians(rounds: Sequence[Figures]) -> Figures:
    """Each figure's own median: they need not come from one round."""
    chosen: dict[str, float | None] = {}
    for field in fields(Figures):
        known = [value for value in (getattr(figures, field.name) for figures in rounds) if value is not None]
        chosen[field.name] = median(known) if known else None
    return Figures(**chosen)  # type: ignore[arg-type]


def figure_of(results: Results, row: str, data: Data, server: str, measure: str) -> float | None:
    rounds = results.get((row, data, server))
    value: float | None = getattr(medians(rounds), measure) if rounds else None
    return value


def verdict(row: Row, bar: Bar, results: Results, limits: Limits) -> Verdict:
    ours = figure_of(results, row.key, bar.data, bar.ours, bar.measure)
    known: list[float] = []
    for of in bar.against:
        one = (
            limits.get(of.row)
            if of.server == LIMITS
            else figure_of(results, of.row or row.key, bar.data, of.server, bar.measure)
        )
        if one is not None:
            known.append(one)
    # The best of some peers is not the best of all: a peer that was left out leaves the bar open. A limit may not exist on a machine.
    complete = len(known) == len(bar.against) or (known and bar.against[0].server == LIMITS)
    against = (max(known) if bar.kind == "at least" else min(known)) if bar.against and complete else None
    figure = None if ours is None else ours if not bar.against else None if not against else ours / against
    held = None if figure is None else figure >= bar.limit if bar.kind == "at least" else figure <= bar.limit
    return Verdict(row.key, bar.data, str(bar), ours, against, figure, held)


def verdicts(rows: Sequence[Row], results: Results, limits: Limits) -> Iterator[Verdict]:
    """One for each bar of which our side was measured."""
    for row in rows:
        for bar in row.bars:
            if (row.key, bar.data, bar.ours) in results:
                yield verdict(row, bar, results, limits)

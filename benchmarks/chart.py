"""A picture of a run: how our rate stands to that of nbdkit file, a bar a row. SVG, readable on light and on dark ground."""

from __future__ import annotations

from collections.abc import Sequence
from html import escape

from benchmarks.rows import FILE, OURS, Row
from benchmarks.verdicts import Results, medians

WIDTH, LABEL, RIGHT, LINE, BAR, TOP = 860, 350, 70, 26, 16, 52
RATIO_MAX = 4.0
"""Bars end here; what is larger says so by its number."""
BETTER, WORSE, INK = "#2f855a", "#c05621", "#24292f"


def ratios(rows: Sequence[Row], results: Results) -> list[tuple[str, float]]:
    """Title and ratio of every row that both ran, with fio's data."""
    found: list[tuple[str, float]] = []
    for row in rows:
        ours, peer = results.get((row.key, "half", OURS)), results.get((row.key, "half", FILE))
        if ours and peer:
            found.append((row.title, medians(ours).iops / medians(peer).iops))
    return found


def svg(bars: Sequence[tuple[str, float]], note: str) -> str:
    scale = (WIDTH - LABEL - RIGHT) / RATIO_MAX
    height = TOP + LINE * len(bars) + 34
    parts = [
        f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {WIDTH} {height}" width="{WIDTH}" height="{height}" '
        'font-family="sans-serif" font-size="13">',
        f'<rect width="{WIDTH}" height="{height}" fill="#ffffff"/>',
        f'<text x="12" y="22" font-size="15" font-weight="bold" fill="{INK}">Rate of cdp by that of nbdkit file (longer is better)</text>',
    ]
    for mark in range(int(RATIO_MAX) + 1):
        x = LABEL + mark * scale
        shade = "#57606a" if mark == 1 else "#d0d7de"
        parts.append(f'<line x1="{x:.1f}" y1="{TOP - 4}" x2="{x:.1f}" y2="{height - 32}" stroke="{shade}"/>')
        parts.append(f'<text x="{x:.1f}" y="{TOP - 10}" text-anchor="middle" fill="#57606a">{mark}</text>')
    for at, (title, ratio) in enumerate(bars):
        y = TOP + at * LINE
        length = min(ratio, RATIO_MAX) * scale
        colour = BETTER if ratio >= 1 else WORSE
        parts.append(f'<text x="{LABEL - 8}" y="{y + BAR - 3}" text-anchor="end" fill="{INK}">{escape(title)}</text>')
        parts.append(f'<rect x="{LABEL}" y="{y}" width="{length:.1f}" height="{BAR}" fill="{colour}"/>')
        parts.append(f'<text x="{LABEL + length + 5:.1f}" y="{y + BAR - 3}" fill="{INK}">{ratio:.2f}</text>')
    parts.append(f'<text x="12" y="{height - 10}" fill="#57606a">{escape(note)}</text>')
    return "\n".join((*parts, "</svg>")) + "\n"

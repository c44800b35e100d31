"""The figures as metric families: names, units and help texts, in one place. Pure.

Invariants:
- Names and labels are a contract: they are added to, not renamed. Units are bytes and seconds; a name that ends in `timestamp_seconds` is Unix time.
- A span without an end (history for ever, never full) is +Inf, so that `<` in a rule means what it says.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Iterator, Sequence

from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily, HistogramMetricFamily, Metric
from prometheus_client.registry import Collector

from cdp import __version__
from cdp.metrics.figures import Account, Figures, OpenFigures, VolumeFigures

CONDITIONS = ("ok", "slowing", "stalled", "full")
Value = int | float | bool | None

_VOLUME: tuple[tuple[str, str, Callable[[VolumeFigures], Value]], ...] = (
    ("cdp_volume_size_bytes", "Size of the volume.", lambda it: it.size),
    (
        "cdp_volume_disk_bytes",
        "Disk space of all its files, those that clones share included.",
        lambda it: it.disk_bytes,
    ),
    ("cdp_volume_open", "1 if the daemon has it open: it was used since the start.", lambda it: it.open is not None),
    (
        "cdp_volume_failed",
        "1 if it is damaged, or could not be opened when it was last asked for.",
        lambda it: it.failed,
    ),
    ("cdp_volume_attached", "Block devices that it, or an instant of it, is attached as.", lambda it: it.attached),
    ("cdp_volume_lost_devices", "Those of them behind which nothing answers.", lambda it: it.lost_devices),
)

_OPEN: tuple[tuple[str, str, Callable[[OpenFigures], Value]], ...] = (
    ("cdp_poisoned", "1 after a failed sync: writes are refused until the volume is opened anew.", lambda it: bool(it.status["poisoned"])),
    ("cdp_faults", "Damage and anomalies that opening and reading met.", lambda it: it.faults),
    ("cdp_ring_bytes", "Bytes of admitted writes that wait to be appended.", lambda it: it.status["ring_bytes"]),
    ("cdp_ring_bytes_limit", "Bytes after which admission waits.", lambda it: it.status["ring_bytes_max"]),
    ("cdp_ring_requests", "Admitted requests that wait to be appended.", lambda it: it.status["ring_requests"]),
    ("cdp_ring_requests_limit", "Requests after which admission waits.", lambda it: it.status["ring_requests_max"]),
    ("cdp_latest_lsn", "Number of the newest record.", lambda it: it.status["latest_lsn"]),
    ("cdp_durable_lsn", "Number of the newest record known to survive power loss.", lambda it: it.status["durable_lsn"]),
    ("cdp_latest_instant_timestamp_seconds", "Time of the newest record.", lambda it: it.status["latest_stamp"] / 1e9),
    ("cdp_oldest_instant_timestamp_seconds", "Time of the oldest instant that can be reached.", lambda it: it.oldest_stamp / 1e9),
    ("cdp_horizon_timestamp_seconds", "From here on every write can be reached.", lambda it: it.horizon_stamp / 1e9),
    ("cdp_promised_history_seconds", "How far back history shall reach, from the newest record.", lambda it: _span(it.promised_seconds)),
    ("cdp_reached_history_seconds", "How far back it reaches.", lambda it: it.reached_seconds),
    ("cdp_history_shortened", "1 while history was given up for space.", lambda it: it.shortened),
    ("cdp_minimum_broken", "1 while less than the guaranteed minimum is kept.", lambda it: it.minimum_broken),
    ("cdp_used_bytes", "Disk space that the volume is charged.", lambda it: it.space.used_bytes),
    ("cdp_allowed_bytes", "Its budget, or its share of the store's.", lambda it: it.space.allowed_bytes),
    ("cdp_soft_limit_bytes", "Above this writes are slowed down.", lambda it: it.space.soft_bytes),
    ("cdp_hard_limit_bytes", "Here writes wait or fail.", lambda it: it.space.hard_bytes),
    ("cdp_shared_bytes", "In files that clones have too.", lambda it: it.space.shared_bytes),
    ("cdp_disk_free_bytes", "Free on the file system of the store.", lambda it: it.space.disk_free_bytes),
    ("cdp_until_full_seconds", "Until there is no room, at the pace of the last hour.", lambda it: _span(it.space.seconds_until_full)),
    ("cdp_compaction_debt_bytes", "What compaction could free as things are, by its last look.", lambda it: it.space.dead_bytes),
    ("cdp_write_amplification", "Bytes written to files by bytes of clients' writes as stored, since the volume was opened.", lambda it: it.space.write_amplification),
    ("cdp_space_amplification", "Bytes used by those that the kept instants need.", lambda it: it.space.space_amplification),
    ("cdp_bookmarks", "Bookmarks.", lambda it: it.bookmarks),
    ("cdp_pins", "Open views that hold an instant.", lambda it: it.pins),
)  # fmt: skip

_WRITTEN = (("foreground", "foreground_bytes"), ("compaction", "compaction_bytes"), ("index", "index_written_bytes"))


class DaemonCollector(Collector):
    """Gathers and translates at each scrape."""

    def __init__(self, gather: Callable[[], Figures]) -> None:
        self._gather = gather

    def collect(self) -> Iterator[Metric]:
        return families(self._gather())


def families(figures: Figures) -> Iterator[Metric]:
    """Every family, in a fixed order."""
    yield from _daemon(figures)
    for name, text, value in _VOLUME:
        yield _gauge(name, text, ((it, value(it)) for it in figures.volumes))
    info = GaugeMetricFamily("cdp_volume_info", "Which ID a volume's name stands for.", labels=["volume", "id"])
    for volume in figures.volumes:
        info.add_metric([volume.name, volume.id], 1)
    yield info
    opened = [(it, it.open) for it in figures.volumes if it.open is not None]
    for name, text, of in _OPEN:
        yield _gauge(name, text, ((volume, of(it)) for volume, it in opened))
    yield _condition(opened)
    yield from _written(opened)
    yield from _requests(figures)


def _span(seconds: float | None) -> float:
    return math.inf if seconds is None else seconds


def _gauge(name: str, text: str, values: Iterable[tuple[VolumeFigures, Value]]) -> Metric:
    family = GaugeMetricFamily(name, text, labels=["volume"])
    for volume, value in values:
        if value is not None:
            family.add_metric([volume.name], value)
    return family


def _daemon(figures: Figures) -> Iterator[Metric]:
    totals = figures.totals
    build = GaugeMetricFamily("cdp_build_info", "The version that runs.", labels=["version"])
    build.add_metric([__version__], 1)
    yield build
    yield GaugeMetricFamily("cdp_start_timestamp_seconds", "When the daemon started.", figures.started_stamp / 1e9)
    yield GaugeMetricFamily("cdp_sessions", "Connections in transmission.", totals["live"])
    yield CounterMetricFamily("cdp_sessions", "Connections that got as far as transmission.", totals["sessions"])
    yield GaugeMetricFamily(
        "cdp_payload_memory_bytes", "Memory that payloads and replies hold.", totals["memory_bytes"]
    )
    yield GaugeMetricFamily(
        "cdp_store_disk_bytes", "Disk space of all volumes; a shared file counts once.", figures.store_bytes
    )
    if figures.store_budget is not None:
        yield GaugeMetricFamily("cdp_store_budget_bytes", "What the volumes may take together.", figures.store_budget)


def _condition(opened: Sequence[tuple[VolumeFigures, OpenFigures]]) -> Metric:
    family = GaugeMetricFamily(
        "cdp_condition",
        "1 for how it stands with room: slowing, writes wait, writes fail.",
        labels=["volume", "condition"],
    )
    for volume, it in opened:
        for condition in CONDITIONS:
            family.add_metric([volume.name, condition], it.condition == condition)
    return family


def _written(opened: Sequence[tuple[VolumeFigures, OpenFigures]]) -> Iterator[Metric]:
    written = CounterMetricFamily(
        "cdp_written_bytes",
        "Written to files since the volume was opened: the journal, compaction, the index.",
        labels=["volume", "part"],
    )
    delayed = CounterMetricFamily(
        "cdp_write_delay_seconds", "Time that writes were delayed for want of room.", labels=["volume"]
    )
    for volume, it in opened:
        for part, key in _WRITTEN:
            written.add_metric([volume.name, part], it.told[key])
        delayed.add_metric([volume.name], it.told["delayed_ns"] / 1e9)
    yield written
    yield delayed


def _requests(figures: Figures) -> Iterator[Metric]:
    labels = ["volume", "export"]
    sessions = GaugeMetricFamily(
        "cdp_volume_sessions", "Connections in transmission, by kind of export.", labels=labels
    )
    errors = CounterMetricFamily("cdp_request_errors", "Requests that were answered with an error.", labels=labels)
    requests = CounterMetricFamily("cdp_requests", "Requests of clients.", labels=[*labels, "command"])
    bytes_ = CounterMetricFamily(
        "cdp_request_bytes", "Bytes of the volume that they were about.", labels=[*labels, "command"]
    )
    durations = HistogramMetricFamily(
        "cdp_request_duration_seconds",
        "From the last byte of a request to the handing over of its reply to the socket.",
        labels=[*labels, "command"],
    )
    bounds = [repr(bound / 1e9) for bound in figures.latency_bounds]
    for volume, export, account in _accounts(figures):
        where = [volume.name, export]
        sessions.add_metric(where, account["sessions"])
        errors.add_metric(where, account["errors"])
        for command, (count, length, nanoseconds, buckets) in account["commands"].items():
            requests.add_metric([*where, command], count)
            bytes_.add_metric([*where, command], length)
            # Two dozen series each: only for commands that were used.
            if count:
                durations.add_metric([*where, command], _cumulative(bounds, buckets), nanoseconds / 1e9)
    yield from (sessions, errors, requests, bytes_, durations)


def _accounts(figures: Figures) -> Iterator[tuple[VolumeFigures, str, Account]]:
    return ((volume, export, account) for volume in figures.volumes for export, account in volume.accounts.items())


def _cumulative(bounds: Sequence[str], buckets: Sequence[int]) -> list[tuple[str, float]]:
    told, below = [], 0
    for bound, count in zip([*bounds, "+Inf"], buckets, strict=True):
        below += count
        told.append((bound, float(below)))
    return told

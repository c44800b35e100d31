"""The metrics as a scraper sees them: read by Prometheus's own parser, over both sockets, and true to what clients did."""

from __future__ import annotations

import math
import random
import shutil
import tempfile
from collections.abc import Iterator
from pathlib import Path

import httpx
import nbd
import pytest
from prometheus_client.parser import text_string_to_metric_families
from prometheus_client.samples import Sample

from tests.rig.daemon import Daemon, free_port

MIB = 1 << 20


class Scrape:
    """One scrape; values by the name of the sample and some of its labels."""

    def __init__(self, text: str) -> None:
        self.families = {family.name: family for family in text_string_to_metric_families(text)}
        self.samples: list[Sample] = [sample for family in self.families.values() for sample in family.samples]

    def of(self, name: str, **labels: str) -> dict[tuple[str, ...], float]:
        """The values of a sample's name, by the labels that were not asked for."""
        return {
            tuple(value for label, value in sample.labels.items() if label not in labels): sample.value
            for sample in self.samples
            if sample.name == name and labels.items() <= sample.labels.items()
        }

    def one(self, name: str, **labels: str) -> float:
        values = list(self.of(name, **labels).values())
        assert len(values) == 1, (name, labels, values)
        return values[0]


@pytest.fixture(scope="module")
def port() -> int:
    return free_port()


@pytest.fixture(scope="module")
def served(port: int) -> Iterator[Daemon]:
    folder = Path(tempfile.mkdtemp(prefix="cdp-"))
    try:
        (folder / "store").mkdir()
        with Daemon(folder / "store", options=("--metrics", f"tcp:127.0.0.1:{port}")) as daemon:
            yield daemon
    finally:
        shutil.rmtree(folder)


def scraped(daemon: Daemon) -> Scrape:
    """By the control socket."""
    with httpx.Client(transport=httpx.HTTPTransport(uds=str(daemon.store / "control.sock"))) as client:
        answer = client.get("http://cdp/metrics")
    assert answer.status_code == 200
    assert answer.headers["content-type"].startswith("text/plain")
    return Scrape(answer.text)


def connected(daemon: Daemon, export: str, when: str | None = None) -> nbd.NBD:
    client = nbd.NBD()
    client.connect_uri(daemon.uri(export, when))
    return client


def test_requests_are_counted_and_timed(served: Daemon) -> None:
    served.cdp("create", "busy", "--size", "8MiB")
    client = connected(served, "busy")
    for at in range(5):
        client.pwrite(bytes([at + 1]) * 4096, at * 4096)
    client.pwrite(b"x" * MIB, MIB)
    client.pread(8192, 0)
    client.trim(4096, 0)
    client.zero(8192, 0)
    client.flush()
    client.shutdown()
    old = connected(served, "busy", "latest")
    old.pread(512, 0)
    told = scraped(served)
    assert told.one("cdp_volume_sessions", volume="busy", export="instant") == 1
    old.shutdown()

    requests = told.of("cdp_requests_total", volume="busy", export="live")
    assert requests[("write",)] == 6
    assert (requests[("read",)], requests[("trim",)], requests[("write_zeroes",)], requests[("flush",)]) == (1, 1, 1, 1)
    lengths = told.of("cdp_request_bytes_total", volume="busy", export="live")
    assert (lengths[("write",)], lengths[("read",)], lengths[("trim",)]) == (MIB + 5 * 4096, 8192, 4096)
    for command, count in requests.items():
        if count:
            labels = {"volume": "busy", "export": "live", "command": command[0]}
            buckets = [
                (float(sample.labels["le"]), sample.value)
                for sample in told.samples
                if sample.name == "cdp_request_duration_seconds_bucket" and labels.items() <= sample.labels.items()
            ]
            assert buckets == sorted(buckets), "cumulative, in the order of their bounds"
            assert buckets[-1] == (math.inf, count)
            assert told.one("cdp_request_duration_seconds_count", **labels) == count
            assert told.one("cdp_request_duration_seconds_sum", **labels) > 0


def test_counts_stay_when_sessions_end_and_names_change(served: Daemon) -> None:
    served.cdp("create", "stays", "--size", "1MiB")
    for _ in range(2):
        client = connected(served, "stays")
        client.pwrite(b"y" * 512, 0)
        client.shutdown()
    served.cdp("rename", "stays", "renamed")
    client = connected(served, "renamed")
    client.pwrite(b"y" * 512, 0)
    client.flush()
    told = scraped(served)
    client.shutdown()
    assert not told.of("cdp_requests_total", volume="stays")
    assert told.one("cdp_requests_total", volume="renamed", export="live", command="write") >= 2


def test_space_history_and_state_of_an_open_volume(served: Daemon) -> None:
    served.cdp("create", "kept", "--size", "8MiB")
    served.cdp("retention", "kept", "--every-write", "1h", "--minutes", "0", "--hours", "0", "--days", "0")
    client = connected(served, "kept")
    client.pwrite(random.Random(1).randbytes(MIB), 0)
    client.flush()
    told = scraped(served)
    facts = served.cdp("show", "kept")
    client.shutdown()
    assert told.one("cdp_promised_history_seconds", volume="kept") == facts["retention"]["promised_seconds"] == 3600
    assert told.one("cdp_oldest_instant_timestamp_seconds", volume="kept") == facts["oldest"]["stamp"] / 1e9
    assert told.one("cdp_used_bytes", volume="kept") > MIB
    assert told.one("cdp_volume_disk_bytes", volume="kept") > MIB
    assert told.one("cdp_write_amplification", volume="kept") >= 1
    assert told.one("cdp_written_bytes_total", volume="kept", part="foreground") >= MIB
    assert told.one("cdp_latest_lsn", volume="kept") == told.one("cdp_durable_lsn", volume="kept")
    assert 0 <= told.one("cdp_ring_bytes", volume="kept") <= told.one("cdp_ring_bytes_limit", volume="kept")
    assert told.of("cdp_condition", volume="kept")[("ok",)] == 1
    assert sum(told.of("cdp_condition", volume="kept").values()) == 1
    for name in ("cdp_poisoned", "cdp_history_shortened", "cdp_minimum_broken", "cdp_faults", "cdp_volume_failed"):
        assert told.one(name, volume="kept") == 0
    assert told.one("cdp_volume_open", volume="kept") == 1


def test_a_closed_volume_is_not_opened_and_a_damaged_one_is_told(served: Daemon) -> None:
    served.cdp("create", "rests", "--size", "1MiB")
    made = served.cdp("create", "broken", "--size", "1MiB")
    for manifest in (served.store / "volumes" / made["id"]).glob("manifest.*"):
        manifest.write_bytes(b"\0" * 4096)
    before = scraped(served)
    assert before.one("cdp_volume_failed", volume="broken") == 0, "nobody asked for it yet"
    with pytest.raises(nbd.Error):
        connected(served, "broken")
    told = scraped(served)
    assert told.one("cdp_volume_failed", volume="broken") == 1
    assert told.one("cdp_volume_open", volume="rests") == 0
    assert told.one("cdp_volume_size_bytes", volume="rests") == MIB
    assert not told.of("cdp_used_bytes", volume="rests")
    assert told.one("cdp_volume_info", volume="rests") == 1
    served.cdp("delete", "broken", "--now")


def test_tcp_has_the_same_page_and_nothing_else(served: Daemon, port: int) -> None:
    with httpx.Client(base_url=f"http://127.0.0.1:{port}") as client:
        over_tcp = Scrape(client.get("/metrics").text)
        assert {name for name in over_tcp.families if name.startswith("cdp_")} == {
            name for name in scraped(served).families if name.startswith("cdp_")
        }
        assert over_tcp.one("process_open_fds") > 0
        for path in ("/v1/volumes", "/v1/health", "/openapi.json", "/docs"):
            assert client.get(path).status_code == 404
        assert client.post("/v1/volumes", json={"name": "x", "size": 512}).status_code == 404

"""`python -m benchmarks.tls`: what TLS costs, here and in `nbdkit file`, over loopback TCP.

Four servers take turns in every round: each of the two without and with TLS, with the same certificates. Data does not compress. The client is
`load` (libnbd with GnuTLS) on the same cores: with TLS it works about as hard as the server.
"""

from __future__ import annotations

import argparse
import statistics
import tempfile
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from pathlib import Path

from benchmarks.client import run_load
from benchmarks.data import pool
from benchmarks.procfs import cpu_seconds
from benchmarks.programs import BUILT
from benchmarks.servers import Nbdkit
from benchmarks.workloads import FILL, Workload
from tests.rig.certificates import Authority
from tests.rig.daemon import Daemon, free_port

ROOT = Path(__file__).parents[1]
WORKLOADS = (
    Workload("128k write QD16", "write", 131072, 16),
    Workload("128k read QD16", "read", 131072, 16),
    Workload("4k randwrite QD32", "randwrite", 4096, 32),
    Workload("4k randread QD32", "randread", 4096, 32),
    Workload("4k randread QD1", "randread", 4096, 1),
)


@dataclass(frozen=True, slots=True)
class Place:
    """A running server."""

    name: str
    uri: str
    pid: int


@dataclass(frozen=True, slots=True)
class Seen:
    """Rates of the client, CPU time of the server."""

    mib_per_second: float
    iops: float
    cpu_us: float


class NbdkitTcp(Nbdkit):
    """`nbdkit file` on loopback TCP; `folder` has a certificate of its own where it is to do TLS."""

    def __init__(self, folder: Path, size_bytes: int, credentials: Path | None) -> None:
        super().__init__(folder, size_bytes)
        self.port = free_port()
        self._credentials = credentials

    def nbdkit(self) -> list[str | Path]:
        listen: list[str | Path] = ["nbdkit", "--ipaddr=127.0.0.1", f"--port={self.port}", "--pidfile", self._pid_file]
        tls: list[str | Path] = ["--tls=require", f"--tls-certificates={self._credentials}", "--tls-verify-peer"]
        return [*listen, *(tls if self._credentials else [])]


@contextmanager
def cdp_server(folder: Path, size_bytes: int, authority: Authority | None, client: Path) -> Iterator[Place]:
    options: list[str] = []
    if authority is not None:
        certificate, key = authority.server()
        options = [
            "--tls=require",
            f"--tls-cert={certificate}",
            f"--tls-key={key}",
            f"--tls-client-ca={authority.path}",
        ]
    (folder / "store").mkdir(parents=True)
    with Daemon(folder / "store", options=options) as daemon:
        daemon.cdp("create", "bench", "--size", str(size_bytes))
        yield Place(_named("cdp", authority), _uri(daemon.port, authority, client), daemon.pid)


@contextmanager
def nbdkit_server(folder: Path, size_bytes: int, authority: Authority | None, client: Path) -> Iterator[Place]:
    folder.mkdir()
    if authority is not None:
        certificate, key = authority.server()
        (folder / "server-cert.pem").write_bytes(certificate.read_bytes())
        (folder / "server-key.pem").write_bytes(key.read_bytes())
        (folder / "ca-cert.pem").write_bytes(authority.path.read_bytes())
    server = NbdkitTcp(folder, size_bytes, folder if authority else None)
    server.start()
    try:
        yield Place(_named("nbdkit file", authority), _uri(server.port, authority, client), server.pid)
    finally:
        server.stop()


def _named(server: str, authority: Authority | None) -> str:
    return f"{server}, TLS" if authority else server


def _uri(port: int, authority: Authority | None, client: Path) -> str:
    return f"nbds://127.0.0.1:{port}/bench?tls-certificates={client}" if authority else f"nbd://127.0.0.1:{port}/bench"


def measure(place: Place, workload: Workload, data: Path, size_bytes: int, seconds: float) -> Seen:
    before = cpu_seconds(place.pid)
    figures = run_load(workload, data, place.uri, size_bytes, seconds)
    used = cpu_seconds(place.pid) - before
    return Seen(figures.bytes_per_second / (1 << 20), figures.iops, used / figures.requests * 1e6)


def run(folder: Path, size_bytes: int, rounds: int, seconds: float) -> dict[tuple[str, str], list[Seen]]:
    """Figures by (workload, server)."""
    data = pool("random", BUILT)
    authority = Authority(folder / "authority")
    client = authority.client("bench")
    seen: dict[tuple[str, str], list[Seen]] = {}
    with ExitStack() as stack:
        places = [
            stack.enter_context(start(folder / f"{name}-{secure}", size_bytes, authority if secure else None, client))
            for name, start in (("cdp", cdp_server), ("nbdkit", nbdkit_server))
            for secure in (False, True)
        ]
        for place in places:
            run_load(FILL, data, place.uri, size_bytes, seconds)
        for _ in range(rounds):
            for workload in WORKLOADS:
                for place in places:
                    figures = measure(place, workload, data, size_bytes, seconds)
                    seen.setdefault((workload.name, place.name), []).append(figures)
    return seen


def table(seen: dict[tuple[str, str], list[Seen]]) -> str:
    lines = ["| workload | server | MiB/s | IOPS | server CPU us/request |", "|---|---|--:|--:|--:|"]
    for (workload, server), rounds in seen.items():
        rate = statistics.median(one.mib_per_second for one in rounds)
        iops = statistics.median(one.iops for one in rounds)
        cpu = statistics.median(one.cpu_us for one in rounds)
        lines.append(f"| {workload} | {server} | {rate:,.0f} | {iops:,.0f} | {cpu:.1f} |")
    return "\n".join(lines)


def main() -> None:
    parser = argparse.ArgumentParser(prog="python -m benchmarks.tls", description=__doc__)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--seconds", type=float, default=2.0)
    parser.add_argument("--size-mib", type=int, default=512)
    parser.add_argument("--folder", type=Path, default=ROOT / ".cache", help="on the disk to measure")
    chosen = parser.parse_args()
    chosen.folder.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(prefix="tls-", dir=chosen.folder) as scratch:
        print(table(run(Path(scratch), chosen.size_mib << 20, chosen.rounds, chosen.seconds)))


if __name__ == "__main__":
    main()

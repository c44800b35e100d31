"""libnbd 1.22: extended headers, requests above 4 GiB, and BLOCK_STATUS that names its contexts in a payload.

bookworm's 1.14 knows none of this: `make test-libnbd` builds the newer one and runs these. It runs in a process
of its own, since one process holds one libnbd.
"""

from __future__ import annotations

import json
import sys
from typing import Any

import pytest

from tests.rig.cdp import ROOT, environment
from tests.rig.daemon import Daemon, Transport
from tests.rig.process import run

LIBNBD = ROOT / ".cache" / "libnbd" / "python"

pytestmark = pytest.mark.newer_libnbd

PRELUDE = """
import json, nbd
h = nbd.NBD()
h.add_meta_context("base:allocation")
h.set_export_name({export!r})
{connect}
def extents(status, count, offset, *contexts):
    found = []
    def note(context, at, entries, error):
        found.extend((context, at, length, flags) for length, flags in entries)
        return 0
    status(count, offset, *contexts, note)
    return found
"""


def client(served: Daemon, export: str, script: str, transport: Transport = "unix") -> Any:
    """Runs a script with the connected handle `h`; its last line prints JSON."""
    # The build is without libxml2, and so without URIs.
    connect = (
        f"h.connect_unix({str(served.socket)!r})"
        if transport == "unix"
        else f"h.connect_tcp('127.0.0.1', '{served.port}')"
    )
    env = environment() | {"PYTHONPATH": str(LIBNBD)}
    whole = PRELUDE.format(export=export, connect=connect) + script
    return json.loads(run(sys.executable, "-c", whole, env=env).stdout)


def test_extended_headers_and_payloads_are_offered(served: Daemon, disk: str, transport: Transport) -> None:
    script = "print(json.dumps([h.get_extended_headers_negotiated(), h.can_block_status_payload()]))"
    assert client(served, disk, script, transport) == [True, True]


def test_block_status_of_chosen_contexts(served: Daemon, disk: str) -> None:
    script = """
h.pwrite(b"x" * 65536, 1 << 20)
found = extents(h.block_status_filter, 2 << 20, 0, ["base:allocation"])
print(json.dumps(found))
"""
    context, mib = "base:allocation", 1 << 20
    assert client(served, disk, script) == [
        [context, 0, mib, 3],
        [context, 0, 65536, 0],
        [context, 0, mib - 65536, 3],
    ]


def test_one_request_covers_more_than_four_gibibytes(served: Daemon) -> None:
    served.cdp("create", "wide", "--size", "12GiB")
    script = """
G = 1 << 30
h.pwrite(b"y" * 4096, 9 * G)
before = extents(h.block_status_64, 12 * G, 0)
h.zero(10 * G, 0)
after = extents(h.block_status_64, 12 * G, 0)
h.trim(11 * G, G)
print(json.dumps([before, after, h.pread(4096, 9 * G) == bytes(4096)]))
"""
    before, after, zeroed = client(served, "wide", script)
    gib = 1 << 30
    assert [extent[2] for extent in before] == [9 * gib, 4096, 3 * gib - 4096]
    assert all(extent[3] & 2 for extent in after)
    assert zeroed

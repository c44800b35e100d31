"""QEMU 10 negotiates extended headers, and everything works with them.

It sends WRITE without PAYLOAD_LEN, against the specification: the payload must be taken all the same.
"""

from __future__ import annotations

from pathlib import Path

from tests.rig.clients import Qemu
from tests.rig.content import DISK_BYTES, content_file
from tests.rig.daemon import Daemon, Transport
from tests.rig.process import run


def negotiation(qemu: Qemu, uri: str) -> str:
    """What QEMU's own trace says about the options and replies of a connection."""
    done = run(
        qemu.folder / "qemu-io", "--trace", "nbd_*", "-f", "raw", "-c", "write -P 1 0 64k", "-c", "read -P 1 0 64k", uri
    )
    return done.stdout + done.stderr


def test_they_are_negotiated(served: Daemon, disk: str, qemu10: Qemu, transport: Transport) -> None:
    trace = negotiation(qemu10, served.uri(disk, transport=transport))
    assert "Received option reply 11 (extended headers), type 1 (ack)" in trace


def test_convert_in_and_out(served: Daemon, disk: str, qemu10: Qemu, transport: Transport, tmp_path: Path) -> None:
    source = content_file(tmp_path / "source", DISK_BYTES, disk)
    uri = served.uri(disk, transport=transport)
    qemu10.convert(source, uri, "-n")
    qemu10.img("compare", "-f", "raw", "-F", "raw", source, uri)
    qemu10.convert(uri, tmp_path / "back")
    assert (tmp_path / "back").read_bytes() == source.read_bytes()


def test_small_commands(served: Daemon, disk: str, qemu10: Qemu) -> None:
    script = [
        "write -P 1 1 100000",
        "read -P 1 1 100000",
        "write -f -P 2 4k 4k",
        "discard 64k 4k",
        "read -P 0 64k 4k",
        "write -z 0 4M",
        "read -P 0 0 4M",
        "flush",
    ]
    qemu10.io(served.uri(disk), script)


def test_one_request_zeroes_more_than_four_gibibytes(served: Daemon, qemu10: Qemu) -> None:
    served.cdp("create", "large", "--size", "6GiB")
    uri = served.uri("large")
    qemu10.io(uri, ["write -P 7 5G 64k", "read -P 7 5G 64k"])
    trace = qemu10.io(uri, ["write -z 0 1G", "discard 1G 1G", "write -z -u 4G 1536M", "read -P 0 5G 64k"])
    assert "1.500 GiB" in trace or "1.5 GiB" in trace
